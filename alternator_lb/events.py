"""What happens to nodes, as small typed objects: for ``listener=`` and the log."""

from __future__ import annotations

from dataclasses import dataclass

from .addresses import NodeAddress

__all__ = ["NodeDown", "NodeEvent", "NodeJoined", "NodeLeft", "NodeUp"]


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something happened to a node.

    Args:
        address: the node.
        reason: why, in words for people.
    """

    address: NodeAddress
    reason: str


class NodeJoined(NodeEvent):
    """The cluster lists the node for the first time. It gets calls when it answers a probe."""

    __slots__ = ()


class NodeLeft(NodeEvent):
    """The cluster lists the node no more. It gets no new call."""

    __slots__ = ()


class NodeDown(NodeEvent):
    """The node failed, and gets no call until it answers a probe."""

    __slots__ = ()


class NodeUp(NodeEvent):
    """The node works, and takes its turns from here on."""

    __slots__ = ()
