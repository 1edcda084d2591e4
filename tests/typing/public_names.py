"""The types that users see; mypy reads this file, nothing runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import alternator_lb
from alternator_lb import (
    AlternatorAdapter,
    AlternatorError,
    AlternatorNodes,
    AlternatorPoolManager,
    DiscoveryError,
    InvalidSettingError,
    NodeAddress,
    NodeDown,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    NodeStats,
    NodeUp,
    NoNodeReachableError,
    NotADynamoDBClientError,
    install_alternator_transport,
    uninstall_alternator_transport,
)
from alternator_lb.testing import LocalCluster, LocalNode, NodeReport

if TYPE_CHECKING:
    from typing_extensions import assert_type


def heard(event: NodeEvent) -> None:
    if isinstance(event, (NodeDown, NodeJoined, NodeLeft, NodeUp)):
        assert_type(event.address, NodeAddress)
        assert_type(event.reason, str)


def check(client: Any) -> None:
    assert_type(alternator_lb.__version__, str)
    nodes = AlternatorNodes("http", 8000, "10.0.0.1", "10.0.0.2", connect_timeout=1, listener=heard)
    assert_type(nodes, AlternatorNodes)
    assert_type(nodes.start(fetch_interval=1.0), AlternatorNodes)
    nodes.stop()
    assert_type(nodes.live, tuple[NodeAddress, ...])
    assert_type(nodes.refresh(), tuple[NodeAddress, ...])
    assert_type(nodes.stats(), dict[NodeAddress, NodeStats])
    for address, stats in nodes.stats().items():
        assert_type(address.host, str)
        assert_type(address.url, str)
        assert_type(stats.calls, int)
        assert_type(stats.next_probe, float | None)
    with nodes as same:
        assert_type(same, AlternatorNodes)
    assert_type(install_alternator_transport(client, "10.0.0.1"), AlternatorNodes)
    assert_type(install_alternator_transport(client, ["10.0.0.1"], verify=False), AlternatorNodes)
    assert_type(install_alternator_transport(client, nodes), AlternatorNodes)
    uninstall_alternator_transport(client)
    assert_type(AlternatorPoolManager(nodes, maxsize=3), AlternatorPoolManager)
    assert_type(AlternatorAdapter(nodes, pool_maxsize=3), AlternatorAdapter)
    for error in (DiscoveryError, InvalidSettingError, NotADynamoDBClientError):
        assert issubclass(error, AlternatorError)
    assert issubclass(NoNodeReachableError, Exception)


def check_cluster() -> None:
    with LocalCluster(nodes=3) as cluster:
        assert_type(cluster.nodes, tuple[LocalNode, ...])
        assert_type(cluster.nodes[0].report, NodeReport)


# What must not pass, since it would fail when it runs:
AlternatorNodes("http", "8000", "10.0.0.1")  # type: ignore[arg-type]
AlternatorPoolManager("10.0.0.1")  # type: ignore[arg-type]
install_alternator_transport(object(), 5)  # type: ignore[arg-type]


def mistakes(client: Any) -> None:
    AlternatorNodes("http", 8000, "10.0.0.1", fetch_intervall=3)  # type: ignore[call-arg]
    AlternatorNodes("http", 8000, "10.0.0.1", fetch_interval="3")  # type: ignore[arg-type]
    install_alternator_transport(client, "10.0.0.1", prot=3)  # type: ignore[call-arg]
    install_alternator_transport(client, "10.0.0.1", port=8000, scheme="http", lean=False)
