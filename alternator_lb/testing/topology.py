"""Which datacenter and rack each node belongs to, and what /localnodes answers from that."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeGuard
from urllib.parse import parse_qs

DATACENTER = "datacenter1"
RACK = "rack1"
NODES = 3

Datacenters = int | Sequence[str] | Mapping[str, int] | None
Racks = int | Sequence[str] | None


class Member(Protocol):
    """What has to be known of a node."""

    address: str
    datacenter: str
    rack: str
    listed: bool


class Topology:
    """Deals datacenters and racks to nodes, in turn."""

    def __init__(self, nodes: int | None, datacenters: Datacenters, racks: Racks) -> None:
        """Check the arguments of `LocalCluster` of the same names.

        Raises:
            ValueError: one of them makes no sense; the text names it.
        """
        self._racks = _names("racks", racks, "rack", RACK)
        self._dealt: dict[str, int] = {}
        if nodes is not None and not (is_int(nodes) and nodes > 0):
            raise ValueError(f"nodes={nodes!r}: give a number, 1 or more")
        if isinstance(datacenters, Mapping):
            if nodes is not None:
                raise ValueError(
                    f"nodes={nodes!r}, datacenters={datacenters!r}: give one of them, "
                    "or the datacenters as a list of names"
                )
            for name, count in datacenters.items():
                if not isinstance(name, str) or not is_int(count) or count < 0:
                    raise ValueError(
                        f"datacenters={datacenters!r}: {name!r} needs a number; "
                        "give names and numbers of nodes, such as {'near': 2}"
                    )
            self._names = list(datacenters)
            self.first = [name for name, count in datacenters.items() for _ in range(count)]
        else:
            self._names = _names("datacenters", datacenters, "datacenter", DATACENTER)
            count = NODES if nodes is None else nodes
            self.first = list(itertools.islice(itertools.cycle(self._names), count))
        if not self.first:
            raise ValueError(f"datacenters={datacenters!r}: give at least one node")

    def place(self, datacenter: str | None, rack: str | None) -> tuple[str, str]:
        """Return datacenter and rack of one more node, where they are not given."""
        chosen = self._names[0] if datacenter is None else datacenter
        turn = self._dealt.get(chosen, 0)
        self._dealt[chosen] = turn + 1
        return chosen, self._racks[turn % len(self._racks)] if rack is None else rack


def local_nodes(query: str, asked: Member | None, members: Iterable[Member]) -> list[str]:
    """Return the addresses that /localnodes names.

    Args:
        query: the query of the request; ``dc`` and ``rack`` count, empty ones do not.
        asked: the node that was asked, whose datacenter is the default; None for one unknown.
        members: all nodes.
    """
    wanted = parse_qs(query)
    rack = wanted.get("rack", [""])[0]
    datacenter = wanted.get("dc", [asked.datacenter if asked else ""])[0]
    return [
        each.address
        for each in members
        if each.listed and each.datacenter == datacenter and rack in ("", each.rack)
    ]


def _names(setting: str, value: int | Sequence[str] | None, stem: str, default: str) -> list[str]:
    if value is None:
        return [default]
    if isinstance(value, str):
        raise ValueError(f"{setting}={value!r}: give a sequence of names, such as [{value!r}]")
    if is_int(value):
        names = [f"{stem}{n + 1}" for n in range(value)]
    elif isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        names = list(value)
    else:
        raise ValueError(f"{setting}={value!r}: give a number or a sequence of names")
    if not names:
        raise ValueError(f"{setting}={value!r}: give at least one")
    return names


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)
