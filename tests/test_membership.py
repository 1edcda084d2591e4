"""Who is known and who is live: what must hold when threads come in the wrong order."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from alternator_lb.addresses import NodeAddress
from alternator_lb.events import NodeEvent
from alternator_lb.health import UP
from alternator_lb.membership import Membership
from alternator_lb.settings import Settings

A, B, C = (NodeAddress("http", f"127.0.0.{n}", 8000) for n in (1, 2, 3))


class Follower:
    wake: Any = None

    def publish(self, live: Any, convicted: Any) -> list[Any]:
        return []

    def late_calls(self, now: float, late_after: float) -> Any:
        return False, set()

    def cut(self, node: Any) -> None:
        pass


def members(**settings: Any) -> Membership:
    made = Membership(Settings.of(settings))
    made.wake = lambda: None
    return made


def test_seeds_that_are_resolved_late_do_not_undo_a_list() -> None:
    known = members()
    assert known.replace([A, B, C], [], 1)
    assert not known.replace([], [A])
    assert list(known.members) == [A, B, C]
    assert not known.replace([A, B, C], [], 2)


def test_an_older_list_does_not_overtake_a_later_one() -> None:
    known = members()
    known.replace([A, B, C], [], 2)
    assert not known.replace([A], [], 1)
    assert known.listed == (A, B, C)
    assert known.replace([A], [], 3)


def test_where_nobody_probes_calls_look_in_as_soon_as_a_node_is_out() -> None:
    known = members()
    follower = Follower()
    known.replace([A, B], [])
    for node in known.known():
        known.works(node, "probed")
    known.subscribe(follower)
    known.asleep = False
    known.unattended = True
    with known.lock:
        known.set_wake()
    assert follower.wake is None
    known.replace([A, B, C], [], 1)  # C is new: the tuple of live nodes does not change
    assert follower.wake is not None


def test_events_are_told_in_order_by_one_thread_at_a_time() -> None:
    told: list[NodeEvent] = []
    inside = threading.Lock()

    def listener(event: NodeEvent) -> None:
        assert inside.acquire(blocking=False), "two threads at once"
        told.append(event)
        inside.release()

    known = members(listener=listener)
    known.replace([A, B], [])
    node = known.members[A]
    known.works(node, "probed")

    def flap() -> None:
        for _ in range(300):
            known.convict(node, "refused")
            known.works(node, "probed")

    threads = [threading.Thread(target=flap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = [type(event).__name__ for event in told if event.address == A][1:]
    assert all(first != second for first, second in itertools.pairwise(kinds))
    assert node.health.state == UP


def test_a_listener_may_ask_and_change_what_it_hears_of() -> None:
    told: list[NodeEvent] = []

    def listener(event: NodeEvent) -> None:
        told.append(event)
        known.stats()
        if len(told) == 1:
            known.convict(known.members[B], "the listener says so")

    known = members(listener=listener)
    known.replace([A, B], [], 1)
    assert [event.address for event in told] == [A, B, B]


def test_who_follows_can_be_read_while_others_begin_to() -> None:
    known = members()
    kept = []
    end = threading.Event()

    def subscribe() -> None:
        while not end.is_set() and len(kept) < 20_000:
            kept.append(Follower())
            known.subscribe(kept[-1])
            if len(kept) % 50 == 0:
                del kept[:25]

    thread = threading.Thread(target=subscribe)
    thread.start()
    for _ in range(2_000):
        known.followers()
    end.set()
    thread.join()


def test_the_only_node_is_not_convicted_of_broken_answers() -> None:
    known = members()
    known.replace([A], [], 1)
    node = known.members[A]
    known.works(node, "probed")
    assert not any(known.broke(node, "reset") for _ in range(9))
    assert node.health.state == UP


def test_the_first_that_returns_when_all_were_out_brings_the_others_forward() -> None:
    known = members(fetch_interval=1000.0)
    known.replace([A, B], [], 1)
    for node in known.known():
        known.works(node, "probed")
    for node in known.known():
        known.convict(node, "refused")
    assert (known.stats()[B].next_probe or 0) > 20
    known.works(known.members[A], "probed")
    assert known.stats()[B].next_probe == 0


def test_the_same_nodes_in_another_order_change_nothing() -> None:
    known = members()
    known.replace([A, B, C], [], 1)
    live = known.live
    assert not known.replace([C, B, A], [], 2)
    assert known.live is live


def test_a_seed_that_is_not_listed_serves_until_a_listed_node_does() -> None:
    known = members()
    known.replace([B], [A], 1)
    known.works(known.spare[A], "probed")
    assert [node.address for node in known.live] == [A]
    known.works(known.members[B], "probed")
    assert [node.address for node in known.live] == [B]
