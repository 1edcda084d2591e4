"""What a call costs the client: CPU and wall time, by kind of call and by number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from .backend import Backend, Traffic
from .measure import Sample, Spread, alternate, ratios, run_calls, workers
from .result import Bar, Bars, Claim, Lines, Options, Result, Series, Table, expected
from .variants import OPERATIONS, VARIANTS

__all__ = ["run"]

Samples = Mapping[str, Sequence[Sample]]
ByThreads = Mapping[tuple[str, int], Sequence[Sample]]


@dataclass(frozen=True)
class _Scenario:
    """Variants side by side; the first is what the others are compared with."""

    title: str
    operation: str
    nodes: int
    variants: tuple[str, ...]
    most: Mapping[str, float]  # what a call of this library may cost, compared with each of these
    calls: int = 400
    own: str = "ours"


_CLIENTS = ("plain", "turn", "peer", "ours")

_SCENARIOS = (
    _Scenario(
        "signed GetItem, 3 nodes",
        "get",
        3,
        (*_CLIENTS, "urllib3", "socket"),
        {"plain": 0.60, "peer": 0.70},
    ),
    _Scenario("signed GetItem, 30 nodes", "get", 30, _CLIENTS, {"peer": 0.45}),
    _Scenario("PutItem of 4 KB, 3 nodes", "put", 3, _CLIENTS, {"plain": 0.75}),
    _Scenario("Query answering 100 KB, 3 nodes", "query", 3, _CLIENTS, {"plain": 0.75}, calls=60),
    _Scenario(
        "the transport alone, GetItem, 3 nodes",
        "get",
        3,
        ("send-plain", "send-ours"),
        {"send-plain": 0.40},
        own="send-ours",
    ),
)

_THREADS = (1, 2, 8, 32)
_QUICK_THREADS = (1, 32)
_THREAD_CALLS = 640
_ON_THE_WIRE = (*_CLIENTS, "ours-short")


def run(options: Options) -> Result:
    """Measure every scenario, then the clients with more and more threads."""
    rounds, share = (3, 4) if options.quick else (9, 1)
    threads, thread_rounds = (_QUICK_THREADS, 2) if options.quick else (_THREADS, 7)
    options.progress.begin(
        "cost", len(_SCENARIOS) * (rounds + 1) + thread_rounds + 1 + len(_ON_THE_WIRE)
    )
    found: list[tuple[_Scenario, Samples]] = []
    for scenario in _SCENARIOS:
        variants = {key: VARIANTS[key] for key in scenario.variants}
        with (
            Backend(scenario.nodes) as backend,
            workers(variants, backend.target, OPERATIONS[scenario.operation]) as started,
        ):
            calls = scenario.calls // share
            samples = alternate(
                started,
                rounds=rounds,
                calls=calls,
                warm_up=max(calls // 4, 2 * scenario.nodes),
                tick=_ticker(options, scenario.title),
            )
            found.append((scenario, samples))
    by_threads = _threads(options, threads, thread_rounds, _THREAD_CALLS // share)
    return _result(found, by_threads, _wire(options), rounds)


def _threads(options: Options, numbers: Sequence[int], rounds: int, calls: int) -> ByThreads:
    names = {f"{key} {number}": (key, number) for key in _CLIENTS for number in numbers}
    with ExitStack() as stack:
        # Plain boto3 keeps 10 by default: with more threads it would throw connections away.
        target = replace(stack.enter_context(Backend(3)).target, connections=max(numbers))
        variants = {key: VARIANTS[key] for key in _CLIENTS}
        started = stack.enter_context(workers(variants, target, OPERATIONS["get"]))
        samples = alternate(
            {name: started[key] for name, (key, _) in names.items()},
            rounds=rounds,
            calls=calls,
            warm_up=4 * max(numbers),
            threads={name: number for name, (_, number) in names.items()},
            tick=_ticker(options, "more and more threads"),
        )
    return {names[name]: rounds for name, rounds in samples.items()}


def _wire(options: Options) -> dict[str, Traffic]:
    """Have the server count the bytes of a call's request and answer."""
    seen = {}
    for key in _ON_THE_WIRE:
        with Backend(3, log=True) as backend:
            with workers({key: VARIANTS[key]}, backend.target, OPERATIONS["get"]) as started:
                started[key].do(run_calls, 30)
            seen[key] = backend.traffic()
        options.progress.step("bytes on the wire")
    return seen


def _ticker(options: Options, what: str) -> Any:
    return lambda: options.progress.step(what)


def _result(
    found: Sequence[tuple[_Scenario, Samples]],
    by_threads: ByThreads,
    on_the_wire: Mapping[str, Traffic],
    rounds: int,
) -> Result:
    return Result(
        name="cost",
        title="Cost of a call",
        about=(
            "Client CPU (of all threads of the process, user and system) and wall time per call, "
            f"{rounds} rounds in which the variants take turns. Ratios compare each round with the "
            "same round of the baseline, the first row of each table. Requests made before are "
            "the floor: what is left when nothing is serialized, signed and parsed."
        ),
        tables=[
            *(_cost_table(scenario, samples) for scenario, samples in found),
            _thread_table(by_threads),
            _wire_table(on_the_wire),
            expected([*_claims(found), _thread_claim(by_threads)]),
        ],
        pictures=[_cost_picture(found), _thread_picture(by_threads)],
    )


def _cost_table(scenario: _Scenario, samples: Samples) -> Table:
    base, peer = samples[scenario.variants[0]], samples.get("peer")
    rows = []
    for key in scenario.variants:
        own = samples[key]
        rows.append(
            [
                VARIANTS[key].label,
                _spread(own, "cpu").text(".0f", 1e6),
                ratios(own, base).text(".2f"),
                *([ratios(own, peer).text(".2f")] if peer else []),
                _spread(own, "wall").text(".0f", 1e6),
                ratios(own, base, "wall").text(".2f"),
            ]
        )
    against = VARIANTS[scenario.variants[0]].label
    return Table(
        f"{scenario.title[0].upper()}{scenario.title[1:]}: per call",
        [
            "client",
            "CPU µs",
            f"÷ {against}",
            *([f"÷ {VARIANTS['peer'].label}"] if peer else []),
            "wall µs",
            f"wall ÷ {against}",
        ],
        rows,
    )


def _cost_picture(found: Sequence[tuple[_Scenario, Samples]]) -> Bars:
    groups = []
    for scenario, samples in found:
        base = samples[scenario.variants[0]]
        bars = []
        for key in scenario.variants:
            variant, ratio = VARIANTS[key], ratios(samples[key], base)
            cpu = _spread(samples[key], "cpu").median
            text = f"{ratio.median:.2f}   ({1e6 * cpu:,.0f} µs)"
            bars.append(
                Bar(variant.label, variant.color, ratio.median, ratio.low, ratio.high, text)
            )
        groups.append((scenario.title, bars))
    return Bars(
        name="cost",
        title="What a call costs the client in CPU",
        subtitle="Shorter is better; 1.00 is plain boto3 with one node; thin lines: the spread",
        x_label="client CPU of a call, compared with the first of each group",
        groups=groups,
    )


def _kept(by_threads: ByThreads, key: str, threads: int) -> list[float]:
    """What is left of the calls per second of CPU that one thread makes, round by round."""
    pairs = zip(by_threads[key, 1], by_threads[key, threads], strict=True)
    return [alone.cpu / shared.cpu for alone, shared in pairs]


def _thread_table(by_threads: ByThreads) -> Table:
    rows = []
    for (key, threads), own in by_threads.items():
        rows.append(
            [
                VARIANTS[key].label,
                str(threads),
                _spread(own, "rate").text(",.0f"),
                ratios(own, by_threads[_CLIENTS[0], threads], "rate").text(".2f"),
                Spread.of([1 / sample.cpu for sample in own]).text(",.0f"),
                Spread.of(_kept(by_threads, key, threads)).text(".2f"),
            ]
        )
    return Table(
        "Signed GetItems by number of threads, 3 nodes, a connection for each thread",
        [
            "client",
            "threads",
            "calls a second",
            f"÷ {VARIANTS[_CLIENTS[0]].label}",
            "calls a second of CPU",
            "÷ the same with 1 thread",
        ],
        rows,
    )


def _wire_table(seen: Mapping[str, Traffic]) -> Table:
    return Table(
        "Bytes on the wire of a signed GetItem, with headers, as the server saw them",
        ["client", "request", "answer"],
        [
            [
                VARIANTS[key].label,
                f"{traffic.bytes_in / traffic.calls:,.0f}",
                f"{traffic.bytes_out / traffic.calls:,.0f}",
            ]
            for key, traffic in seen.items()
        ],
    )


def _claims(found: Sequence[tuple[_Scenario, Samples]]) -> list[Claim]:
    return [
        Claim.at_most(
            f"{scenario.title} ÷ {VARIANTS[key].label}",
            ratios(samples[scenario.own], samples[key]).median,
            limit,
        )
        for scenario, samples in found
        for key, limit in scenario.most.items()
    ]


def _thread_claim(by_threads: ByThreads) -> Claim:
    most = max(threads for _, threads in by_threads)
    own, plain = (Spread.of(_kept(by_threads, key, most)).median for key in ("ours", _CLIENTS[0]))
    return Claim(
        f"{most} threads: keeps as much of its calls per second of CPU as plain boto3",
        f"{own:.2f}, plain boto3 {plain:.2f}",
        round(own, 2) >= round(plain, 2),
    )


def _thread_picture(by_threads: ByThreads) -> Lines:
    return Lines(
        name="cost-threads",
        title="Calls a second of one process",
        subtitle="Signed GetItem, 3 nodes; more is better",
        x_label="threads",
        y_label="calls a second",
        series=[
            Series(
                VARIANTS[key].label,
                VARIANTS[key].color,
                [
                    (threads, _spread(samples, "rate").median)
                    for (its, threads), samples in by_threads.items()
                    if its == key
                ],
            )
            for key in _CLIENTS
        ],
        x_log=True,
    )


def _spread(samples: Sequence[Sample], what: str) -> Spread:
    return Spread.of([getattr(sample, what) for sample in samples])
