"""What more nodes cost: CPU of a call, memory of a node, and CPU of polling a long list."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from alternator_lb import AlternatorNodes, install_alternator_transport

from .backend import Backend, Target
from .measure import Sample, Spread, Worker, alternate, open_variant, ratios, run_calls, workers
from .result import Claim, Lines, Options, Result, Series, Table, expected
from .variants import OPERATIONS, VARIANTS, fake_domain_client

__all__ = ["run"]

_VARIANTS = ("turn", "peer", "ours")
_GET = OPERATIONS["get"]


@dataclass(frozen=True)
class _Scale:
    nodes: tuple[int, ...]
    rounds: int
    calls: int
    windows: int
    window_seconds: float


_FULL = _Scale((3, 30, 100, 300, 1000), rounds=7, calls=320, windows=3, window_seconds=5.0)
_QUICK = _Scale((3, 30, 300), rounds=3, calls=80, windows=1, window_seconds=2.0)

Samples = Mapping[tuple[str, int], Sequence[Sample]]


@dataclass(frozen=True)
class _Polling:
    share_of_core: Mapping[str, Spread]
    polls_a_second: Mapping[str, float]


def run(options: Options) -> Result:
    """Measure each of the three."""
    scale = _QUICK if options.quick else _FULL
    options.progress.begin("scale", scale.rounds + 1 + 1 + scale.windows)
    samples = _calls(options, scale)
    memory = _memory(scale)
    options.progress.step("memory of a node")
    return _result(scale, samples, memory, _polling(options, scale))


def _calls(options: Options, scale: _Scale) -> Samples:
    with ExitStack() as stack:
        keys = [(key, nodes) for key in _VARIANTS for nodes in scale.nodes]
        targets = {nodes: stack.enter_context(Backend(nodes)).target for nodes in scale.nodes}
        names = {f"{key} {nodes}": (key, nodes) for key, nodes in keys}
        started = stack.enter_context(
            workers(
                {name: VARIANTS[key] for name, (key, _) in names.items()},
                {name: targets[nodes] for name, (_, nodes) in names.items()},
                _GET,
            )
        )
        for name, (_, nodes) in names.items():  # each node's first call opens its connection
            started[name].do(run_calls, nodes)
        samples = alternate(
            started,
            rounds=scale.rounds,
            calls=scale.calls,
            warm_up=20,
            tick=lambda: options.progress.step("calls to more and more nodes"),
        )
    return {names[name]: rounds for name, rounds in samples.items()}


def _memory(scale: _Scale) -> tuple[float, float]:
    """Return the bytes that one more node takes, without a connection and with one."""
    few, many = scale.nodes[0], scale.nodes[-1]
    traced = {}
    for count in (few, many):
        with Backend(count) as backend, Worker() as worker:
            traced[count] = worker.do(_traced_bytes, backend.target)
    idle, connected = (
        (large - small) / (many - few)
        for small, large in zip(traced[few], traced[many], strict=True)
    )
    return idle, connected


def _polling(options: Options, scale: _Scale) -> _Polling:
    shares: dict[str, list[float]] = {key: [] for key in _POLLERS}
    polls = {}
    nodes = scale.nodes[-1]
    with ExitStack() as stack:
        backends = {key: stack.enter_context(Backend(nodes, log=True)) for key in _POLLERS}
        started = {key: stack.enter_context(Worker()) for key in _POLLERS}
        begun = time.monotonic()
        for key, worker in started.items():
            worker.do(_POLLERS[key], backends[key].target)
        for _ in range(scale.windows):
            for worker in started.values():  # at the same time: each is nearly idle
                worker.begin(_cpu_while_idle, scale.window_seconds)
            for key, worker in started.items():
                shares[key].append(worker.finish())
            options.progress.step("polling")
        seconds = time.monotonic() - begun
        for key, backend in backends.items():
            polls[key] = backend.traffic().polls / seconds
    return _Polling({key: Spread.of(values) for key, values in shares.items()}, polls)


# -- what runs in a worker ------------------------------------------------------------------

_kept: list[Any] = []


def _traced_bytes(target: Target) -> tuple[int, int]:
    open_variant(VARIANTS["ours"], replace(target, addresses=target.addresses[:1]), _GET)
    run_calls(10)  # loads what botocore loads once
    tracemalloc.start()
    client = fake_domain_client(target)
    nodes = install_alternator_transport(client, target.addresses[:3])
    nodes.refresh()
    client.get_item(**_GET.arguments)
    nodes.stop()
    idle = _traced_now()
    for _ in target.addresses:
        client.get_item(**_GET.arguments)
    return idle, _traced_now()


def _traced_now() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _poll_with_peer(target: Target) -> None:
    open_variant(VARIANTS["peer"], target, _GET)
    run_calls(3)  # it polls once a second for a minute after a call


def _poll_with_ours(target: Target) -> None:
    # No calls are made, so the interval of a client without calls is what counts.
    nodes = AlternatorNodes(
        target.scheme, target.port, *target.addresses[:3], fetch_interval=1.0, idle_interval=1.0
    )
    client = fake_domain_client(target)
    install_alternator_transport(client, nodes)
    client.get_item(**_GET.arguments)  # from here on a client follows the list
    _kept.append(client)


def _cpu_while_idle(seconds: float) -> float:
    cpu, wall = time.process_time(), time.monotonic()
    time.sleep(seconds)
    return (time.process_time() - cpu) / (time.monotonic() - wall)


_POLLERS = {"peer": _poll_with_peer, "ours": _poll_with_ours}


# -- what was found -------------------------------------------------------------------------


def _result(
    scale: _Scale, samples: Samples, memory: tuple[float, float], polling: _Polling
) -> Result:
    few, many = scale.nodes[0], scale.nodes[-1]
    share = polling.share_of_core["ours"].median
    return Result(
        name="scale",
        title="Number of nodes",
        about=(
            "One thread makes signed GetItems to clusters of different sizes, after a call to each "
            "node; all clients and all sizes take turns. Memory is what Python allocates for one "
            f"more node (a cluster of {many} against one of {few}). Polling is the CPU of a "
            f"process that makes no calls and asks once a second for a list of {many} nodes that "
            "never changes; alternator-client asks each of its three seeds."
        ),
        tables=[
            Table(
                "Signed GetItem by number of nodes: per call",
                ["client", "nodes", "CPU µs", f"÷ the same with {few} nodes", "wall µs"],
                [
                    [
                        VARIANTS[key].label,
                        str(nodes),
                        Spread.of([each.cpu for each in own]).text(".0f", 1e6),
                        ratios(own, samples[key, few]).text(".2f"),
                        Spread.of([each.wall for each in own]).text(".0f", 1e6),
                    ]
                    for (key, nodes), own in samples.items()
                ],
            ),
            Table(
                "Memory of one more node",
                ["node", "bytes"],
                [
                    ["idle, without a connection", f"{memory[0]:,.0f}"],
                    ["with an open connection", f"{memory[1]:,.0f}"],
                ],
            ),
            Table(
                f"Polling a list of {many} nodes",
                ["client", "share of a core", "requests a second"],
                [
                    [
                        VARIANTS[key].label,
                        polling.share_of_core[key].text(".2%"),
                        f"{polling.polls_a_second[key]:.1f}",
                    ]
                    for key in _POLLERS
                ],
            ),
            expected(
                [
                    Claim.at_most(
                        f"a call with {many} nodes ÷ a call with {few}",
                        ratios(samples["ours", many], samples["ours", few]).median,
                        1.05,
                    ),
                    Claim("an idle node: under 4 KB", f"{memory[0]:,.0f} bytes", memory[0] < 4096),
                    Claim("polling: under 1% of a core", f"{share:.2%}", share < 0.01),
                ]
            ),
        ],
        pictures=[
            Lines(
                name="scale",
                title="What a call costs the client in CPU, by number of nodes",
                subtitle="Signed GetItem, one thread; lower is better",
                x_label="nodes in the cluster",
                y_label="CPU of a call, in microseconds",
                series=[
                    Series(
                        VARIANTS[key].label,
                        VARIANTS[key].color,
                        [
                            (
                                nodes,
                                1e6 * Spread.of([each.cpu for each in samples[key, nodes]]).median,
                            )
                            for nodes in scale.nodes
                        ],
                    )
                    for key in _VARIANTS
                ],
                x_log=True,
            )
        ],
    )
