"""The demo: one boto3 client, a whole cluster, and who served what while it happens."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .addresses import NodeAddress
from .boto import install_alternator_transport
from .counters import Tally
from .errors import AlternatorError

if TYPE_CHECKING:
    from .nodes import AlternatorNodes
    from .testing import LocalCluster, LocalNode

__all__ = ["RULE", "DemoError", "Display", "Endpoint", "LiveDisplay", "run_demo"]

FAKE_DOMAIN = "dog.scylladb.com"
RULE = (
    "every call succeeded; each item was read as it was written; in each step with a number of "
    "calls, those of every node that was up were within 2 (or 2 %) of an even share; a node that "
    "had stopped got no call, and after its return it served again"
)

# How far a node's share may be from even: this many calls, or this part of the share.
SLACK_CALLS = 2
SLACK_PART = 0.02
# A node that was gone for long is probed every 30 s; what takes longer than this hangs.
STEP_SECONDS = 40.0
JOIN_SECONDS = 5.0
# More failed calls than this in one step tell nothing new.
MOST_FAILURES = 10

BAR_WIDTH = 16


class DemoError(AlternatorError):
    """The demo cannot go on; the text says why."""


class Count(NamedTuple):
    """What one node has served (DynamoDB calls, and connections for them), and how it is."""

    calls: int = 0
    connections: int = 0
    state: str = "up"


Counts = Mapping[str, Count]


class Endpoint(NamedTuple):
    """A node of the cluster, who asks (None is not signed), and settings of `AlternatorNodes`."""

    scheme: str
    host: str
    port: int
    key: str | None
    secret: str | None
    settings: Mapping[str, Any]


@dataclass
class Step:
    """A part of the demo in which calls flow, and what has come of them."""

    title: str
    goal: int | None
    before: Counts
    after: Counts | None = None  # as long as calls flow
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    done: Tally = field(default_factory=Tally)
    failures: list[str] = field(default_factory=list)
    over: bool = False

    def served(self, now: Counts | None = None) -> dict[str, int]:
        """How many calls each node served, up to the end or up to now."""
        after = now or self.after or self.before
        return {name: n.calls - self.before.get(name, Count()).calls for name, n in after.items()}


class Check(NamedTuple):
    """One part of the rule: whether it held, and what was seen."""

    held: bool
    text: str


@dataclass
class Run:
    """A demo under way. The cluster is there where it is on this machine."""

    nodes: AlternatorNodes
    cluster: LocalCluster | None
    threads: int
    display: Display
    steps: list[Step] = field(default_factory=list)

    def counts(self) -> Counts:
        """What the nodes themselves have counted, or the client where they cannot be asked."""
        stats = {str(node): of for node, of in self.nodes.stats().items()}
        if self.cluster is None:
            return {name: Count(of.calls, of.connections, of.state) for name, of in stats.items()}
        served = {_name(node): node.report for node in self.cluster.nodes}
        return {n: Count(r.calls, r.connections, stats[n].state) for n, r in served.items()}


def run_demo(
    display: Display,
    *,
    endpoint: Endpoint | None = None,
    nodes: int = 3,
    items: int = 300,
    threads: int = 4,
    tls: bool = False,
) -> bool:
    """Write and read items through one patched boto3 client, and show which node served what.

    Without an endpoint, a cluster starts on this machine, and one of its nodes is stopped and
    started while calls flow. Returns whether `RULE` held.

    Raises:
        AlternatorError: the cluster cannot be reached, or does not answer any more.
        ImportError: the extra ``testing`` is not installed.
    """
    with contextlib.ExitStack() as stack:
        cluster = None
        if endpoint is None:
            from .testing import LocalCluster

            cluster = stack.enter_context(LocalCluster(nodes=nodes, tls=tls))
            many, where = _number(nodes, "node"), (cluster.scheme, cluster.addresses[0])
            display.say(f"a cluster of {many} listens on this machine, on port {cluster.port}")
            trust = {"ca_certs": cluster.ca_path} if tls else {}
            keys = (cluster.access_key, cluster.secret_key)
            endpoint = Endpoint(*where, cluster.port, *keys, trust)
        client = stack.enter_context(contextlib.closing(_make_client(endpoint, threads)))
        url = client.meta.endpoint_url
        display.say(f'client = boto3.client("dynamodb", endpoint_url="{url}", ...)')
        live = install_alternator_transport(client, endpoint.host, **endpoint.settings)
        more = "".join(f", {name}=..." for name in endpoint.settings)
        display.say(f'nodes = install_alternator_transport(client, ["{endpoint.host}"]{more})')
        hosts = ", ".join(node.host for node in live.refresh())
        display.say(f"{endpoint.host} told of {_number(len(live.live), 'node')}: {hosts}")
        run = Run(live, cluster, threads, display)
        with _table(client) as table, display.watch(run):
            checks = _traffic(run, client, table, items)
        display.say("")
        for check in checks:
            display.judge(check)
        return all(check.held for check in checks)


def _make_client(endpoint: Endpoint, threads: int) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    return boto3.client(
        "dynamodb",
        endpoint_url=f"{endpoint.scheme}://{FAKE_DOMAIN}:{endpoint.port}",
        region_name="us-east-1",
        aws_access_key_id=endpoint.key,
        aws_secret_access_key=endpoint.secret,
        verify=endpoint.settings.get("verify"),
        config=Config(
            # The server itself gives up after 10 s.
            read_timeout=15,
            retries={"max_attempts": 4},
            max_pool_connections=max(10, threads),
            signature_version=UNSIGNED if endpoint.key is None else None,
        ),
    )


@contextlib.contextmanager
def _table(client: Any) -> Iterator[str]:
    """Make a table of a name that nobody else uses, and delete it whatever happens."""
    name = f"alternator_lb_demo_{uuid.uuid4().hex[:12]}"
    client.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    try:
        waiter = client.get_waiter("table_exists")
        waiter.wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        yield name
    finally:
        client.delete_table(TableName=name)


def _traffic(run: Run, client: Any, table: str, items: int) -> list[Check]:
    """Go through the steps; return what has become of each part of the rule."""

    def write(number: int) -> None:
        client.put_item(TableName=table, Item=_item(number))

    def read(number: int) -> None:
        wanted = _item(number % items)
        answer = client.get_item(TableName=table, Key={"id": wanted["id"]}, ConsistentRead=True)
        if answer.get("Item") != wanted:
            raise DemoError(f"item {wanted['id']['S']!r} was read as {answer.get('Item')!r}")

    many = _number(items, "item")
    checks: list[Check] = []
    _calls(run, f"write {many}", write, goal=items)
    _calls(run, f"read {many}", read, goal=items)
    if run.cluster is not None and len(run.cluster.nodes) > 1:
        checks = _stop_and_return(run, run.cluster.nodes[0], read, items)
        _calls(run, f"read {many} from all again", read, goal=items)
    return [_check_calls(run.steps), _check_even(run.steps), *checks]


def _stop_and_return(
    run: Run, node: LocalNode, read: Callable[[int], None], items: int
) -> list[Check]:
    name, host = _name(node), node.address

    def is_out() -> bool:
        return run.counts()[name].state == "down"

    _calls(run, f"read while {host} stops", read, first=node.stop, until=is_out)
    without = _calls(run, f"read {_number(items, 'item')} without it", read, goal=items)
    calls = without.served()[name]
    stopped = Check(calls == 0, f"{host} had stopped, and got {calls} of {items} calls after it")
    served = run.counts()[name].calls

    def serves() -> bool:  # only after a probe has let it in again
        return run.counts()[name].calls > served

    back = _calls(run, f"read until {host} is back", read, first=node.start, until=serves)
    again = back.served()[name] > 0
    found = "served again" if again else "served no call in the"
    return [stopped, Check(again, f"{host} {found} {back.seconds:.1f} s after its return")]


def _calls(
    run: Run,
    title: str,
    call: Callable[[int], None],
    *,
    goal: int | None = None,
    first: Callable[[], None] | None = None,
    until: Callable[[], bool] = lambda: False,
) -> Step:
    """Have calls flow: as many as the goal says, or until something holds."""
    step = Step(title, goal, run.counts())
    run.steps.append(step)
    run.display.began(step)
    turn = itertools.count().__next__

    def work() -> None:
        while not step.over and len(step.failures) < MOST_FAILURES:
            number = turn()
            if goal is not None and number >= goal:
                return
            try:
                call(number)
            except Exception as error:
                step.failures.append(f"{type(error).__name__}: {error}")
            step.done.tick()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(run.threads)]
    for worker in workers:
        worker.start()
    try:
        if first is not None:
            first()
        give_up = time.monotonic() + STEP_SECONDS
        # Calls end by themselves, since the client has timeouts; so a goal needs no other end.
        while any(worker.is_alive() for worker in workers) and not until():
            if goal is None and time.monotonic() > give_up:
                break
            time.sleep(0.01)
    finally:
        step.over = True
        give_up = time.monotonic() + JOIN_SECONDS
        for worker in workers:
            worker.join(max(0.0, give_up - time.monotonic()))
        step.seconds = time.monotonic() - step.began
        step.after = run.counts()
    run.display.ended(step)
    if len(step.failures) >= MOST_FAILURES:
        raise DemoError(f"{len(step.failures)} calls failed; the first: {step.failures[0]}")
    return step


def _check_calls(steps: list[Step]) -> Check:
    done = sum(step.done.value for step in steps)
    failures = [failure for step in steps for failure in step.failures]
    first = f"; the first failure: {failures[0]}" if failures else ""
    return Check(not failures, f"{done - len(failures)} of {done} calls succeeded{first}")


def _check_even(steps: list[Step]) -> Check:
    held = True
    furthest = 0.0
    for step in steps:
        if step.goal is None or step.after is None:
            continue
        served = step.served()
        calls = [served[name] for name, count in step.after.items() if count.state == "up"]
        share = step.goal / max(1, len(calls))
        off = max((abs(each - share) for each in calls), default=share)
        held = held and off <= max(SLACK_CALLS, SLACK_PART * share)
        furthest = max(furthest, off)
    found = "was within" if held else "was as far off as"
    return Check(held, f"each node that was up {found} {furthest:.1f} calls of an even share")


def _item(number: int) -> dict[str, Any]:
    return {"id": {"S": f"item-{number}"}, "number": {"N": str(number)}}


def _name(node: LocalNode) -> str:
    return str(NodeAddress(node.scheme, node.address, node.port))


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


class Display:
    """Shows a demo as plain lines on standard output, each at once."""

    def say(self, line: str) -> None:
        """Show a line."""
        print(line, flush=True)

    def began(self, step: Step) -> None:
        """Show a step that has begun."""
        self.say(f"\n{step.title}")

    def ended(self, step: Step) -> None:
        """Show a step that has ended."""
        counts = step.after or {}
        for name, calls in step.served().items():
            opened = _number(counts[name].connections, "connection")
            state = "" if counts[name].state == "up" else f"; {counts[name].state}"
            self.say(f"  {name:21}  {calls:5} calls, {opened} so far{state}")
        failed = f"{len(step.failures)} FAILED" if step.failures else "none failed"
        self.say(f"  {_number(step.done.value, 'call')} in {step.seconds:.1f} s, {failed}")

    def judge(self, check: Check) -> None:
        """Show whether a part of the rule held."""
        self.say(f"  {'ok  ' if check.held else 'FAIL'}  {check.text}")

    def watch(self, run: Run) -> contextlib.AbstractContextManager[object]:
        """Show the run, as it changes, for as long as the context lasts."""
        return contextlib.nullcontext()


class LiveDisplay(Display):
    """Shows a demo as tables on a terminal that are kept up to date; needs 80 columns.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def began(self, step: Step) -> None:
        """Show nothing: the tables show the steps."""

    ended = began

    def judge(self, check: Check) -> None:
        mark = "[bold green]✓[/]" if check.held else "[bold red]✗[/]"
        self._console.print(f"  {mark}", end=" ")
        self.say(check.text)

    def watch(self, run: Run) -> contextlib.AbstractContextManager[object]:
        from rich.live import Live

        return Live(
            console=self._console,
            get_renderable=lambda: _tables(run),
            refresh_per_second=10,
        )


def _tables(run: Run) -> Any:
    from rich import box
    from rich.console import Group
    from rich.table import Column, Table

    now = run.counts()
    nodes = Table(
        Column("node", style="cyan", no_wrap=True),
        Column("state", min_width=5),
        Column("calls", justify="right", min_width=5),
        Column("connections", justify="right"),
        Column("calls in this step", min_width=BAR_WIDTH + 7),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    in_step = run.steps[-1].served(now) if run.steps else {}
    most = max(in_step.values(), default=0) or 1
    for name, count in now.items():
        calls = in_step.get(name, 0)
        color = "green" if count.state == "up" else "bold red"
        bar = "█" * round(BAR_WIDTH * calls / most)
        counted = (str(count.calls), str(count.connections), f"{calls:6} [{color}]{bar}[/]")
        nodes.add_row(name, f"[{color}]{count.state}[/]", *counted)
    columns = (Column(no_wrap=True) for _ in range(4))
    steps = Table(*columns, box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for step in run.steps:
        flows, failed = step.after is None, len(step.failures)
        good = "[bold yellow]▸[/]" if flows else "[bold green]✓[/]"
        steps.add_row(
            "[bold red]✗[/]" if failed else good,
            f"[bold]{step.title}[/]" if flows else step.title,
            f"{step.done.value} calls" + (f", [bold red]{failed} failed[/]" if failed else ""),
            f"[dim]{' + '.join(map(str, step.served(now if flows else None).values()))}[/]",
        )
    return Group("", nodes, "", steps)
