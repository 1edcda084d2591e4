"""What a TLS handshake costs the client when it connects again to a node that it knows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from botocore.httpsession import get_cert_path

from .backend import Backend, Target, Traffic
from .measure import Sample, Spread, alternate, ratios, workers
from .result import Bar, Bars, Claim, Options, Result, Table, expected
from .variants import OPERATIONS, VARIANTS

__all__ = ["run"]

_VARIANTS = ("plain", "peer", "ours")
_NODES = 3

# Loading the CA certificates is most of what stock botocore pays, so their number matters.
_TRUST = {
    "bundle": "trusting the public CAs and the cluster's own",
    "own": "trusting the cluster's own CA only",
}


@dataclass(frozen=True)
class _Found:
    reconnecting: Mapping[str, Sequence[Sample]]  # every call connects
    kept: Mapping[str, Sequence[Sample]]  # no call does
    traffic: Mapping[str, Traffic]  # of the former

    def handshakes(self, key: str) -> list[Sample]:
        """What a call that connects costs more than one that does not."""
        return [
            Sample(first.cpu - second.cpu, first.wall - second.wall, 0.0)
            for first, second in zip(self.reconnecting[key], self.kept[key], strict=True)
        ]


def run(options: Options) -> Result:
    """Measure calls that connect beside calls that do not, with many CA certificates and one."""
    rounds, calls = (3, 8) if options.quick else (7, 32)
    options.progress.begin("tls", len(_TRUST) * (rounds + 1))
    found = {}
    for trust, title in _TRUST.items():
        found[trust] = _measure(options, trust, title, rounds, calls)
    return _result(found)


def _measure(options: Options, trust: str, title: str, rounds: int, calls: int) -> _Found:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = stack.enter_context(Backend(_NODES, tls=True))
        # One each, so that nginx can say who resumed sessions.
        closing = {
            key: stack.enter_context(Backend(_NODES, tls=True, log=True, keep_alive=False))
            for key in _VARIANTS
        }
        targets = {f"kept {key}": kept.target for key in _VARIANTS} | {
            f"closing {key}": backend.target for key, backend in closing.items()
        }
        if trust == "bundle":
            targets = {name: _with_bundle(target, folder) for name, target in targets.items()}
        with workers(
            {name: VARIANTS[name.split()[1]] for name in targets}, targets, OPERATIONS["get"]
        ) as started:
            samples = alternate(
                started,
                rounds=rounds,
                calls=calls,
                warm_up=3 * _NODES,
                tick=lambda: options.progress.step(title),
            )
        return _Found(
            {key: samples[f"closing {key}"] for key in _VARIANTS},
            {key: samples[f"kept {key}"] for key in _VARIANTS},
            {key: backend.traffic() for key, backend in closing.items()},
        )


def _with_bundle(target: Target, folder: Path) -> Target:
    assert target.ca_file is not None
    own = Path(target.ca_file)
    both = folder / f"{own.parent.name}.pem"
    both.write_bytes(Path(get_cert_path(True)).read_bytes() + b"\n" + own.read_bytes())
    return replace(target, ca_file=str(both))


def _result(found: Mapping[str, _Found]) -> Result:
    tables, groups = [], []
    base = _VARIANTS[0]
    for trust, title in _TRUST.items():
        its = found[trust]
        rows, bars = [], []
        for key in _VARIANTS:
            variant, own = VARIANTS[key], its.handshakes(key)
            cpu = Spread.of([each.cpu for each in own])
            ratio = ratios(own, its.handshakes(base))
            traffic = its.traffic[key]
            rows.append(
                [
                    variant.label,
                    cpu.text(".2f", 1e3),
                    ratio.text(".2f"),
                    Spread.of([each.wall for each in own]).text(".2f", 1e3),
                    ratios(own, its.handshakes(base), "wall").text(".2f"),
                    Spread.of([each.cpu for each in its.reconnecting[key]]).text(".2f", 1e3),
                    f"{traffic.resumed / max(1, traffic.connections):.0%}",
                ]
            )
            bars.append(
                Bar(
                    variant.label,
                    variant.color,
                    1e3 * cpu.median,
                    1e3 * cpu.low,
                    1e3 * cpu.high,
                    f"{1e3 * cpu.median:.1f} ms   ({ratio.median:.2f})",
                )
            )
        tables.append(
            Table(
                f"Connecting again, {title}",
                [
                    "client",
                    "CPU ms",
                    f"÷ {VARIANTS[base].label}",
                    "wall ms",
                    f"wall ÷ {VARIANTS[base].label}",
                    "CPU ms with the call",
                    "sessions resumed",
                ],
                rows,
            )
        )
        groups.append((title, bars))
    most = ratios(found["bundle"].handshakes("ours"), found["bundle"].handshakes(base)).median
    claim = Claim.at_most(
        f"connecting again, {_TRUST['bundle']} ÷ {VARIANTS[base].label}", most, 0.25
    )
    tables.append(expected([claim]))
    return Result(
        name="tls",
        title="TLS: connecting again to a known node",
        about=(
            f"Signed GetItems over TLS 1.3 to {_NODES} nodes (one for plain boto3). The nodes of "
            "one cluster close every connection after its answer, those of another keep theirs "
            "open: the difference is what connecting again costs. Certificates are always checked."
        ),
        tables=tables,
        pictures=[
            Bars(
                name="tls",
                title="What it costs the client to connect again with TLS",
                subtitle="Shorter is better; in brackets, compared with plain boto3",
                x_label="client CPU of connecting again, in milliseconds",
                groups=groups,
            )
        ],
    )
