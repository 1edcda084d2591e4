"""nodes.session(): every DynamoDB client of it is balanced, whatever else it is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from alternator_lb import AlternatorNodes, InvalidSettingError
from alternator_lb.boto import BalancedSession
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, TABLE, get, make_table


@pytest.fixture
def nodes(cluster: LocalCluster) -> Iterator[AlternatorNodes]:
    with AlternatorNodes("http", cluster.port, *cluster.seeds) as nodes:
        nodes.refresh()
        yield nodes


def test_clients_and_resources_are_balanced(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    session = nodes.session(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    assert isinstance(session, boto3.Session)
    client = session.client("dynamodb")
    table = session.resource("dynamodb").Table(TABLE)
    streams = session.client("dynamodbstreams")
    for _ in range(3):
        assert get(client) == "rex"
        assert table.get_item(Key={"name": "rex"})["Item"] == {"name": "rex"}
        streams.list_streams()
    assert [node.report.calls for node in cluster.nodes] == [3, 3, 3]
    hosts = {host for node in cluster.nodes for host in node.report.hosts}
    assert hosts == {f"{FAKE_DOMAIN}:{cluster.port}"}


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint_url": "http://other.example:1234"},
        {"region_name": "eu-west-1"},
        {"config": Config(max_pool_connections=3, read_timeout=5)},
        {"use_ssl": False, "verify": False},
        {"aws_access_key_id": "alternator", "aws_secret_access_key": "secret_pass"},
        {"api_version": "2012-08-10"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_whatever_else_they_are_given(
    cluster: LocalCluster, nodes: AlternatorNodes, given: dict[str, Any]
) -> None:
    session = nodes.session(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    client = session.client("dynamodb", **given)
    for _ in range(3):
        assert get(client) == "rex"
    assert [node.report.calls for node in cluster.nodes] == [1, 1, 1]


def test_arguments_by_position(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    session = nodes.session(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    assert get(session.client("dynamodb", "us-east-1")) == "rex"


def test_the_botocore_session_below_is_balanced_too(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    session = nodes.session(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    client = session._session.create_client("dynamodb", region_name="us-east-1")
    assert get(client) == "rex"


def test_other_services_are_left_alone(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    session = nodes.session(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    client = session.client("sqs")
    assert not isinstance(client._endpoint.http_session, BalancedSession)
    assert client.meta.endpoint_url == "https://sqs.us-east-1.amazonaws.com"


def test_client_and_resource_in_one_step(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    key, secret = cluster.access_key, cluster.secret_key
    client = nodes.client(FAKE_DOMAIN, key, secret, config=Config(read_timeout=5))
    table = nodes.resource(FAKE_DOMAIN, key, secret).Table(TABLE)
    assert get(client) == "rex"
    assert table.get_item(Key={"name": "rex"})["Item"] == {"name": "rex"}
    client.close()
    assert "stopped" not in repr(nodes)


def test_without_a_key_requests_are_not_signed() -> None:
    with LocalCluster(nodes=2, authorization=False) as cluster:
        make_table(cluster)
        with AlternatorNodes("http", cluster.port, *cluster.seeds) as nodes:
            client = nodes.client(FAKE_DOMAIN)
            signed = []
            client.meta.events.register(
                "before-send.dynamodb",
                lambda request, **_: signed.append(request.headers.get("Authorization")),
            )
            assert get(client) == "rex"
            config = Config(read_timeout=5)
            assert get(nodes.session(FAKE_DOMAIN).client("dynamodb", config=config)) == "rex"
            assert nodes.resource(FAKE_DOMAIN).Table(TABLE).item_count == 1
    assert signed == [None]


def test_a_config_beside_unsigned_requests_counts(nodes: AlternatorNodes) -> None:
    client = nodes.session(FAKE_DOMAIN).client("dynamodb", config=Config(read_timeout=5))
    assert client.meta.config.read_timeout == 5
    assert client.meta.config.signature_version is UNSIGNED


def test_a_key_of_the_clients_own_signs(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    client = nodes.session(FAKE_DOMAIN).client(
        "dynamodb",
        aws_access_key_id=cluster.access_key,
        aws_secret_access_key=cluster.secret_key,
    )
    assert get(client) == "rex"


def test_unsigned_is_refused_where_authorization_is_on(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    with pytest.raises(ClientError, match="MissingAuthenticationToken"):
        get(nodes.client(FAKE_DOMAIN))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dog.scylladb.com", "alternator"), "the secret is missing"),
        (("dog.scylladb.com", None, "secret"), "the key is missing"),
        (("dog.scylladb.com", "", ""), "the key is empty"),
        (("dog.scylladb.com", "a", ""), "the secret is empty"),
        (("https://dog.scylladb.com", "a", "b"), "says https"),
        (("no host", "a", "b"), "fake domain 'no host' names no host"),
        ((None, "a", "b"), "fake domain None is a NoneType"),
    ],
)
def test_wrong_arguments(nodes: AlternatorNodes, arguments: Any, said: str) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        nodes.session(*arguments)


def test_the_fake_domain_may_carry_scheme_and_port(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    session = nodes.session("http://dog.example:99", cluster.access_key, cluster.secret_key)
    client = session.client("dynamodb")
    assert client.meta.endpoint_url == "http://dog.example:99"
    assert get(client) == "rex"


def test_a_session_alone_starts_nothing(cluster: LocalCluster) -> None:
    before = threading.active_count()
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    client = nodes.client(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)
    assert threading.active_count() == before
    assert get(client) == "rex"
    nodes.stop()
