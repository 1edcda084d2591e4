"""LocalCluster as a user sees it: shared data, counts, nodes that come and go."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import socket
import threading
from typing import Any

import pytest
import urllib3
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from alternator_lb.testing import LocalCluster, LoopbackError, NodeReport

from ..conftest import until
from .conftest import TABLE, Clients


def get(url: str, path: str = "/localnodes") -> tuple[int, bytes]:
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", url + path)
        return answer.status, answer.data


def names(url: str, query: str = "") -> list[str]:
    status, body = get(url, f"/localnodes{query}")
    assert status == 200
    found: list[str] = json.loads(body)
    return found


def test_every_node_has_the_same_data(connect: Clients) -> None:
    with LocalCluster() as cluster:
        first, second, third = (connect(cluster, node) for node in cluster.nodes)
        first.create_table(**TABLE)
        second.put_item(TableName="things", Item={"id": {"S": "é"}, "n": {"N": "1"}})
        found = third.get_item(TableName="things", Key={"id": {"S": "é"}})
        assert found["Item"]["n"] == {"N": "1"}
        assert [node.report.calls for node in cluster.nodes] == [1, 1, 1]


def test_the_region_makes_no_difference(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster:
        connect(cluster).create_table(**TABLE)
        elsewhere = connect(cluster, region="eu-north-1")
        assert elsewhere.list_tables()["TableNames"] == ["things"]


def test_two_clusters_share_nothing(connect: Clients) -> None:
    with LocalCluster(nodes=1) as one, LocalCluster(nodes=1) as other:
        connect(one).create_table(**TABLE)
        assert connect(other).list_tables()["TableNames"] == []
        assert one.addresses != other.addresses


def test_a_cluster_that_comes_back_is_the_same_but_empty(connect: Clients) -> None:
    cluster = LocalCluster(nodes=2)
    with cluster:
        nodes, urls = cluster.nodes, [node.url for node in cluster.nodes]
        connect(cluster).create_table(**TABLE)
        assert cluster.start() is cluster
    assert not any(node.running for node in nodes)
    assert nodes[0].report.calls == 1
    cluster.stop()
    assert cluster.start() is cluster
    with cluster:
        assert cluster.nodes == nodes
        assert [node.url for node in cluster.nodes] == urls
        assert connect(cluster).list_tables()["TableNames"] == []
        assert nodes[0].report.calls == 2


def test_names_of_the_cluster(cluster: LocalCluster) -> None:
    first = cluster.nodes[0]
    assert cluster.url == first.url == f"http://{first.address}:{cluster.port}"
    assert cluster.seeds == [first.address]
    assert cluster.addresses == tuple(node.address for node in cluster.nodes)
    assert {node.port for node in cluster.nodes} == {cluster.port}
    assert (cluster.scheme, cluster.ca_path, cluster.client_cert) == ("http", None, None)
    assert (cluster.access_key, cluster.secret_key) == ("alternator", "secret_pass")
    assert "3 of 3 nodes running" in repr(cluster)
    assert "running" in repr(first)


def test_nothing_is_known_before_the_start() -> None:
    cluster = LocalCluster()
    assert cluster.nodes == ()
    for name in ("url", "port", "seeds"):
        with pytest.raises(RuntimeError, match="start the LocalCluster first"):
            getattr(cluster, name)


def test_connections_are_kept(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster:
        client, node = connect(cluster), cluster.nodes[0]
        for _ in range(50):
            client.list_tables()
        assert node.report == NodeReport(
            calls=50,
            received=50,
            connections=1,
            open_connections=1,
            accepted=1,
            hosts={f"{node.address}:{node.port}": 50},
        )


def test_polls_and_calls_are_told_apart() -> None:
    with (
        LocalCluster(nodes=1, authorization=False) as cluster,
        urllib3.PoolManager(maxsize=1) as calls,
        urllib3.PoolManager(maxsize=1) as polls,
    ):
        node = cluster.nodes[0]
        for pool in (polls, calls):
            pool.request("GET", node.url + "/localnodes")
        assert node.report.poll_connections == 2
        headers = {"X-Amz-Target": "DynamoDB_20120810.ListTables", "Host": "fake:1"}
        calls.request("POST", node.url + "/", body=b"{}", headers=headers)
        report = node.report
        assert (report.polls, report.poll_connections) == (2, 1)
        assert (report.calls, report.connections) == (1, 1)
        assert report.hosts == {"fake:1": 1}

        cluster.reset_counts()
        assert node.report == NodeReport(open_connections=2)
        calls.request("POST", node.url + "/", body=b"{}", headers=headers)
        report = node.report
        assert (report.calls, report.connections, report.accepted) == (1, 1, 0)


def test_many_threads_and_small_pools(connect: Clients) -> None:
    with LocalCluster() as cluster:
        clients = [connect(cluster, node, max_pool_connections=4) for node in cluster.nodes]
        clients[0].create_table(**TABLE)

        def write(number: int) -> None:
            key = {"id": {"S": str(number % 7)}}
            clients[number % 3].put_item(TableName="things", Item=key)

        with concurrent.futures.ThreadPoolExecutor(64) as threads:
            list(threads.map(write, range(400)))
        reports = [node.report for node in cluster.nodes]
        assert sum(report.calls for report in reports) == 401
        assert sum(report.in_flight for report in reports) == 0


def test_localnodes_follows_datacenter_and_rack() -> None:
    with LocalCluster(datacenters={"west": 4, "east": 1}, racks=2) as cluster:
        assert [(node.datacenter, node.rack) for node in cluster.nodes] == [
            *[("west", "rack1"), ("west", "rack2")] * 2,
            ("east", "rack1"),
        ]
        a, b, c, d, e = cluster.addresses
        west, east = cluster.nodes[0].url, cluster.nodes[4].url
        assert names(west) == [a, b, c, d]
        assert names(east) == [e]
        assert names(east, "?dc=west") == [a, b, c, d]
        assert names(west, "?rack=rack2") == [b, d]
        assert names(east, "?dc=west&rack=rack1") == [a, c]
        assert names(east, "?rack=rack2") == []
        assert names(west, "?dc=north") == []
        assert names(west, "?dc=&rack=") == [a, b, c, d]
        assert cluster.nodes[0].report.polls == 4


def test_health_names_the_host(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    assert get(node.url, "/") == (200, f"healthy: {node.address}:{node.port}".encode())
    assert get(node.url, "/elsewhere")[0] == 404


def test_describe_endpoints_answers_with_the_host(connect: Clients, cluster: LocalCluster) -> None:
    found = connect(cluster).describe_endpoints()["Endpoints"]
    assert [each["Address"] for each in found] == [f"{cluster.addresses[0]}:{cluster.port}"]


def test_an_unknown_operation_is_refused(cluster: LocalCluster) -> None:
    with (
        LocalCluster(nodes=1, authorization=False) as open_to_all,
        urllib3.PoolManager(retries=False) as pool,
    ):
        for target in ("DynamoDB_20120810.Nonsense", "Other_20120810.ListTables", ""):
            headers = {"X-Amz-Target": target}
            answer = pool.request("POST", open_to_all.url + "/", body=b"{}", headers=headers)
            assert answer.status == 400
            assert b"UnknownOperationException" in answer.data
        headers = {"X-Amz-Target": "DynamoDB_20120810.ListTables"}
        answer = pool.request("POST", open_to_all.url + "/", body=b"{", headers=headers)
        assert (answer.status, b"SerializationException" in answer.data) == (400, True)


def test_streams(connect: Clients) -> None:
    with LocalCluster(nodes=2) as cluster:
        view = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
        database = connect(cluster)
        database.create_table(**TABLE, StreamSpecification=view)
        database.put_item(TableName="things", Item={"id": {"S": "1"}})
        streams = connect(cluster, cluster.nodes[1], "dynamodbstreams")
        (stream,) = streams.list_streams(TableName="things")["Streams"]
        (shard,) = streams.describe_stream(StreamArn=stream["StreamArn"])["StreamDescription"][
            "Shards"
        ]
        iterator = streams.get_shard_iterator(
            StreamArn=stream["StreamArn"],
            ShardId=shard["ShardId"],
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]
        (record,) = streams.get_records(ShardIterator=iterator)["Records"]
        assert record["dynamodb"]["NewImage"] == {"id": {"S": "1"}}
        assert cluster.nodes[1].report.calls == 4


def test_a_stopped_node_refuses_and_comes_back(connect: Clients) -> None:
    with LocalCluster() as cluster:
        node = cluster.nodes[1]
        client = connect(cluster, node)
        client.list_tables()
        node.stop()
        node.stop()
        assert (node.running, node.listed) == (False, True)
        assert node.address in names(cluster.url)
        with pytest.raises(EndpointConnectionError):
            client.list_tables()
        node.start()
        node.start()
        client.list_tables()
        assert node.running
        report = node.report
        assert (report.calls, report.accepted, report.open_connections) == (2, 2, 1)
        node.stop(listed=False)
        assert node.address not in names(cluster.url)
        node.listed = True
        assert node.address in names(cluster.url)


def test_a_stopping_node_answers_what_it_took(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster, concurrent.futures.ThreadPoolExecutor() as threads:
        node, client = cluster.nodes[0], connect(cluster)
        node.slow(0.2)
        call = threads.submit(client.list_tables)
        until(lambda: node.report.in_flight == 1)
        node.stop()
        assert call.result()["TableNames"] == []
        assert (node.report.calls, node.report.open_connections) == (1, 0)


def test_a_killed_node_does_not(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster, concurrent.futures.ThreadPoolExecutor() as threads:
        node, client = cluster.nodes[0], connect(cluster)
        node.slow(60)
        call = threads.submit(client.list_tables)
        until(lambda: node.report.in_flight == 1)
        node.kill()
        with pytest.raises(Exception, match=r"Connection was closed|Could not connect"):
            call.result()
        assert (node.report.calls, node.report.received) == (0, 1)
        node.start()
        node.slow(0)
        client.list_tables()


def test_a_frozen_node_takes_connections_and_answers_when_thawed(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster, concurrent.futures.ThreadPoolExecutor() as threads:
        node = cluster.nodes[0]
        client = connect(cluster)
        client.list_tables()
        node.freeze()
        node.freeze()
        assert (node.running, node.frozen) == (True, True)
        with pytest.raises(ReadTimeoutError):
            connect(cluster, read_timeout=0.1).list_tables()
        socket.create_connection((node.address, node.port)).close()
        call = threads.submit(client.list_tables)
        assert node.report.calls == 1
        node.thaw()
        node.thaw()
        assert call.result()["TableNames"] == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_frozen_node_can_end(connect: Clients, end: str) -> None:
    with LocalCluster(nodes=1) as cluster:
        node, client = cluster.nodes[0], connect(cluster)
        client.list_tables()
        node.freeze()
        getattr(node, end)()
        assert (node.running, node.frozen, node.report.open_connections) == (False, False, 0)
        with pytest.raises(RuntimeError, match="start it first"):
            node.freeze()
        node.start()
        client.list_tables()


def test_nodes_come_and_go(connect: Clients) -> None:
    with LocalCluster(nodes=2, racks=["a", "b"]) as cluster:
        first, second = cluster.nodes
        third = cluster.add_node()
        assert (third.datacenter, third.rack, third.running) == ("datacenter1", "a", True)
        assert names(cluster.url) == list(cluster.addresses)
        connect(cluster, third).list_tables()
        cluster.remove_node(second)
        assert cluster.nodes == (first, third)
        assert (second.running, second.listed) == (False, False)
        assert names(cluster.url) == [first.address, third.address]
        with pytest.raises(ValueError, match="no node of this cluster"):
            cluster.remove_node(second)
        with pytest.raises(RuntimeError, match="cannot start"):
            second.start()
        other = cluster.add_node("datacenter2", "c", listed=False)
        assert other.address not in {first.address, second.address, third.address}
        assert names(other.url) == []
    with pytest.raises(RuntimeError, match="start the LocalCluster first"):
        cluster.add_node()


def test_localnodes_can_be_canned(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    node.answer_localnodes(500, "no", {"Content-Type": "text/plain", "X-Why": "test"})
    assert get(node.url) == (500, b"no")
    node.answer_localnodes(body=b"[")
    assert get(node.url, "/localnodes?dc=x") == (200, b"[")
    node.answer_localnodes(200, b"[]", {"Content-Length": "1"})
    assert get(node.url) == (200, b"[")
    node.answer_localnodes(None)
    assert names(node.url) == list(cluster.addresses)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"status": "x"}, "status='x': give a number"),
        ({"status": 100}, "status=100: give a number"),
        ({"status": True}, "status=True: give a number"),
        ({"body": ["1"]}, r"body=\['1'\]: give bytes or str"),
        ({"headers": {"Content-Length": 1}}, "headers={'Content-Length': 1}: give names"),
        ({"headers": "X: y"}, "headers='X: y': give names"),
    ],
)
def test_a_canned_answer_that_cannot_be_sent_is_named(
    cluster: LocalCluster, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        cluster.nodes[0].answer_localnodes(**wrong)
    assert names(cluster.nodes[0].url) == list(cluster.addresses)


def test_another_engine_gets_requests_as_they_came(connect: Clients) -> None:
    with LocalCluster(nodes=1) as behind, LocalCluster(nodes=2, engine=behind.url) as front:
        for node in front.nodes:
            connect(front, node).list_tables()
        # The signature covers the Host header, and the engine checks it again.
        assert behind.nodes[0].report.hosts == {
            f"{address}:{front.port}": 1 for address in front.addresses
        }
        behind.nodes[0].stop()
        with pytest.raises(ClientError, match="engine http"):
            connect(front).list_tables()


def test_many_nodes_and_no_thread_more(connect: Clients) -> None:
    before = set(threading.enumerate())
    with LocalCluster(nodes=300) as cluster:
        assert len(set(threading.enumerate()) - before) == 1
        assert len(set(cluster.addresses)) == 300
        assert names(cluster.nodes[299].url) == list(cluster.addresses)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("shape", [{}, {"tls": True}])
def test_nothing_is_left(connect: Clients, shape: dict[str, Any]) -> None:
    before = threading.active_count()
    with LocalCluster(**shape) as cluster:
        connect(cluster).list_tables()
        address, port = cluster.addresses[0], cluster.port
        idle = socket.create_connection((address, port))
    with idle:
        assert idle.recv(1) == b""
    assert threading.active_count() == before
    with pytest.raises(OSError):
        socket.create_connection((address, port)).close()
    gc.collect()  # a socket left open would warn, and a warning is an error


def test_ipv6(connect: Clients) -> None:
    try:
        cluster = LocalCluster(nodes=1, ipv6=True)
        cluster.start()
    except OSError as error:
        pytest.skip(f"this system has no ::1: {error}")
    with cluster:
        assert cluster.url == f"http://[::1]:{cluster.port}"
        assert names(cluster.url) == ["::1"]
        connect(cluster).list_tables()


def test_a_port_that_is_taken_is_said() -> None:
    with LocalCluster(nodes=1) as cluster:
        again = LocalCluster(nodes=1, port=cluster.port)
        with again:
            assert again.port == cluster.port
        with pytest.raises(LoopbackError, match="one loopback address, ::1"):
            LocalCluster(nodes=2, ipv6=True).start()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"nodes": 0}, "nodes=0: give a number"),
        ({"nodes": "3"}, "nodes='3': give a number"),
        ({"nodes": 1.5}, "nodes=1.5: give a number"),
        ({"nodes": True}, "nodes=True: give a number"),
        ({"nodes": 3, "datacenters": {"a": 3}}, "nodes=3, datacenters={'a': 3}: give one of them"),
        ({"datacenters": 5.5}, "datacenters=5.5: give a number or"),
        ({"datacenters": True}, "datacenters=True: give a number or"),
        ({"datacenters": [1]}, r"datacenters=\[1\]: give a number or"),
        ({"datacenters": {"a": True}}, "'a' needs a number"),
        ({"datacenters": {"a": 0}}, "give at least one node"),
        ({"racks": 0}, "racks=0: give at least one"),
        ({"users": "a"}, "users='a': give access keys"),
        ({"users": {"a": 1}}, "users={'a': 1}: give access keys"),
        ({"port": True}, "port=True"),
        ({"tls": True, "certificates": ["expired"]}, "certificates=.*: give numbers of nodes"),
        ({"tls": True, "certificates": {5: "expired"}}, "5 is no node; give numbers from 0 to 2"),
        ({"tls": True, "certificates": {"0": "expired"}}, "'0' is no node"),
        ({"datacenters": []}, "datacenters="),
        ({"datacenters": {"a": -1}}, "'a' needs a number"),
        ({"racks": "rack1"}, "give a sequence of names"),
        ({"port": 0}, "port=0"),
        ({"tls": "yes"}, "tls='yes'"),
        ({"users": {}}, "users="),
        ({"engine": "here"}, "engine='here'"),
        ({"client_ca": True}, "need tls=True"),
        ({"tls": True, "certificates": {0: "old"}}, "'old'"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LocalCluster(**wrong)
