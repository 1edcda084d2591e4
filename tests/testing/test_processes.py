"""Nodes that are processes: killed and frozen for real, and gone with their cluster."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import urllib3
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from alternator_lb.testing import LocalCluster, LocalNode
from alternator_lb.testing.process import NodeProcess

from ..conftest import until
from .conftest import TABLE, Clients
from .test_cluster import get, names


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalCluster]:
    """Give the tests one cluster of processes; each leaves its nodes running."""
    with LocalCluster(processes=True) as cluster:
        yield cluster


def pid(node: LocalNode) -> int:
    host = node._host
    assert isinstance(host, NodeProcess)
    assert host.pid is not None
    return host.pid


def test_data_is_shared_and_counted(processes: LocalCluster, connect: Clients) -> None:
    processes.reset_counts()
    clients = [connect(processes, node) for node in processes.nodes]
    clients[0].create_table(**TABLE)
    clients[1].put_item(TableName="things", Item={"id": {"S": "1"}})
    assert "Item" in clients[2].get_item(TableName="things", Key={"id": {"S": "1"}})
    for node in processes.nodes:
        report = node.report
        assert (report.calls, report.connections, report.stale) == (1, 1, False)
        assert report.hosts == {f"{node.address}:{node.port}": 1}
    assert len({pid(node) for node in processes.nodes} - {os.getpid()}) == 3


def test_signatures_are_checked(processes: LocalCluster, connect: Clients) -> None:
    processes.reset_counts()
    with pytest.raises(Exception, match="UnrecognizedClientException"):
        connect(processes, secret="wrong").list_tables()
    assert processes.nodes[0].report.errors == {"UnrecognizedClientException": 1}


def test_localnodes_and_canned_answers(processes: LocalCluster) -> None:
    node = processes.nodes[2]
    assert names(node.url) == list(processes.addresses)
    assert names(node.url, "?dc=nowhere") == []
    node.answer_localnodes(503, b"\xff")
    assert get(node.url) == (503, b"\xff")
    node.answer_localnodes(None)
    assert names(node.url) == list(processes.addresses)


def test_killed(processes: LocalCluster, connect: Clients) -> None:
    processes.reset_counts()
    node = processes.nodes[1]
    client = connect(processes, node)
    client.list_tables()
    client.list_tables()
    before = pid(node)
    node.kill()
    node.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    report = node.report
    assert (report.calls, report.open_connections, report.stale) == (2, 0, True)
    with pytest.raises(EndpointConnectionError):
        client.list_tables()
    node.start()
    client.list_tables()
    report = node.report
    assert (report.calls, report.connections, report.stale) == (3, 2, False)
    assert pid(node) != before


def test_frozen(processes: LocalCluster, connect: Clients) -> None:
    processes.reset_counts()
    node = processes.nodes[0]
    client = connect(processes)
    client.list_tables()
    node.freeze()
    with pytest.raises(ReadTimeoutError):
        connect(processes, read_timeout=0.1).list_tables()
    assert (node.report.calls, node.report.stale) == (1, True)
    node.slow(0.01)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        call = threads.submit(client.list_tables)
        node.thaw()
        assert call.result()
    assert not node.report.stale
    node.freeze()
    node.stop()
    node.slow(0)
    node.start()
    client.list_tables()


def test_stopped(processes: LocalCluster, connect: Clients) -> None:
    processes.reset_counts()
    node = processes.nodes[0]
    client = connect(processes)
    node.slow(0.2)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        call = threads.submit(client.list_tables)
        until(lambda: node.report.in_flight == 1)
        node.stop(listed=False)
        assert call.result()
    assert node.address not in names(processes.nodes[1].url)
    assert (node.report.calls, node.report.in_flight, node.report.stale) == (1, 0, False)
    node.slow(0)
    node.listed = True
    node.start()
    client.list_tables()
    assert node.report.calls == 2


def test_added_and_removed(processes: LocalCluster, connect: Clients) -> None:
    node = processes.add_node()
    connect(processes, node).list_tables()
    there = pid(node)
    processes.remove_node(node)
    with pytest.raises(ProcessLookupError):
        os.kill(there, 0)
    assert names(processes.url) == list(processes.addresses)


def test_a_cluster_takes_its_processes_along_however_it_ends() -> None:
    script = (
        "import os\n"
        "from alternator_lb.testing import LocalCluster\n"
        "cluster = LocalCluster(nodes=1, processes=True)\n"
        "cluster.start()\n"
        "print(cluster.nodes[0].running, flush=True)\n"
        "os._exit(1)\n"
    )
    # The node inherits standard error: the end of that stream is the end of the node.
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "True\n", "")


def test_with_tls_and_another_engine(connect: Clients) -> None:
    with (
        LocalCluster(nodes=1) as behind,
        LocalCluster(nodes=1, processes=True, tls=True, engine=behind.url) as front,
    ):
        connect(front).list_tables()
        assert behind.nodes[0].report.calls == 1
        assert names_over_tls(front) == list(front.addresses)
    assert front.nodes[0].report.calls == 1


def names_over_tls(cluster: LocalCluster) -> list[str]:
    with urllib3.PoolManager(ca_certs=cluster.ca_path) as pool:
        found: list[str] = json.loads(pool.request("GET", cluster.url + "/localnodes").data)
        return found
