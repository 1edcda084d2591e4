"""What calls notice of a node that fails: killed, frozen, out of reach, or restarted."""

from __future__ import annotations

import functools
import math
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

from .backend import Backend
from .measure import Spread, run_calls, workers
from .result import Cell, Claim, Grid, Options, Result, Table, expected
from .variants import OPERATIONS, VARIANTS

__all__ = ["run"]

_VARIANTS = ("plain", "peer", "ours")
# This library beside each fault, on nodes that do not fail: what the machine itself is up to.
_CONTROL = "control"
_CLIENTS = {key: VARIANTS[key] for key in _VARIANTS} | {
    _CONTROL: replace(VARIANTS["ours"], label="alternator_lb, no fault")
}
_NODES = 3
_HIT = 0  # the node of plain boto3: a fault elsewhere would be none to it
_SLOW = 0.020

# One call per thread and 40 ms, on a fixed schedule. As many as 8 threads can make would keep each
# other from the interpreter for longer than 20 ms, and a quiet run would be full of slow calls.
_THREADS = 8
_PERIOD = 0.040
# A call that has no answer so long after the end of the run counts as one without an answer.
_GRACE = 0.5
# From the beginning of the run, so that a frozen node can be found before its second half.
_FAULT_AT = 0.5
_DOWN_SECONDS = 0.4  # of a node that is restarted


@dataclass(frozen=True)
class _Call:
    at: float  # seconds since the run began
    seconds: float
    outcome: str  # "ok", "failed", or "open" where there was no answer


@dataclass(frozen=True)
class _Watched:
    whole: float  # seconds of CPU a call
    beside: float  # of these, those of the thread that polls and watches


@dataclass(frozen=True)
class _Scale:
    seconds: float
    rounds: int


_FULL = _Scale(seconds=8.0, rounds=15)
_QUICK = _Scale(seconds=5.0, rounds=2)

Happen = Callable[[Sequence[Backend], ExitStack], Iterator[float]]
Calls = Mapping[tuple[str, str], Sequence[_Call]]  # by client and fault


def _quiet(backends: Sequence[Backend], stack: ExitStack) -> Iterator[float]:
    yield from ()


def _kill(backends: Sequence[Backend], stack: ExitStack) -> Iterator[float]:
    yield _FAULT_AT
    for backend in backends:
        backend.kill(_HIT)


def _freeze(backends: Sequence[Backend], stack: ExitStack) -> Iterator[float]:
    yield _FAULT_AT
    for backend in backends:
        backend.freeze(_HIT)


def _blackhole(backends: Sequence[Backend], stack: ExitStack) -> Iterator[float]:
    """A listener whose backlog is full drops what arrives, as a lost route does."""
    yield _FAULT_AT
    for backend in backends:
        place = (backend.target.addresses[_HIT], backend.target.port)
        listener, *fillers = (stack.enter_context(socket.socket()) for _ in range(17))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(place)
        # It listens beside nginx before that is killed, so that no connection is refused between
        # the two. The kernel deals connections out to both: of so many, it gets enough.
        backend.freeze(_HIT)
        listener.listen(0)
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(place)
        backend.kill(_HIT)


def _restart(seconds: float) -> Happen:
    def restart(backends: Sequence[Backend], stack: ExitStack) -> Iterator[float]:
        for node in range(_NODES):
            begin = _FAULT_AT + node * (seconds - _FAULT_AT) / _NODES
            yield begin
            for backend in backends:
                backend.kill(node)
            yield begin + _DOWN_SECONDS
            for backend in backends:
                backend.start(node)

    return restart


def run(options: Options) -> Result:
    """Let each fault happen to all clients at the same time; then compare the watch on and off."""
    scale = _QUICK if options.quick else _FULL
    faults: dict[str, Happen] = {
        "quiet": _quiet,
        "kill": _kill,
        "freeze": _freeze,
        "blackhole": _blackhole,
        "rolling restart": _restart(scale.seconds),
    }
    options.progress.begin("faults", len(faults) + scale.rounds + 1)
    calls: dict[tuple[str, str], Sequence[_Call]] = {}
    times: dict[str, Sequence[float]] = {}
    for name, happen in faults.items():
        found, times[name] = _traffic(happen, scale.seconds)
        calls.update({(key, name): made for key, made in found.items()})
        options.progress.step(name)
    return _result(calls, times, _watch(options, scale), scale)


def _traffic(happen: Happen, seconds: float) -> tuple[dict[str, list[_Call]], list[float]]:
    with ExitStack() as stack:
        # Nodes of its own for each client, so that none profits from what another finds out.
        backends = {key: stack.enter_context(Backend(_NODES, processes=True)) for key in _CLIENTS}
        targets = {key: backend.target for key, backend in backends.items()}
        started = stack.enter_context(workers(_CLIENTS, targets, OPERATIONS["get"]))
        for worker in started.values():
            worker.do(run_calls, 4 * _THREADS * _NODES, _THREADS)
        # The monotonic clock is one for all processes. They start apart, since on a small machine
        # calls of the same instant would wait for each other.
        begin = time.monotonic() + 0.2
        for number, worker in enumerate(started.values()):
            apart = number * _PERIOD / _THREADS / len(started)
            worker.begin(_steady_calls, begin + apart, seconds)
        times = []
        for at in happen([backends[key] for key in _VARIANTS], stack):
            times.append(at)
            time.sleep(max(0.0, begin + at - time.monotonic()))
        return {key: worker.finish() for key, worker in started.items()}, times


def _watch(options: Options, scale: _Scale) -> Mapping[str, Sequence[_Watched]]:
    """What the thread beside the calls costs, with the watch over calls in flight and without.

    The calls themselves do the same in both, so the thread's own CPU is what is compared: two
    processes differ by more than that.
    """
    ours = VARIANTS["ours"]
    unwatched = replace(ours, open=functools.partial(cast(Any, ours.open), watch=False))
    found: dict[str, list[_Watched]] = {"on": [], "off": []}
    with (
        Backend(_NODES) as backend,
        workers({"on": ours, "off": unwatched}, backend.target, OPERATIONS["get"]) as started,
    ):
        for worker in started.values():
            worker.do(run_calls, 100)
        options.progress.step("watch on and off")
        for _ in range(scale.rounds):
            for state, worker in started.items():
                found[state].append(worker.do(_watched_calls, 1000))
            options.progress.step("watch on and off")
    return found


# -- what runs in a worker ------------------------------------------------------------------


def _watched_calls(calls: int) -> _Watched:
    clocks = [
        time.pthread_getcpuclockid(cast(int, thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith("alternator-lb")
    ]
    before = sum(map(time.clock_gettime, clocks))
    whole = run_calls(calls).cpu
    return _Watched(whole, (sum(map(time.clock_gettime, clocks)) - before) / calls)


def _steady_calls(begin: float, seconds: float) -> list[_Call]:
    made: list[_Call] = []
    waiting: dict[int, float] = {}

    def work(number: int) -> None:
        turn = 0
        while True:
            due = number * _PERIOD / _THREADS + turn * _PERIOD
            if due >= seconds:
                return
            time.sleep(max(0.0, begin + due - time.monotonic()))
            at = waiting[number] = time.monotonic() - begin
            outcome = "ok"
            try:
                run_calls(1)
            except Exception:
                outcome = "failed"
            ended = time.monotonic() - begin
            made.append(_Call(at, ended - at, outcome))
            del waiting[number]
            turn = max(turn + 1, math.ceil(ended / _PERIOD - number / _THREADS))

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    end = begin + seconds + _GRACE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    ended = time.monotonic() - begin
    return [*made, *(_Call(at, ended - at, "open") for at in list(waiting.values()))]


# -- the result -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    calls: int
    failed: int
    unanswered: int
    slow: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, calls: Sequence[_Call]) -> _Sum:
        seconds = sorted(call.seconds for call in calls) or [math.nan]
        outcomes = [call.outcome for call in calls]
        return cls(
            len(calls),
            outcomes.count("failed"),
            outcomes.count("open"),
            sum(call.seconds > _SLOW for call in calls),
            seconds[len(seconds) // 2],
            seconds[math.ceil(0.99 * len(seconds)) - 1],
            seconds[-1],
        )

    @property
    def cells(self) -> list[str]:
        counts = (self.calls, self.failed, self.unanswered, self.slow)
        times = (self.p50, self.p99, self.longest)
        return [f"{count:,}" for count in counts] + [
            "" if math.isnan(each) else f"{1e3 * each:,.1f}" for each in times
        ]


def _result(
    calls: Calls,
    times: Mapping[str, Sequence[float]],
    watch: Mapping[str, Sequence[_Watched]],
    scale: _Scale,
) -> Result:
    whole = {at: _Sum.of(made) for at, made in calls.items()}
    half = scale.seconds / 2
    # What began before and did not end is still felt in the second half.
    late = {
        at: _Sum.of([call for call in made if call.at >= half or call.outcome == "open"])
        for at, made in calls.items()
    }
    return Result(
        name="faults",
        title="Nodes that fail",
        about=(
            f"{_THREADS} threads make one signed GetItem each every {1e3 * _PERIOD:.0f} ms for "
            f"{scale.seconds:g} s, all clients at the same time, with default settings, each on "
            f"{_NODES} nginx processes of its own. After {_FAULT_AT:g} s a node is killed "
            "(SIGKILL), frozen (SIGSTOP) or made to drop what arrives; or all are restarted, one "
            "after the other. Plain boto3 uses one node, and that is the one that fails. "
            "Latency is measured from the start of a call. A thread whose call hangs makes no "
            "others, so hanging clients make fewer calls; a call without an answer by the end "
            "counts with the time that it had waited. The last client of each table is this "
            "library at the same time on nodes that do not fail: what it sees, the machine did."
        ),
        tables=[
            *(_fault_table(name, whole, late) for name in times),
            _watch_table(watch),
            expected(_claims(whole, late, watch)),
        ],
        pictures=[_picture(calls, times, scale)],
    )


def _fault_table(
    name: str, whole: Mapping[tuple[str, str], _Sum], late: Mapping[tuple[str, str], _Sum]
) -> Table:
    return Table(
        f"{name[0].upper()}{name[1:]}",
        ["client", "part", "calls", "failed", "no answer", "> 20 ms", "p50 ms", "p99 ms", "max ms"],
        [
            [_CLIENTS[key].label, part, *sums[key, name].cells]
            for key in _CLIENTS
            for part, sums in (("whole", whole), ("second half", late))
        ],
    )


def _watch_table(watch: Mapping[str, Sequence[_Watched]]) -> Table:
    return Table(
        "CPU of the thread that polls, and of the watch over calls in flight, per call",
        ["watch", "CPU of the thread, µs", "of that of a call"],
        [
            [
                state,
                Spread.of([each.beside for each in its]).text(".2f", 1e6),
                Spread.of([each.beside / each.whole for each in its]).text(".2%"),
            ]
            for state, its in watch.items()
        ],
    )


def _claims(
    whole: Mapping[tuple[str, str], _Sum],
    late: Mapping[tuple[str, str], _Sum],
    watch: Mapping[str, Sequence[_Watched]],
) -> list[Claim]:
    def slow(text: str, name: str, part: Mapping[tuple[str, str], _Sum], most: int) -> Claim:
        own, control = part["ours", name].slow, part[_CONTROL, name].slow
        # Where calls are as slow without a fault, nothing can be said of the fault.
        holds = None if own > most and control > most else own <= most
        return Claim(f"{name}: {text}", f"{own} (no fault: {control})", holds)

    claims = []
    for key, name in whole:
        if key == "ours":
            wrong = whole[key, name].failed + whole[key, name].unanswered
            claims.append(Claim(f"{name}: no call fails", str(wrong), wrong == 0))
    claims.append(slow("at most 16 calls over 20 ms", "kill", whole, 16))
    longest = whole["ours", "freeze"].longest
    claims.append(Claim("freeze: no call over 4 s", f"{longest:.2f} s", longest < 4))
    for name in ("kill", "freeze"):
        claims.append(slow("none over 20 ms in the second half", name, late, 0))
    name = "rolling restart"
    ratio = whole["ours", name].p99 / whole[_CONTROL, name].p99
    claims.append(Claim.at_most(f"{name}: p99 ÷ that of no fault", ratio, 1.5))
    # Means: a poll falls into a round or it does not, so the median is the one or the other.
    on, off = (statistics.fmean(each.beside for each in watch[state]) for state in ("on", "off"))
    cost = (on - off) / statistics.fmean(each.whole for each in watch["off"])
    claims.append(Claim("watch: costs at most 2% of a call", f"{cost:.2%}", cost <= 0.02))
    return claims


def _picture(calls: Calls, times: Mapping[str, Sequence[float]], scale: _Scale) -> Grid:
    cells = {}
    for (key, name), made in calls.items():
        if key == _CONTROL:
            continue
        found = _Sum.of(made)
        text = f"{found.failed:,} of {found.calls:,} failed"
        if found.unanswered:
            text = f"{found.unanswered} of {_THREADS} threads hang"
            text += f", {found.failed:,} failed" if found.failed else ""
        cells[VARIANTS[key].label, name] = Cell(
            points=[(call.at, 1e3 * call.seconds) for call in made if call.outcome == "ok"],
            failed=[(call.at, 1e3 * call.seconds) for call in made if call.outcome == "failed"],
            hanging=[call.at for call in made if call.outcome == "open"],
            text=text,
            good=found.failed + found.unanswered == 0,
        )
    return Grid(
        name="faults",
        title="What calls notice when a node fails",
        subtitle=(
            "Each dot is a call: when it began, and how long it took. Red crosses: it failed. Red "
            "areas: calls wait until the end. Dashed lines: a node fails, or is back."
        ),
        x_label="seconds",
        y_label="ms",
        x_end=scale.seconds,
        limit=(1e3 * _SLOW, "20 ms"),
        columns=times,
        rows={VARIANTS[key].label: VARIANTS[key].color for key in _VARIANTS},
        cells=cells,
    )
