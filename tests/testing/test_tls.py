"""Nodes behind TLS: certificates that verify, and those that do not."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import urllib3
from botocore.exceptions import SSLError

from alternator_lb.testing import LocalCluster

from .conftest import Clients


def test_certificates_name_the_address(connect: Clients) -> None:
    with LocalCluster(tls=True) as cluster:
        assert cluster.url.startswith("https://")
        for node in cluster.nodes:
            client = connect(cluster, node)
            client.list_tables()
            client.list_tables()
            assert (node.report.calls, node.report.accepted) == (2, 1)
        added = cluster.add_node()
        connect(cluster, added).list_tables()


def test_or_only_the_cluster(connect: Clients) -> None:
    with LocalCluster(nodes=1, tls="name-only") as cluster:
        with pytest.raises(SSLError, match="doesn't match"):
            connect(cluster).list_tables()
        node = cluster.nodes[0]
        with urllib3.HTTPSConnectionPool(
            node.address,
            node.port,
            ca_certs=cluster.ca_path,
            server_hostname=cluster.server_name,
            assert_hostname=cluster.server_name,
            retries=False,
        ) as pool:
            assert pool.request("GET", "/localnodes").status == 200
            assert node.report.polls == 1


def test_certificates_can_be_broken(connect: Clients) -> None:
    faults = {0: "expired", 1: "wrong-name", 2: "unknown-ca"}
    with LocalCluster(nodes=4, tls=True, certificates=faults) as cluster:
        for node, says in zip(cluster.nodes, ("expired", "doesn't match", "issuer"), strict=False):
            with pytest.raises(SSLError, match=says):
                connect(cluster, node).list_tables()
            assert node.report.received == 0
        connect(cluster, cluster.nodes[3]).list_tables()


@pytest.mark.parametrize("processes", [False, True])
def test_client_certificates(connect: Clients, processes: bool) -> None:
    with LocalCluster(nodes=1, tls=True, client_ca=True, processes=processes) as cluster:
        connect(cluster, client_cert=cluster.client_cert).list_tables()
        with pytest.raises(
            Exception, match=r"(?i)certificate required|Connection was closed|reset|EOF"
        ):
            connect(cluster).list_tables()
        assert cluster.nodes[0].report.received == 1


def test_sessions_can_be_resumed() -> None:
    with LocalCluster(nodes=1, tls=True) as cluster:
        context = ssl.create_default_context(cafile=cluster.ca_path)
        node, session, reused = cluster.nodes[0], None, []
        for _ in range(2):
            with (
                socket.create_connection((node.address, node.port)) as raw,
                context.wrap_socket(raw, server_hostname=node.address, session=session) as tls,
            ):
                tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert tls.recv(99).startswith(b"HTTP/1.1 200")
                session = tls.session
                reused.append(tls.session_reused)
                assert tls.version() == "TLSv1.3"
        assert reused == [False, True]


@pytest.mark.parametrize("fault", ["stop", "kill", "freeze"])
def test_nodes_end_under_tls(connect: Clients, fault: str) -> None:
    with LocalCluster(nodes=1, tls=True) as cluster:
        node, client = cluster.nodes[0], connect(cluster, read_timeout=0.2)
        client.list_tables()
        getattr(node, fault)()
        known: Any = Exception
        with pytest.raises(known, match=r"Could not connect|timeout|closed"):
            client.list_tables()
        (node.thaw if node.frozen else node.start)()
        connect(cluster).list_tables()
