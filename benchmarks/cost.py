"""What a call costs the client: CPU and wall time, by kind of call and by number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from .backend import Backend
from .measure import Sample, Spread, alternate, ratios, workers
from .result import Bar, Bars, Lines, Options, Result, Series, Table
from .variants import OPERATIONS, VARIANTS

__all__ = ["run"]

Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class _Scenario:
    """Variants side by side; the first is what the others are compared with."""

    title: str
    operation: str
    nodes: int
    variants: tuple[str, ...]
    calls: int = 400


_CLIENTS = ("plain", "turn", "peer", "ours")

_SCENARIOS = (
    _Scenario("signed GetItem, 3 nodes", "get", 3, (*_CLIENTS, "urllib3", "socket")),
    _Scenario("signed GetItem, 30 nodes", "get", 30, _CLIENTS),
    _Scenario("PutItem of 4 KB, 3 nodes", "put", 3, _CLIENTS),
    _Scenario("Query answering 100 KB, 3 nodes", "query", 3, _CLIENTS, calls=60),
    _Scenario("the transport alone, GetItem, 3 nodes", "get", 3, ("send-plain", "send-ours")),
)

_THREADS = (1, 2, 4, 8, 16, 32)
_QUICK_THREADS = (1, 32)
_THREAD_CALLS = 640


def run(options: Options) -> Result:
    """Measure every scenario, then the clients with more and more threads."""
    rounds, share = (3, 4) if options.quick else (9, 1)
    threads, thread_rounds = (_QUICK_THREADS, 2) if options.quick else (_THREADS, 4)
    options.progress.begin(
        "cost", len(_SCENARIOS) * (rounds + 1) + len(threads) * (thread_rounds + 1)
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
    return _result(found, by_threads, rounds)


def _threads(
    options: Options, numbers: Sequence[int], rounds: int, calls: int
) -> dict[int, Samples]:
    variants = {key: VARIANTS[key] for key in _CLIENTS}
    samples: dict[int, Samples] = {}
    with ExitStack() as stack:
        # Plain boto3 keeps 10 by default: with more threads it would throw connections away.
        target = replace(stack.enter_context(Backend(3)).target, connections=max(numbers))
        started = stack.enter_context(workers(variants, target, OPERATIONS["get"]))
        for threads in numbers:
            samples[threads] = alternate(
                started,
                rounds=rounds,
                calls=calls,
                warm_up=4 * threads,
                threads=threads,
                tick=_ticker(options, f"{threads} threads"),
            )
    return samples


def _ticker(options: Options, what: str) -> Any:
    return lambda: options.progress.step(what)


def _result(
    found: Sequence[tuple[_Scenario, Samples]], by_threads: dict[int, Samples], rounds: int
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


def _thread_table(by_threads: dict[int, Samples]) -> Table:
    rows = []
    for key in _CLIENTS:
        alone = Spread.of([1 / sample.cpu for sample in by_threads[1][key]]).median
        for threads, samples in by_threads.items():
            own, base = samples[key], samples[_CLIENTS[0]]
            per_core = Spread.of([1 / sample.cpu for sample in own])
            rows.append(
                [
                    VARIANTS[key].label,
                    str(threads),
                    _spread(own, "rate").text(",.0f"),
                    ratios(own, base, "rate").text(".2f"),
                    per_core.text(",.0f"),
                    f"{per_core.median / alone:.2f}",
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


def _thread_picture(by_threads: dict[int, Samples]) -> Lines:
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
                    (threads, _spread(samples[key], "rate").median)
                    for threads, samples in by_threads.items()
                ],
            )
            for key in _CLIENTS
        ],
        x_log=True,
    )


def _spread(samples: Sequence[Sample], what: str) -> Spread:
    return Spread.of([getattr(sample, what) for sample in samples])
