"""What the tests of the test cluster share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from alternator_lb.testing import LocalCluster, LocalNode

TABLE = {
    "TableName": "things",
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}

Clients = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Give the tests of a module one cluster, for what does not change it."""
    with LocalCluster(nodes=3) as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Clients]:
    """Make boto3 clients of one node, that try once; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(
            cluster: LocalCluster,
            node: LocalNode | None = None,
            service: str = "dynamodb",
            *,
            secret: str | None = None,
            verify: Any = None,
            region: str = "us-east-1",
            **config: Any,
        ) -> Any:
            config.setdefault("retries", {"max_attempts": 0})
            client = boto3.client(
                service,
                endpoint_url=(node or cluster.nodes[0]).url,
                region_name=region,
                aws_access_key_id=cluster.access_key,
                aws_secret_access_key=secret or cluster.secret_key,
                verify=cluster.ca_path if verify is None else verify,
                config=Config(**config),
            )
            stack.callback(client.close)
            return client

        yield make
