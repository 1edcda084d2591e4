"""Per-node connection reuse: how many connections a client opens for its calls."""

from __future__ import annotations

from dataclasses import dataclass

from .backend import Backend, Traffic
from .measure import run_calls, workers
from .result import Claim, Lines, Options, Result, Series, Table, expected
from .variants import OPERATIONS, VARIANTS

__all__ = ["run"]

_VARIANTS = ("turn", "peer", "ours")


@dataclass(frozen=True)
class _Scale:
    calls: int
    nodes: tuple[int, ...]


_FULL = _Scale(3000, (3, 12, 30, 100, 300))
_QUICK = _Scale(300, (3, 12, 30))


def run(options: Options) -> Result:
    """Make the same number of calls to more and more nodes, and ask nginx what it saw."""
    scale = _QUICK if options.quick else _FULL
    options.progress.begin("reuse", len(scale.nodes) * len(_VARIANTS))
    seen: dict[tuple[int, str], Traffic] = {}
    for nodes in scale.nodes:
        for key in _VARIANTS:
            seen[nodes, key] = _traffic(key, nodes, scale.calls)
            options.progress.step(f"{nodes} nodes, {VARIANTS[key].label}")
    return _result(scale, seen)


def _traffic(key: str, nodes: int, calls: int) -> Traffic:
    with Backend(nodes, log=True) as backend:
        # A process each, which is gone before nginx is asked: no connection is still to come.
        with workers({key: VARIANTS[key]}, backend.target, OPERATIONS["get"]) as started:
            started[key].do(run_calls, calls)
        return backend.traffic()


def _result(scale: _Scale, seen: dict[tuple[int, str], Traffic]) -> Result:
    rows = []
    beyond = {
        at: max(0, traffic.connections - len(traffic.calls_by_node)) for at, traffic in seen.items()
    }
    own = max(beyond[nodes, "ours"] for nodes in scale.nodes)
    for (nodes, key), traffic in seen.items():
        by_node = list(traffic.calls_by_node.values())
        rows.append(
            [
                VARIANTS[key].label,
                str(nodes),
                f"{traffic.calls:,}",
                f"{traffic.connections:,}",
                f"{beyond[nodes, key]:,}",
                f"{traffic.calls / max(1, traffic.connections):,.1f}",
                f"{traffic.connections / max(1, traffic.calls):.1%}",
                f"{min(by_node)}-{max(by_node)}" if len(by_node) == nodes else "not all",
                str(traffic.poll_connections),
            ]
        )
    lines = [
        Series(
            VARIANTS[key].label,
            VARIANTS[key].color,
            [(nodes, max(1, seen[nodes, key].connections)) for nodes in scale.nodes],
        )
        for key in _VARIANTS
    ]
    fewest = Series(
        "the fewest: one for each node", "", [(n, n) for n in scale.nodes], role="limit"
    )
    most = Series(
        "the most: one for each call", "", [(n, scale.calls) for n in scale.nodes], role="limit"
    )
    return Result(
        name="reuse",
        title="Connection reuse",
        about=(
            f"{scale.calls:,} signed GetItems from one thread, with everything at its default. The "
            "server counts: a connection is opened for calls if it carried one. botocore keeps "
            "connections to the ten hosts that it used last, so with more nodes than ten, taken in "
            "turn, every call finds its connection thrown away."
        ),
        tables=[
            Table(
                "Connections opened for calls, as the server saw it",
                [
                    "client",
                    "nodes",
                    "calls",
                    "opened",
                    "beyond each node's first",
                    "calls per connection",
                    "calls that opened one",
                    "calls a node",
                    "opened for polls",
                ],
                rows,
            ),
            expected([Claim("connections opened after each node's first: 0", str(own), own == 0)]),
        ],
        pictures=[
            Lines(
                name="reuse",
                title=f"{scale.calls:,} calls: one connection for each call, or one for each node?",
                subtitle="Connections that nginx saw opened for the calls of one thread",
                x_label="nodes in the cluster",
                y_label="connections opened",
                series=[most, fewest, *lines],
                x_log=True,
                y_log=True,
            )
        ],
    )
