"""What many tests need: clusters on loopback, and boto3 clients for them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from alternator_lb import AlternatorNodes
from alternator_lb.settings import Settings
from alternator_lb.testing import LocalCluster

FAKE_DOMAIN = "dog.scylladb.com"
TABLE = "animals"

# Nothing of the machine's own AWS settings shall decide a test.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-lean", action="store_true", help="run everything with the default of lean=False"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-lean"):
        Settings.__init__.__kwdefaults__["lean"] = False  # type: ignore[misc]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick ones first."""
    items.sort(key=lambda item: item.path.parent.name == "faults")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Three nodes, and a table with one item, ``{"name": "rex"}``."""
    with LocalCluster(nodes=3) as cluster:
        make_table(cluster)
        yield cluster


@pytest.fixture
def nodes(cluster: LocalCluster) -> Iterator[AlternatorNodes]:
    """The nodes of the cluster, all of them known; nobody polls until a call does."""
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    yield nodes
    nodes.stop()


@pytest.fixture
def make_client() -> Iterator[Callable[..., Any]]:
    """Make boto3 clients for a cluster; they are closed after the test."""
    clients = []

    def make(cluster: LocalCluster, service: str = "dynamodb", **given: Any) -> Any:
        client = new_client(cluster, service, **given)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def new_client(cluster: LocalCluster, service: str = "dynamodb", **given: Any) -> Any:
    settings = {
        "endpoint_url": f"{cluster.scheme}://{FAKE_DOMAIN}:{cluster.port}",
        "region_name": "us-east-1",
        "aws_access_key_id": cluster.access_key,
        "aws_secret_access_key": cluster.secret_key,
        "config": Config(retries={"max_attempts": 0}),
        **given,
    }
    return boto3.session.Session().client(service, **settings)


def make_table(cluster: LocalCluster, name: str = TABLE, **given: Any) -> None:
    """Make a table by way of the first node alone, then forget what was counted."""
    client = new_client(cluster, endpoint_url=cluster.url, verify=cluster.ca_path, **given)
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(TableName=name, Item={"name": {"S": "rex"}})
    client.close()
    cluster.reset_counts()


def get(client: Any, name: str = "rex") -> Any:
    """Do one GetItem; return the name that was found."""
    found = client.get_item(TableName=TABLE, Key={"name": {"S": name}})
    return found["Item"]["name"]["S"]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        threading.Event().wait(0.005)
