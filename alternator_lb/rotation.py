"""The pools of the live nodes, and whose turn it is."""

from __future__ import annotations

import itertools
import os
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from .connection import NodeConnection, OpenOnes
from .membership import Node
from .nodes import AlternatorNodes

__all__ = ["Rotation"]


class Rotation:
    """The pools of the live nodes, and whose turn it is. The virtual pools of one client share it.

    Args:
        nodes: tells who is live.
        open_pool: makes the urllib3 pool of one node.

    ``pools`` is an immutable tuple that is only ever replaced, so readers need no lock.
    """

    def __init__(self, nodes: AlternatorNodes, open_pool: Callable[[Node], Any]) -> None:
        self.nodes = nodes
        self.pools: tuple[Any, ...] = ()  # of node_pool_class()
        self.turn = _first_turn()
        self.wake: Callable[[], None] | None = None
        self.generation = 0  # one more in a child process: what is older is its parent's
        self._open_pool = open_pool
        self._by_node: dict[Node, Any] = {}
        # Every open connection, also those of nodes that left and have calls in flight. Weakly, so
        # that one which nobody gave back, as when a signal handler raised, is closed all the same.
        self._open_ones: OpenOnes = set()
        nodes.subscribe(self)
        _all.add(self)

    def publish(self, live: tuple[Node, ...], convicted: Node | None) -> list[Any]:
        """Take over a new tuple: who stays keeps pool and connections. Called under nodes' lock.

        Args:
            live: the nodes from here on.
            convicted: a node that failed just now: its connections are not used again.
        """
        before = self._by_node
        self._by_node = {
            node: before.get(node)
            if node in before and node is not convicted
            else self._opened(node)
            for node in live
        }
        self.pools = tuple(self._by_node.values())
        return [pool for node, pool in before.items() if self._by_node.get(node) is not pool]

    def late_calls(self, now: float, late_after: float) -> tuple[bool, set[Node]]:
        """Return whether calls are in flight, and the nodes that keep one waiting for too long.

        Args:
            now: the monotonic time.
            late_after: seconds.
        """
        in_flight = False
        late = set()
        for conn in self._open():
            since, pool = conn.busy_since, conn.node_pool
            if since and pool is not None:
                in_flight = True
                if now - since > late_after:
                    late.add(pool.node)
        return in_flight, late

    def cut(self, node: Node) -> None:
        """Have the calls that wait on a node fail as if it had closed their connections."""
        for conn in self._open():
            pool = conn.node_pool
            if conn.busy_since and pool is not None and pool.node is node:
                conn.cut()

    def close_idle(self) -> None:
        """Close the idle connections of every node; calls in flight finish."""
        for pool in self.pools:
            pool.drop_idle()

    def _open(self) -> Iterator[NodeConnection]:
        for ref in list(self._open_ones):
            conn = ref()
            if conn is not None:
                yield conn

    def _opened(self, node: Node) -> Any:
        pool = self._open_pool(node)
        pool.node = node
        pool.open_ones = self._open_ones
        return pool

    def forget_inherited(self) -> None:
        """In a child process: drop the connections that the parent goes on using."""
        self.generation += 1
        self.turn = _first_turn()
        self._open_ones = set()  # those in use are never closed here: the parent has them
        for pool in self.pools:
            pool.open_ones = self._open_ones
            pool.forget_inherited()


def _first_turn() -> Callable[[], int]:
    """Many processes that start together, or forks of one, must not march in step."""
    return itertools.count(random.randrange(1 << 20)).__next__


_all: weakref.WeakSet[Rotation] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for rotation in list(_all):
        rotation.forget_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
