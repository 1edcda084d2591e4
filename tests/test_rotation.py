"""The pools of the live nodes, and whose turn it is."""

from __future__ import annotations

import weakref
from typing import Any

from alternator_lb import AlternatorNodes
from alternator_lb.rotation import Rotation


class Pool:
    open_ones: Any = None

    def __init__(self, node: Any) -> None:
        self.node = node
        self.closed = False
        self.forgotten = False

    def close(self) -> None:
        self.closed = True

    def forget_inherited(self) -> None:
        self.forgotten = True


class Conn:
    def __init__(self, pool: Pool, busy_since: float) -> None:
        self.node_pool = pool
        self.busy_since = busy_since
        self.was_cut = False

    def cut(self) -> None:
        self.was_cut = True


def rotation_of(*addresses: str) -> Rotation:
    return Rotation(AlternatorNodes("http", 8000, *addresses), Pool)


def opened(rotation: Rotation, *busy_since: float) -> list[Conn]:
    """A connection to each node."""
    pairs = zip(rotation.pools, busy_since, strict=True)
    conns = [Conn(pool, since) for pool, since in pairs]
    rotation._open_ones.update(map(weakref.ref, conns))  # type: ignore[arg-type]
    return conns


def test_processes_start_at_different_nodes() -> None:
    nodes = AlternatorNodes("http", 8000, *[f"127.0.0.{n}" for n in range(1, 11)])
    starts = {rotation.turn() % 10 for rotation in [Rotation(nodes, Pool) for _ in range(60)]}
    assert len(starts) > 3


def test_only_the_nodes_own_calls_are_cut() -> None:
    rotation = rotation_of("127.0.0.1", "127.0.0.2")
    conns = opened(rotation, 1.0, 1.0)
    rotation.cut(rotation.pools[0].node)
    assert [conn.was_cut for conn in conns] == [True, False]


def test_an_idle_connection_is_not_cut() -> None:
    rotation = rotation_of("127.0.0.1")
    (conn,) = opened(rotation, 0.0)
    rotation.cut(rotation.pools[0].node)
    assert not conn.was_cut


def test_calls_in_flight_and_late_ones_are_told_apart() -> None:
    rotation = rotation_of("127.0.0.1", "127.0.0.2", "127.0.0.3")
    assert rotation.late_calls(10.0, 2.0) == (False, set())
    conns = opened(rotation, 0.0, 7.0, 9.0)
    assert rotation.late_calls(10.0, 2.0) == (True, {conns[1].node_pool.node})


def test_a_connection_that_is_gone_waits_for_nobody() -> None:
    rotation = rotation_of("127.0.0.1")
    conns = opened(rotation, 1.0)
    conns.clear()
    assert rotation.late_calls(10.0, 2.0) == (False, set())


def test_a_convicted_node_that_stays_gets_a_new_pool() -> None:
    """As the last resort it stays; its connections are not used again."""
    rotation = rotation_of("127.0.0.1", "127.0.0.2")
    before = rotation.pools
    error = ConnectionRefusedError(111, "refused")
    for pool in before:  # with every node out, all of them are tried
        rotation.nodes.failed_to_connect(pool.node, error, "refused")
    assert [pool.node for pool in rotation.pools] == [pool.node for pool in before]
    assert rotation.pools[1] is not before[1]
    assert before[1].closed


def test_a_child_process_begins_anew() -> None:
    """A turn of its own, too: that by chance it is the next one, four times, does not happen."""
    rotation = rotation_of("127.0.0.1", "127.0.0.2")
    opened(rotation, 1.0, 1.0)
    parents, turns = rotation._open_ones, [rotation.turn()]
    for generation in range(1, 5):
        rotation.forget_inherited()
        turns.append(rotation.turn())
        assert rotation.generation == generation
        assert rotation.late_calls(10.0, 2.0) == (False, set())
    assert turns != list(range(turns[0], turns[0] + 5))
    assert rotation._open_ones is not parents
    assert all(pool.open_ones is rotation._open_ones for pool in rotation.pools)
    assert all(pool.forgotten for pool in rotation.pools)
