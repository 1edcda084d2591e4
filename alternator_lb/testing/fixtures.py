"""pytest fixtures: a cluster on loopback for a test suite.

Installing the package registers them. What a cluster needs is imported when a test asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .cluster import LocalCluster


@pytest.fixture
def alternator_cluster() -> Iterator[LocalCluster]:
    """Give the test a running `LocalCluster` of three nodes, which no other test sees.

    Each test gets a cluster of its own with no tables, which takes some hundredths of a second
    (the first one also imports moto). For a cluster of another shape, or one that several tests
    share, write a fixture around `LocalCluster` itself.
    """
    from .cluster import LocalCluster

    with LocalCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def alternator_client(alternator_cluster: LocalCluster) -> Iterator[Any]:
    """Give the test a boto3 DynamoDB client that is balanced over ``alternator_cluster``."""
    import boto3

    from alternator_lb import install_alternator_transport

    cluster = alternator_cluster
    client = boto3.client(
        "dynamodb",
        endpoint_url=f"{cluster.scheme}://{cluster.server_name}:{cluster.port}",
        region_name="us-east-1",
        aws_access_key_id=cluster.access_key,
        aws_secret_access_key=cluster.secret_key,
    )
    nodes = install_alternator_transport(client, cluster.seeds)
    yield client
    client.close()
    nodes.stop()
