"""Polling: whom it asks and when, what counts as a sign of life, and who is suspected."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from typing import Any

import pytest

from alternator_lb import AlternatorNodes, install_alternator_transport, polling
from alternator_lb.membership import Node
from alternator_lb.testing import LocalCluster

from .conftest import get, until
from .faults.test_answers import client_for, read
from .servers import ScriptedServer, answer
from .test_discovery import says
from .test_nodes import hosts


def states(nodes: AlternatorNodes) -> dict[str, str]:
    return {address.host: stats.state for address, stats in nodes.stats().items()}


# -- whom it asks ---------------------------------------------------------------------------------


def test_polls_go_round_over_connections_that_are_kept(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    for _ in range(12):
        nodes.refresh()
    reports = [node.report for node in cluster.nodes]
    assert sum(report.polls for report in reports) == 14  # two nodes were probed when they joined
    assert all(report.polls >= 3 for report in reports)
    assert all(report.poll_connections == 1 for report in reports)
    nodes.stop()


def test_a_poll_falls_back_to_the_rest_and_to_the_seeds(cluster: LocalCluster) -> None:
    seed, second, third = cluster.nodes
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    for node in (second, third):
        node.stop()
        for _ in range(3):
            nodes.refresh()
    seed.answer_localnodes(body=json.dumps([second.address, third.address]).encode())
    nodes.refresh()
    assert hosts(nodes) == {second.address, third.address}
    for _ in range(3):
        nodes.refresh()  # neither of the listed answers: the seed does
    nodes.stop()


def test_the_connection_for_polls_to_a_node_that_left_is_closed(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    leaving = cluster.nodes[2]
    assert leaving.report.open_connections == 1
    leaving.listed = False
    nodes.refresh()
    until(lambda: leaving.report.open_connections == 0)


def test_a_round_that_takes_too_long_goes_on_with_the_seeds(
    cluster: LocalCluster, nodes: AlternatorNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "ROUND_SECONDS", -1.0)
    assert [address.host for address in nodes._polling._to_ask([])] == cluster.seeds


def test_a_dead_seed_that_is_not_listed_is_told_of_and_costs_nothing(
    cluster: LocalCluster,
) -> None:
    """It is probed with a back-off like any other, and does not keep the refresher busy."""
    nodes = AlternatorNodes("http", cluster.port, "127.0.0.91", *cluster.seeds, fetch_interval=60)
    nodes.refresh()
    stats = {address.host: each for address, each in nodes.stats().items()}
    assert (stats["127.0.0.91"].state, stats["127.0.0.91"].calls) == ("down", 0)
    assert "Connection refused" in stats["127.0.0.91"].reason
    assert hosts(nodes) == set(cluster.addresses)
    nodes._polling.next_fetch = time.monotonic() + 60
    nodes._members.asleep = True
    assert nodes._polling.poll() > 10
    nodes.stop()


# -- what is done with the answer ------------------------------------------------------------------


def test_a_bad_answer_keeps_the_last_good_list_and_warns_once(caplog: Any) -> None:
    body = [b'["127.0.0.77", "127.0.0.78"]']
    with ScriptedServer(lambda conn, _: conn.sendall(answer(body[0]))) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        nodes._polling.poll()
        body[0] = b"[]"
        with caplog.at_level(logging.WARNING, "alternator_lb"):
            for _ in range(3):
                nodes._polling.next_fetch = 0.0
                nodes._polling.poll()
        assert nodes._members.listed is not None
        assert [address.host for address in nodes._members.listed] == ["127.0.0.77", "127.0.0.78"]
        assert len(caplog.records) == 1
        assert "empty list" in caplog.text
        nodes.stop()


def test_a_bad_entry_is_skipped_with_one_warning(caplog: Any) -> None:
    body = b'["127.0.0.1", "8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11"]'
    with (
        caplog.at_level(logging.WARNING, "alternator_lb"),
        ScriptedServer(lambda conn, _: conn.sendall(answer(body))) as server,
    ):
        nodes = AlternatorNodes("http", server.port, server.address)
        for _ in range(3):
            nodes.refresh()
        assert hosts(nodes) == {"127.0.0.1"}
        nodes.stop()
    assert len(caplog.records) == 1
    assert "8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11" in caplog.text


# -- busy and idle --------------------------------------------------------------------------------


def test_polls_while_calls_flow_and_seldom_when_none_do(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.5)
    get(client)
    assert "polling every 0.5 s" in repr(nodes)
    until(lambda: "idle, polling every 60 s" in repr(nodes))
    assert nodes._polling.next_fetch - time.monotonic() > 50
    polled = sum(node.report.polls for node in cluster.nodes)
    get(client)  # the first call after a quiet time wakes the refresher
    until(lambda: sum(node.report.polls for node in cluster.nodes) > polled)
    assert not nodes._members.asleep


@pytest.mark.parametrize("begin", ["start", "first call"])
def test_the_first_call_waits_for_the_first_list(
    cluster: LocalCluster, make_client: Any, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Else the calls of a short script would all go to the seed."""
    monkeypatch.setattr(polling, "FIRST_ANSWER_SECONDS", 30.0)
    nodes = AlternatorNodes("http", cluster.port, cluster.seeds[0])
    if begin == "start":
        nodes.start()
    client = make_client(cluster)
    install_alternator_transport(client, nodes)
    for _ in range(3):
        assert get(client) == "rex"
    nodes.stop()
    assert [node.report.calls for node in cluster.nodes] == [1, 1, 1]


def test_refresh_probes_also_after_stop(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.stop()
    assert {address.host for address in nodes.refresh()} == set(cluster.addresses)


def test_start_after_stop_is_awake_to_calls(cluster: LocalCluster, make_client: Any) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    client = make_client(cluster)
    install_alternator_transport(client, nodes)
    get(client)
    until(lambda: "idle" in repr(nodes))
    nodes.stop()
    nodes.start()
    get(client)
    assert "idle" not in repr(nodes)
    nodes.stop()


# -- signs of life ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state"),
    [("200 OK", "up"), ("404 Not Found", "up"), ("500 Internal Server Error", "down")],
)
def test_which_answers_to_a_probe_are_a_sign_of_life(status: str, state: str) -> None:
    first = ScriptedServer(says(b'["127.0.0.33", "127.0.0.34"]'), "127.0.0.33")
    with first, ScriptedServer(says(b"", status), "127.0.0.34", first.port):
        nodes = AlternatorNodes("http", first.port, "127.0.0.33")
        nodes.refresh()
        assert states(nodes) == {"127.0.0.33": "up", "127.0.0.34": state}
        nodes.stop()


def test_refresh_does_not_wait_for_the_next_probe(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=3600)
    nodes.refresh()
    cluster.nodes[1].stop()
    for _ in range(3):
        get(client)
    assert states(nodes)[cluster.nodes[1].address] == "down"
    cluster.nodes[1].start()
    assert {address.host for address in nodes.refresh()} == set(cluster.addresses)


def test_nodes_that_are_out_are_probed_at_once() -> None:
    together = threading.Barrier(polling.PROBES_AT_ONCE)
    polling._at_once(lambda node: together.wait(20) and None, [None] * polling.PROBES_AT_ONCE)  # type: ignore[list-item]
    assert not together.broken


# -- calls that wait -------------------------------------------------------------------------------


class Waiting:
    """Follows the nodes, with a call that has waited on the first of them for an hour."""

    wake: Any = None
    node: Node

    def publish(self, live: tuple[Node, ...], convicted: Node | None) -> list[Any]:
        self.node = live[0]
        return []

    def late_calls(self, now: float, late_after: float) -> tuple[bool, set[Node]]:
        return True, {self.node} if late_after < 3600 else set()

    def cut(self, node: Node) -> None:
        raise AssertionError("nobody is silent here")


@pytest.mark.parametrize(("watch", "probes"), [(True, 2), (False, 0)])
def test_who_keeps_calls_waiting_is_asked_now_and_then(
    watch: bool, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = AlternatorNodes("http", 8000, "127.0.0.1", watch=watch, late_after=0.7)
    asked: list[Any] = []
    monkeypatch.setattr(nodes._polling.discovery, "probe", lambda address: asked.append(address))
    waiting = Waiting()
    nodes.subscribe(waiting)
    for now in (100.0, 100.1, 100.6, 100.8):
        assert nodes._polling._watch(now)
    assert len(asked) == probes


def test_while_a_call_is_in_flight_polls_are_frequent() -> None:
    with ScriptedServer(says(b'["127.0.0.35"]'), "127.0.0.35") as server:
        nodes = AlternatorNodes("http", server.port, "127.0.0.35", watch=False)
        waiting = Waiting()
        nodes.subscribe(waiting)
        nodes._polling._set_asleep(False)
        for _ in range(3):
            nodes._polling.next_fetch = 0.0
            nodes._polling.poll()
        assert not nodes._members.asleep
        assert nodes._polling.next_fetch - time.monotonic() < 2
        nodes.stop()


def test_a_node_that_answers_nonsense_is_not_silent() -> None:
    """However late its calls are."""
    listed = [b'["127.0.0.65"]']
    released = threading.Event()

    def script(conn: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            conn.sendall(answer(listed[0]))
        else:
            released.wait(20)
            conn.sendall(answer(b'{"Item": {"name": {"S": "rex"}}}'))

    with ScriptedServer(script, "127.0.0.65") as server:
        client = client_for(server.port)
        nodes = install_alternator_transport(
            client, "127.0.0.65", fetch_interval=0.05, late_after=0.1
        )
        nodes.refresh()
        listed[0] = b"[]"
        (node,) = nodes._members.live
        found: list[Any] = []
        call = threading.Thread(target=lambda: found.append(read(client, "rex")))
        call.start()
        until(lambda: node.asked_at > 0)
        asked = node.asked_at
        until(lambda: node.asked_at > asked or not call.is_alive())  # what the first found counts
        released.set()
        call.join(20)
        assert found == ["rex"]
        assert states(nodes) == {"127.0.0.65": "up"}
        client.close()
