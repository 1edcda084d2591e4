"""The demo: one boto3 client, a whole cluster, and who served what while it happens."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .addresses import NodeAddress
from .boto import install_alternator_transport
from .errors import AlternatorError

if TYPE_CHECKING:
    from .nodes import AlternatorNodes
    from .testing import LocalCluster, LocalNode

__all__ = [
    "RULE",
    "DemoError",
    "Display",
    "Endpoint",
    "live_display",
    "plain_display",
    "run_demo",
]

FAKE_DOMAIN = "dog.scylladb.com"
RULE = (
    "every call succeeded; each item was read as it was written; in each step in which all nodes "
    "were up, every node's calls were within 2 (or 2 %) of an even share; after a node had "
    "stopped, the others served everything, and after its return it served again"
)

# How far a node's share may be from even: this many calls, or this part of the share.
SLACK_CALLS = 2
SLACK_PART = 0.02
# A call is over long before: this only ends a demo of a cluster that hangs.
SILENCE_SECONDS = 60.0
RETURN_SECONDS = 40.0
JOIN_SECONDS = 5.0
# More failed calls than this in one step tell nothing new.
MOST_FAILURES = 10

MOST_NAMES = 5
BAR_WIDTH = 16
REFRESHES_PER_SECOND = 10


class DemoError(AlternatorError):
    """The demo cannot go on; the text says why."""


class Count(NamedTuple):
    """What one node has served: DynamoDB calls, and connections that carried them."""

    calls: int = 0
    connections: int = 0


Counts = Mapping[str, Count]


@dataclass(frozen=True)
class Endpoint:
    """A cluster to run the demo against, in place of one on this machine.

    Args:
        scheme: ``"http"`` or ``"https"``.
        host: a node.
        port: the port of every node.
        key: the access key id; None sends requests that are not signed.
        secret: the secret key.
        settings: TLS settings of `AlternatorNodes`.
    """

    scheme: str
    host: str
    port: int
    key: str | None = None
    secret: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Step:
    """A part of the demo in which calls flow, and what has come of them."""

    title: str
    goal: int | None
    before: Counts
    stopped: str | None = None
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    done: int = 0
    failures: list[str] = field(default_factory=list)
    after: Counts | None = None
    over: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def now(self) -> Counts:
        """What each node had served at the end, or at the beginning while calls flow."""
        return self.before if self.after is None else self.after

    def end_call(self, failure: str | None) -> None:
        """Take note of a call that is over, and of how it failed."""
        with self.changed:
            self.done += 1
            if failure is not None:
                self.failures.append(failure)
                self.over = self.over or len(self.failures) >= MOST_FAILURES
            self.changed.notify_all()

    def wait_for(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait, while calls flow, until something holds; it is looked at after every call."""
        with self.changed:
            self.changed.wait_for(lambda: until() or self.over, timeout=seconds)
            return until()

    def wait_for_calls(self, calls: int) -> None:
        """Wait until so many calls are over, however long that takes while calls end at all.

        Raises:
            DemoError: no call ends any more.
        """
        with self.changed:
            while self.done < calls and not self.over:
                if not self.changed.wait(SILENCE_SECONDS):
                    raise DemoError(f"{self.title}: no call has ended for {SILENCE_SECONDS:g} s")


@dataclass(frozen=True)
class Check:
    """One part of the rule: whether it held, and what was seen."""

    held: bool
    text: str


@dataclass
class Run:
    """What there is to show of a demo under way.

    Args:
        counts: tells what each node has served until now.
        threads: how many threads make calls.
        display: is told what happens.
    """

    counts: Callable[[], Counts]
    threads: int
    display: Display
    steps: list[Step] = field(default_factory=list)
    stopped: str | None = None


@dataclass(frozen=True)
class Display:
    """Where a demo shows itself.

    Args:
        say: shows a line.
        began: shows a step that has begun.
        ended: shows a step that has ended.
        total: shows what it all came to.
        judge: shows whether a part of the rule held.
        watch: shows the run, as it changes, for as long as the context lasts.
    """

    say: Callable[[str], None]
    began: Callable[[Step], None]
    ended: Callable[[Step], None]
    total: Callable[[str], None]
    judge: Callable[[Check], None]
    watch: Callable[[Run], contextlib.AbstractContextManager[object]]


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

    Args:
        display: where to show it.
        endpoint: a cluster; None starts one on this machine, one of whose nodes is stopped and
            started while calls flow.
        nodes: how many nodes to start.
        items: how many items to write and read.
        threads: how many threads make calls.
        tls: whether the nodes that are started speak https.

    Returns:
        Whether `RULE` held.

    Raises:
        AlternatorError: the cluster cannot be reached, or does not answer any more.
        ImportError: the extra ``testing`` is not installed.
    """
    if endpoint is not None:
        return _run(display, endpoint, None, items, threads)
    from .testing import LocalCluster

    with LocalCluster(nodes=nodes, tls=tls) as cluster:
        many = _number(nodes, "node")
        display.say(f"a cluster of {many} listens on this machine, on port {cluster.port}")
        local = Endpoint(
            cluster.scheme,
            cluster.addresses[0],
            cluster.port,
            cluster.access_key,
            cluster.secret_key,
            {"ca_certs": cluster.ca_path} if tls else {},
        )
        return _run(display, local, cluster, items, threads)


def _run(
    display: Display, endpoint: Endpoint, cluster: LocalCluster | None, items: int, threads: int
) -> bool:
    client = _make_client(endpoint, threads)
    nodes = install_alternator_transport(client, endpoint.host, **endpoint.settings)
    url = client.meta.endpoint_url
    display.say(f'client = boto3.client("dynamodb", endpoint_url="{url}", ...)')
    more = "".join(f", {name}=..." for name in endpoint.settings)
    display.say(f'nodes = install_alternator_transport(client, ["{endpoint.host}"]{more})')
    with contextlib.closing(client):
        found = nodes.refresh()
        display.say(f"{endpoint.host} told of {_number(len(found), 'node')}: {_hosts(found)}")
        run = Run(lambda: _counts(nodes, cluster), threads, display)
        with _table(client, display) as table, display.watch(run):
            checks = _traffic(run, client, table, items, cluster.nodes[0] if cluster else None)
        display.total(_total(run))
        checks.insert(0, _check_calls(run))
        for check in checks:
            display.judge(check)
        return all(check.held for check in checks)


def _counts(nodes: AlternatorNodes, cluster: LocalCluster | None) -> Counts:
    """What the nodes themselves have counted, or the client where they cannot be asked."""
    if cluster is None:
        stats = nodes.stats()
        return {str(node): Count(of.calls, of.connections) for node, of in stats.items()}
    reports = {_name(node): node.report for node in cluster.nodes}
    return {name: Count(report.calls, report.connections) for name, report in reports.items()}


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
def _table(client: Any, display: Display) -> Iterator[str]:
    """Make a table of a name that nobody else uses, and delete it whatever happens."""
    name = f"alternator_lb_demo_{uuid.uuid4().hex[:12]}"
    try:
        client.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        waiter = client.get_waiter("table_exists")
        waiter.wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        yield name
    except BaseException as wrong:
        if getattr(wrong, "operation_name", None) == "CreateTable":  # refused, so there is none
            raise
        # What went wrong before matters more than a table that could not be deleted.
        try:
            client.delete_table(TableName=name)
        except Exception as error:
            display.say(f"table {name} could not be deleted: {error}")
        raise
    client.delete_table(TableName=name)


def _traffic(
    run: Run, client: Any, table: str, items: int, to_stop: LocalNode | None
) -> list[Check]:
    """Go through the steps; return the parts of the rule that are about nodes."""

    def write(number: int) -> None:
        client.put_item(TableName=table, Item=_item(number))

    def read(number: int) -> None:
        wanted = _item(number % items)
        answer = client.get_item(TableName=table, Key={"id": wanted["id"]}, ConsistentRead=True)
        if answer.get("Item") != wanted:
            raise DemoError(f"item {wanted['id']['S']!r} was read as {answer.get('Item')!r}")

    many = _number(items, "item")
    with _calls(run, f"write {many}", write, items) as writing:
        pass
    with _calls(run, f"read {many}", read, items) as reading:
        pass
    even = [writing, reading]
    checks: list[Check] = []
    if to_stop is not None and len(run.counts()) > 1:
        checks = _stop_and_return(run, to_stop, read, items)
        with _calls(run, f"read {many}, all nodes up again", read, items) as again:
            pass
        even.append(again)
    elif to_stop is not None:
        run.display.say("the only node is not stopped; with --nodes 2 or more, one is")
    return [_check_even(even), *checks]


def _stop_and_return(
    run: Run, node: LocalNode, read: Callable[[int], None], items: int
) -> list[Check]:
    name, host = _name(node), node.address
    with _calls(run, f"read on while {host} stops", read, None) as stopping:
        stopping.wait_for_calls(items // 3)
        node.stop()
        run.stopped = stopping.stopped = name
        at_stop = run.counts()
        stopping.wait_for_calls(stopping.done + items)
    others = _served(stopping.now, at_stop)
    itself = others.pop(name)
    stopped = Check(
        itself == 0 and any(others.values()),
        f"after {host} had stopped, the others served {sum(others.values())} calls, it {itself}",
    )
    served = at_stop[name].calls
    with _calls(run, f"read on until {host} is back", read, None) as returning:
        node.start()
        began = time.monotonic()
        back = returning.wait_for(lambda: run.counts()[name].calls > served, RETURN_SECONDS)
        seconds = time.monotonic() - began
        run.stopped = None
    found = (
        f"served again {seconds:.1f} s after its return"
        if back
        else f"served no call in the {seconds:.0f} s after its return"
    )
    return [stopped, Check(back, f"{host} {found}")]


@contextlib.contextmanager
def _calls(run: Run, title: str, call: Callable[[int], None], goal: int | None) -> Iterator[Step]:
    """Have calls flow: as many as the goal says, or until the block ends where it says none."""
    step = Step(title, goal, run.counts())
    run.steps.append(step)
    run.display.began(step)
    turn = itertools.count().__next__

    def work() -> None:
        while not step.over:
            number = turn()
            if goal is not None and number >= goal:
                return
            failure = None
            try:
                call(number)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            step.end_call(failure)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(run.threads)]
    for worker in workers:
        worker.start()
    try:
        yield step
        if goal is not None:
            step.wait_for_calls(goal)
    finally:
        step.over = True
        deadline = time.monotonic() + JOIN_SECONDS
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        step.seconds = time.monotonic() - step.began
        step.after = run.counts()
    run.display.ended(step)
    if len(step.failures) >= MOST_FAILURES:
        raise DemoError(f"{len(step.failures)} calls failed; the first: {step.failures[0]}")


def _check_calls(run: Run) -> Check:
    done = sum(step.done for step in run.steps)
    failures = [failure for step in run.steps for failure in step.failures]
    text = f"{done - len(failures)} of {done} calls succeeded"
    return Check(not failures, f"{text}; the first failure: {failures[0]}" if failures else text)


def _check_even(steps: list[Step]) -> Check:
    held = True
    furthest = 0.0
    for step in steps:
        calls = _served(step.now, step.before).values()
        share = sum(calls) / len(calls)
        off = max(abs(each - share) for each in calls)
        held = held and off <= max(SLACK_CALLS, SLACK_PART * share)
        furthest = max(furthest, off)
    found = (
        f"each had an even share, give or take {furthest:.1f} calls"
        if held
        else f"one was {furthest:.1f} calls off an even share"
    )
    return Check(held, f"while all nodes were up, {found}")


def _served(after: Counts, before: Counts) -> dict[str, int]:
    """How many calls each node served in between."""
    return {name: count.calls - before.get(name, Count()).calls for name, count in after.items()}


def _item(number: int) -> dict[str, Any]:
    return {"id": {"S": f"item-{number}"}, "number": {"N": str(number)}}


def _name(node: LocalNode) -> str:
    return str(NodeAddress(node.scheme, node.address, node.port))


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _hosts(nodes: Sequence[NodeAddress]) -> str:
    shown = ", ".join(node.host for node in nodes[:MOST_NAMES])
    return f"{shown}, ..." if len(nodes) > MOST_NAMES else shown


def _total(run: Run) -> str:
    calls = sum(step.done for step in run.steps)
    seconds = sum(step.seconds for step in run.steps)
    opened = sum(count.connections for count in run.counts().values())
    return (
        f"{_number(calls, 'call')} from {_number(run.threads, 'thread')} in {seconds:.1f} s, "
        f"over {_number(opened, 'connection')} to {_number(len(run.counts()), 'node')}"
    )


# -- plain lines -------------------------------------------------------------------------------


def plain_display() -> Display:
    """Return a display of plain lines on standard output, each shown at once."""

    def say(line: str) -> None:
        print(line, flush=True)

    def began(step: Step) -> None:
        say(f"\n{step.title}")

    def ended(step: Step) -> None:
        rows = _served(step.now, step.before)
        width = max(map(len, rows), default=0)
        for name, calls in rows.items():
            so_far = step.now[name].connections
            stopped = "; stopped" if name == step.stopped else ""
            say(
                f"  {name:{width}}  {calls:5} calls, "
                f"{_number(so_far, 'connection')} so far{stopped}"
            )
        failed = f"{len(step.failures)} FAILED" if step.failures else "none failed"
        say(f"  {_number(step.done, 'call')} in {step.seconds:.1f} s, {failed}")

    def judge(check: Check) -> None:
        say(f"  {'ok  ' if check.held else 'FAIL'}  {check.text}")

    def total(line: str) -> None:
        say(f"\n{line}")

    return Display(say, began, ended, total, judge, lambda run: contextlib.nullcontext())


# -- a live table ------------------------------------------------------------------------------


def live_display() -> Display:
    """Return a display that keeps a table up to date on a terminal.

    Raises:
        ImportError: rich is not installed.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    good, bad = ("✓", "✗") if console.encoding.startswith("utf") else ("ok", "FAIL")

    def say(line: str) -> None:
        console.print(Text(line))

    def total(line: str) -> None:
        console.print(Text(line, style="bold"))

    def judge(check: Check) -> None:
        mark = Text(good, style="bold green") if check.held else Text(bad, style="bold red")
        console.print(Text("  ").append_text(mark).append(f" {check.text}"), soft_wrap=True)

    def nothing(step: Step) -> None:
        """The table shows the steps."""

    def watch(run: Run) -> Any:
        unicode = console.encoding.startswith("utf")
        return Live(
            console=console,
            get_renderable=lambda: _picture(run, unicode=unicode),
            refresh_per_second=REFRESHES_PER_SECOND,
        )

    return Display(say, nothing, nothing, total, judge, watch)


def _picture(run: Run, *, unicode: bool) -> Any:
    from rich.console import Group

    now = run.counts()
    return Group("", _node_table(run, now, unicode), "", _step_table(run, now, unicode), "")


def _node_table(run: Run, now: Counts, unicode: bool) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", style="cyan", no_wrap=True)
    table.add_column("state", min_width=7)
    table.add_column("calls", justify="right", min_width=6)
    table.add_column("connections", justify="right")
    table.add_column("calls in this step", min_width=BAR_WIDTH + 7)
    in_step = _served(now, run.steps[-1].before) if run.steps else {}
    most = max(in_step.values(), default=0)
    for name, count in now.items():
        down = name == run.stopped
        state = Text("stopped", style="bold red") if down else Text("up", style="green")
        calls = in_step.get(name, 0)
        bar = ("█" if unicode else "#") * (round(BAR_WIDTH * calls / most) if most else 0)
        table.add_row(
            name,
            state,
            str(count.calls),
            str(count.connections),
            Text(f"{calls:6} ").append(bar, style="red" if down else "green"),
        )
    return table


def _step_table(run: Run, now: Counts, unicode: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for step in run.steps:
        under_way = step.after is None
        if step.failures or (not under_way and step.done < (step.goal or 0)):
            mark = Text("✗" if unicode else "!", style="bold red")
        elif under_way:
            mark = Text("▸" if unicode else ">", style="bold yellow")
        else:
            mark = Text("✓" if unicode else "*", style="bold green")
        goal = f"/{step.goal}" if under_way and step.goal is not None else ""
        table.add_row(
            mark,
            Text(step.title, style="bold" if under_way else ""),
            f"{step.done}{goal} calls",
            Text(f"{len(step.failures)} failed", style="bold red" if step.failures else "dim"),
            Text(_shares(_served(now if under_way else step.now, step.before)), style="dim"),
        )
    return table


def _shares(served: Mapping[str, int]) -> str:
    calls = served.values()
    if len(calls) > MOST_NAMES:
        return f"{min(calls)} to {max(calls)} a node"
    return " + ".join(map(str, calls))
