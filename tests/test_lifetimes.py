"""Nobody has to clean up: references dropped, close, stop, fork and exit leave nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from alternator_lb import AlternatorNodes, install_alternator_transport
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, TABLE, get, new_client, until


def refreshers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("alternator-lb")]


def open_connections(cluster: LocalCluster) -> int:
    return sum(node.report.open_connections for node in cluster.nodes)


def test_importing_starts_no_thread() -> None:
    code = "import threading, alternator_lb; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr


def test_the_last_reference_dropped(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(3):
        get(client)
    gone = weakref.ref(nodes)
    (thread,) = refreshers()
    del client, nodes
    gc.collect()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert gone() is None
    until(lambda: open_connections(cluster) == 0)


def test_stop_from_another_thread_while_calls_flow(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.01)
    get(client)
    stoppers = [threading.Thread(target=nodes.stop) for _ in range(4)]
    for thread in stoppers:
        thread.start()
    for _ in range(20):
        assert get(client) == "rex"
    for thread in stoppers:
        thread.join(timeout=20)
    assert refreshers() == []
    assert get(client) == "rex"
    client.close()


def test_stop_while_a_poll_hangs(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds, discovery_timeout=0.5)
    for node in cluster.nodes:
        node.freeze()
    nodes.start()
    nodes.stop()
    until(lambda: refreshers() == [])
    for node in cluster.nodes:
        node.thaw()


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def in_child(work: Callable[[], None]) -> int:
    """Fork; run the work in the child under an alarm; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(60)  # a deadlock ends the child, and so fails the test
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(pids: list[int]) -> None:
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0] * len(pids)


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_in_the_middle_of_traffic(cluster: LocalCluster) -> None:
    """Four threads call while children are forked; every response belongs to its request."""
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.05)
    nodes.start()
    names = [f"animal-{n}" for n in range(8)]
    for name in names:
        client.put_item(TableName=TABLE, Item={"name": {"S": name}})
    end = threading.Event()
    failures: list[BaseException] = []

    def call() -> None:
        turn = 0
        while not end.is_set():
            turn += 1
            name = names[turn % len(names)]
            try:
                assert get(client, name) == name
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()

    def child() -> None:
        for turn in range(40):
            name = names[turn % len(names)]
            assert get(client, name) == name
        assert len(refreshers()) == 1  # polling here, too
        nodes.stop()

    try:
        wait_for([in_child(child) for _ in range(4)])
        for _ in range(20):
            assert get(client) == "rex"
        assert len(refreshers()) == 1
    finally:
        end.set()
        for thread in threads:
            thread.join(timeout=60)
    assert failures == []
    client.close()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_shares_no_socket(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(3):
        get(client)
    opened = sum(node.report.connections for node in cluster.nodes)

    def child() -> None:
        for _ in range(3):
            get(client)

    wait_for([in_child(child)])
    for _ in range(3):
        get(client)
    # The child opened its own three, and the parent went on with the three that it had.
    assert opened == 3
    assert sum(node.report.connections for node in cluster.nodes) == 6
    client.close()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_while_locks_are_held(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    get(client)

    def child() -> None:
        assert get(client) == "rex"
        nodes.refresh()
        nodes.stop()

    with nodes._members.lock:
        pid = in_child(child)
    wait_for([pid])
    client.close()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_before_the_first_call_is_clean(cluster: LocalCluster) -> None:
    """What a server does that loads the application and then forks its workers."""
    client = new_client(cluster)
    install_alternator_transport(client, cluster.seeds)
    assert refreshers() == []

    def worker() -> None:
        for _ in range(6):
            assert get(client) == "rex"
        client.close()

    wait_for([in_child(worker) for _ in range(3)])
    client.close()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_children_that_call_once_do_not_all_call_the_same_node(cluster: LocalCluster) -> None:
    """That 16 of 16 begin at one of three nodes by chance happens once in ten million times."""
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    nodes.stop()
    get(client)  # whose turn it is was settled before the first fork
    cluster.reset_counts()
    wait_for([in_child(lambda: client.list_tables()) for _ in range(16)])
    served = [node.report.calls for node in cluster.nodes]
    assert sum(served) == 16
    assert max(served) < 16
    client.close()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_stopped_one_stays_stopped_in_the_child(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    client = nodes.client(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    get(client)
    nodes.stop()

    def child() -> None:
        assert get(client) == "rex"
        assert refreshers() == []

    wait_for([in_child(child)])
    assert refreshers() == []


PROGRAM = """
    import faulthandler, threading
    faulthandler.dump_traceback_later(50, exit=True)
    import boto3
    from alternator_lb import install_alternator_transport
    client = boto3.client(
        "dynamodb", endpoint_url="http://dog.scylladb.com:{port}", region_name="us-east-1",
        aws_access_key_id={key!r}, aws_secret_access_key={secret!r},
    )
    nodes = install_alternator_transport(client, {seeds!r}, fetch_interval=0.01)
    for _ in range(10):
        client.list_tables()
    {then}
    print("done")
"""


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("pass", 0),
        ("del client, nodes", 0),
        ("threading.Thread(target=client.list_tables).start()", 0),
        ("raise SystemExit(3)", 3),
    ],
)
def test_interpreter_exit(cluster: LocalCluster, then: str, status: int) -> None:
    program = textwrap.dedent(PROGRAM).format(
        port=cluster.port,
        key=cluster.access_key,
        secret=cluster.secret_key,
        seeds=cluster.seeds,
        then=then,
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )
    assert done.returncode == status, done.stderr
    assert "ResourceWarning" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_exit_while_a_node_is_frozen(cluster: LocalCluster) -> None:
    """The refresher hangs in a poll when the interpreter goes down: it must not hold it up."""
    program = f"""
import faulthandler
faulthandler.dump_traceback_later(40, exit=True)
from alternator_lb import AlternatorNodes
nodes = AlternatorNodes("http", {cluster.port}, {cluster.seeds[0]!r}, discovery_timeout=30)
nodes.start()
"""
    for node in cluster.nodes:
        node.freeze()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 0, done.stderr
    for node in cluster.nodes:
        node.thaw()


def test_a_call_after_the_thread_could_not_start(
    cluster: LocalCluster, monkeypatch: Any, caplog: Any
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        assert get(client) == "rex"
    assert "no thread can be started" in caplog.text
    assert len([r for r in caplog.records if "no thread" in r.message]) == 1
    monkeypatch.undo()
    nodes.refresh()
    client.close()
