"""Install and uninstall: which clients, what stays, and that nothing leaves the cluster."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from alternator_lb import (
    AlternatorNodes,
    InvalidSettingError,
    NotADynamoDBClientError,
    install_alternator_transport,
    uninstall_alternator_transport,
)
from alternator_lb.boto import BalancedSession
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, TABLE, get, new_client, until
from .servers import ScriptedServer, answer


def calls(cluster: LocalCluster) -> list[int]:
    return [node.report.calls for node in cluster.nodes]


def spread(cluster: LocalCluster, count: int = 9) -> bool:
    each = count // len(cluster.nodes)
    return calls(cluster) == [each] * len(cluster.nodes)


# -- which clients -------------------------------------------------------------------------------


def test_a_boto3_client(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(9):
        assert get(client) == "rex"
    assert spread(cluster)
    hosts = {host for node in cluster.nodes for host in node.report.hosts}
    assert hosts == {f"{FAKE_DOMAIN}:{cluster.port}"}


def test_a_botocore_client_without_endpoint_url(cluster: LocalCluster) -> None:
    client = botocore.session.Session().create_client(
        "dynamodb",
        region_name="eu-central-1",
        aws_access_key_id=cluster.access_key,
        aws_secret_access_key=cluster.secret_key,
    )
    nodes = install_alternator_transport(client, [cluster.url])
    nodes.refresh()
    for _ in range(9):
        get(client)
    assert spread(cluster)
    hosts = {host for node in cluster.nodes for host in node.report.hosts}
    assert hosts == {"dynamodb.eu-central-1.amazonaws.com"}
    client.close()


def test_a_streams_client(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, "dynamodbstreams")
    install_alternator_transport(client, cluster.seeds).refresh()
    for _ in range(9):
        assert client.list_streams()["Streams"] == []
    assert spread(cluster)


@pytest.mark.parametrize("what", ["resource", "table"])
def test_a_resource_and_a_table(cluster: LocalCluster, what: str) -> None:
    resource = boto3.session.Session().resource(
        "dynamodb",
        endpoint_url=f"http://{FAKE_DOMAIN}:{cluster.port}",
        region_name="us-east-1",
        aws_access_key_id=cluster.access_key,
        aws_secret_access_key=cluster.secret_key,
    )
    table = resource.Table(TABLE)
    given = resource if what == "resource" else table
    install_alternator_transport(given, cluster.seeds).refresh()
    for _ in range(9):
        assert table.get_item(Key={"name": "rex"})["Item"] == {"name": "rex"}
    assert spread(cluster)
    uninstall_alternator_transport(given)
    assert not isinstance(resource.meta.client._endpoint.http_session, BalancedSession)


@pytest.mark.parametrize(
    "given", [None, "client", 5, boto3.session.Session(), object(), botocore.session.Session()]
)
def test_what_is_no_client_is_refused_and_named(given: Any) -> None:
    with pytest.raises(NotADynamoDBClientError) as error:
        install_alternator_transport(given, ["127.0.0.1"])
    assert type(given).__name__ in str(error.value)
    with pytest.raises(NotADynamoDBClientError):
        uninstall_alternator_transport(given)


def test_a_client_of_another_service_is_refused_and_named() -> None:
    client = boto3.session.Session().client("sqs", region_name="us-east-1")
    with pytest.raises(NotADynamoDBClientError, match="client for sqs"):
        install_alternator_transport(client, ["127.0.0.1"])


def test_a_client_that_does_not_send_through_urllib3session_is_refused(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    client._endpoint.http_session = object()
    with pytest.raises(NotADynamoDBClientError, match="sends through object"):
        install_alternator_transport(client, cluster.seeds)
    client._endpoint.http_session = botocore.httpsession.URLLib3Session()


# -- seeds and settings --------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, tuple, set, iter])
def test_seeds_come_in_many_forms(cluster: LocalCluster, make_client: Any, form: Any) -> None:
    seeds = cluster.seeds[0] if form is str else form(cluster.seeds)
    nodes = install_alternator_transport(make_client(cluster), seeds)
    assert {address.host for address in nodes.refresh()} == set(cluster.addresses)


def test_scheme_and_port_come_from_the_endpoint(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, endpoint_url="http://dog.scylladb.com:1234")
    assert install_alternator_transport(client, "127.0.0.1").port == 1234
    with pytest.raises(InvalidSettingError, match=r"says port 8000, but .* 1234"):
        install_alternator_transport(client, "127.0.0.1:8000")
    with pytest.raises(InvalidSettingError, match="says https, but"):
        install_alternator_transport(client, "https://127.0.0.1")
    assert install_alternator_transport(client, "127.0.0.1:8000", port=8000).port == 8000


def test_an_endpoint_without_a_port_leaves_it_to_the_seeds(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster, endpoint_url="http://dog.scylladb.com")
    assert install_alternator_transport(client, "127.0.0.1:8000").port == 8000
    assert install_alternator_transport(client, "127.0.0.1").port == 80


def test_https_is_never_sent_in_clear_text(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, endpoint_url="https://dog.scylladb.com:8043")
    with pytest.raises(InvalidSettingError, match="in clear text"):
        install_alternator_transport(client, AlternatorNodes("http", 8000, "127.0.0.1"))


def test_bad_settings_fail_at_once_and_change_nothing(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    before = client._endpoint.http_session
    for seeds, settings, said in [
        ([], {}, "no seed"),
        (None, {}, "seeds None"),
        (7, {}, "seeds 7"),
        (["127.0.0.1"], {"conect_timeout": 1}, "no setting 'conect_timeout'"),
        (["127.0.0.1"], {"verify": "/no/such.pem", "scheme": "https"}, "/no/such.pem"),
        (AlternatorNodes("http", 1, "127.0.0.1"), {"port": 1}, "port: these belong"),
    ]:
        with pytest.raises(InvalidSettingError, match=said):
            install_alternator_transport(client, seeds, **settings)  # type: ignore[arg-type]
    assert client._endpoint.http_session is before


def test_verify_none_is_the_clients_own(cluster: LocalCluster, make_client: Any) -> None:
    """As in boto3, where None is no way to turn checks off."""
    for own, said in ((True, True), (False, False)):
        client = make_client(cluster, endpoint_url="https://dog.scylladb.com:8043", verify=own)
        nodes = install_alternator_transport(client, "127.0.0.1", verify=None)  # type: ignore[typeddict-item]
        assert bool(nodes.settings.verify) is said
        assert client._endpoint.http_session._verify is own


def test_the_clients_own_settings_stay(cluster: LocalCluster, make_client: Any) -> None:
    config = Config(
        max_pool_connections=37, connect_timeout=3, read_timeout=7, tcp_keepalive=True,
        retries={"max_attempts": 0},
    )  # fmt: skip
    client = make_client(cluster, config=config)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    get(client)
    pool = client._endpoint.http_session._manager.connection_from_url("http://x/")
    node_pool = pool._rotation.pools[0]
    assert node_pool.pool.maxsize == 37
    assert (node_pool.timeout.connect_timeout, node_pool.timeout.read_timeout) == (3, 7)
    assert (pool.timeout.connect_timeout, pool.timeout.read_timeout) == (3, 7)
    import socket

    idle = [conn for each in pool._rotation.pools for conn in each.pool._idle]
    assert idle
    for conn in idle:
        assert conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_read_timeout_counts(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, config=Config(read_timeout=0.2, retries={"max_attempts": 0}))
    install_alternator_transport(client, cluster.seeds).refresh()
    for node in cluster.nodes:
        node.freeze()
    with pytest.raises(ReadTimeoutError):
        get(client)
    for node in cluster.nodes:
        node.thaw()


def test_botocores_own_retries_go_to_another_node(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, config=Config(read_timeout=0.2, retries={"max_attempts": 3}))
    install_alternator_transport(client, cluster.seeds).refresh()
    cluster.nodes[0].freeze()
    assert [get(client) for _ in range(3)] == ["rex"] * 3
    cluster.nodes[0].thaw()


def test_a_wrong_secret_is_refused_by_the_nodes(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, aws_secret_access_key="wrong")
    install_alternator_transport(client, cluster.seeds)
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        get(client)


def with_read_timeout(request: Any, **_: Any) -> None:
    request.context["read_timeout"] = 5


def with_stream(request: Any, **_: Any) -> None:
    request.stream_output = True


@pytest.mark.parametrize(
    ("lean", "change", "kind"),
    [
        (True, None, "LeanAWSResponse"),
        (False, None, "AWSResponse"),
        pytest.param(
            *(True, with_read_timeout, "AWSResponse"),
            marks=pytest.mark.skipif(
                "read_timeout" not in inspect.getsource(botocore.httpsession),
                reason="this botocore knows no read timeout of a call's own",
            ),
        ),
        (True, with_stream, "AWSResponse"),
    ],
)
def test_what_is_not_plain_goes_botocores_own_way(
    cluster: LocalCluster, make_client: Any, monkeypatch: Any, lean: bool, change: Any, kind: str
) -> None:
    client = make_client(cluster)
    install_alternator_transport(client, cluster.seeds, lean=lean).refresh()
    real, kinds = BalancedSession.send, []

    def send(self: BalancedSession, request: Any) -> Any:
        response = real(self, request)
        kinds.append(type(response).__name__)
        return response

    monkeypatch.setattr(BalancedSession, "send", send)
    if change is with_read_timeout:
        client.meta.events.register("request-created.dynamodb", change)
    elif change is with_stream:
        client.meta.events.register("before-send.dynamodb", change)
    assert get(client) == "rex"
    assert kinds == [kind]


@pytest.mark.parametrize("lean", [True, False])
def test_only_requestlimitexceeded_is_an_overload(lean: bool) -> None:
    bad = "400 Bad Request"
    given = [
        (b'{"__type": "x#RequestLimitExceeded"}', bad),
        (b'{"__type": "x#ValidationException"}', bad),
        (b'{"__type": "x#RequestLimitExceeded"}', "500 Internal Server Error"),
        (b'{"__type": "x#InternalServerError"}', "503 Service Unavailable"),
        (b'{"__type": "x#RequestLimitExceeded"}', bad),
    ]
    answers = iter(given)
    with ScriptedServer(lambda conn, _: conn.sendall(answer(*next(answers)))) as server:
        nodes = AlternatorNodes("http", server.port, server.address, lean=lean)
        nodes.stop()
        config = Config(retries={"max_attempts": 0})
        client = nodes.client(FAKE_DOMAIN, "alternator", "secret_pass", config=config)
        for _ in given:
            with pytest.raises(ClientError):
                get(client)
        client.close()
    (stats,) = nodes.stats().values()
    assert (stats.state, stats.overloads, stats.server_errors) == ("up", 2, 2)


# -- installing, replacing, putting back -----------------------------------------------------------


def test_installing_opens_nothing_and_starts_nothing(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    threads = threading.active_count()
    install_alternator_transport(client, cluster.seeds)
    assert threading.active_count() == threads
    assert sum(node.report.open_connections for node in cluster.nodes) == 0
    get(client)
    assert any(thread.name.startswith("alternator-lb") for thread in threading.enumerate())


def test_installing_again_replaces(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster)
    original = client._endpoint.http_session
    first = install_alternator_transport(client, cluster.seeds)
    get(client)
    second = install_alternator_transport(client, cluster.seeds)
    assert "stopped" in repr(first)
    assert get(client) == "rex"
    assert client._endpoint.http_session.original is original
    assert client._endpoint.http_session.nodes is second
    uninstall_alternator_transport(client)
    assert "stopped" in repr(second)
    assert client._endpoint.http_session is original
    uninstall_alternator_transport(client)


def test_after_uninstall_the_client_is_what_it_was(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, endpoint_url=cluster.url)
    install_alternator_transport(client, cluster.seeds).refresh()
    for _ in range(3):
        get(client)
    uninstall_alternator_transport(client)
    for _ in range(6):
        get(client)
    assert calls(cluster) == [7, 1, 1]


def test_a_client_beside_it_is_untouched(cluster: LocalCluster, make_client: Any) -> None:
    patched, other = make_client(cluster), make_client(cluster, endpoint_url=cluster.url)
    install_alternator_transport(patched, cluster.seeds)
    for _ in range(4):
        get(other)
    assert calls(cluster) == [4, 0, 0]
    assert type(other._endpoint.http_session) is botocore.httpsession.URLLib3Session


def test_one_nodes_serves_several_clients(cluster: LocalCluster, make_client: Any) -> None:
    with AlternatorNodes("http", cluster.port, *cluster.seeds) as nodes:
        nodes.refresh()
        first, second = make_client(cluster), make_client(cluster)
        for client in (first, second):
            assert install_alternator_transport(client, nodes) is nodes
            for _ in range(9):
                get(client)
        assert [stats.calls for stats in nodes.stats().values()] == [6] * 3
        first.close()
        assert "stopped" not in repr(nodes)
        get(second)


def test_close_stops_the_nodes_that_the_installation_made(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    get(client)
    client.close()
    assert "stopped" in repr(nodes)
    assert not any(thread.name.startswith("alternator-lb") for thread in threading.enumerate())
    assert get(client) == "rex"  # as with any botocore client, calls go on after close()
    client.close()


def test_close_closes_every_connection_also_those_from_before_install(
    cluster: LocalCluster,
) -> None:
    client = new_client(cluster, endpoint_url=cluster.url)
    get(client)
    assert sum(node.report.open_connections for node in cluster.nodes) == 1
    install_alternator_transport(client, cluster.seeds).refresh()
    for _ in range(3):
        get(client)
    client.close()
    until(lambda: sum(node.report.open_connections for node in cluster.nodes) == 0)


def test_close_leaves_shared_nodes_and_closes_the_clients_connections_to_them(
    cluster: LocalCluster,
) -> None:
    client = new_client(cluster)
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.stop()
    install_alternator_transport(client, nodes)
    for _ in range(3):
        get(client)
    client.close()
    until(lambda: sum(node.report.open_connections for node in cluster.nodes) == 0)


def test_the_clients_certificate_is_shown_to_shared_nodes(make_client: Any) -> None:
    with LocalCluster(nodes=2, tls=True, client_ca=True) as cluster:
        config = Config(client_cert=cluster.client_cert, retries={"max_attempts": 0})
        client = make_client(cluster, verify=cluster.ca_path, config=config)
        nodes = AlternatorNodes("https", cluster.port, *cluster.addresses)
        nodes.stop()
        install_alternator_transport(client, nodes)
        for _ in range(2):
            assert client.list_tables()["TableNames"] == []


# -- nothing leaves the cluster -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["environment", "config"])
def test_proxies_and_dns_see_nothing(
    cluster: LocalCluster, make_client: Any, monkeypatch: Any, how: str
) -> None:
    import socket

    real, asked = socket.getaddrinfo, []

    def trap_dns(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if not str(host)[:1].isdigit() else host, *args, **kwargs)

    with ScriptedServer(lambda conn, _: conn.sendall(answer(b"{}"))) as trap:
        config = Config(retries={"max_attempts": 1})
        if how == "environment":
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
                monkeypatch.setenv(name, trap.url)
        else:
            config = config.merge(Config(proxies={"http": trap.url, "https": trap.url}))
        monkeypatch.setattr(socket, "getaddrinfo", trap_dns)
        client = make_client(cluster, config=config)
        install_alternator_transport(client, cluster.seeds).refresh()
        for _ in range(9):
            assert get(client) == "rex"
        assert spread(cluster)
        for node in cluster.nodes:
            node.stop()
        with pytest.raises(EndpointConnectionError):
            get(client)
        assert trap.accepted == 0
    assert {host for host in asked if not str(host).startswith("127.")} == set()


def test_endpoint_discovery_stays_within_the_cluster(
    cluster: LocalCluster, make_client: Any, monkeypatch: Any
) -> None:
    """What the server names as another endpoint leads to the nodes, too."""
    client = make_client(cluster)
    install_alternator_transport(client, cluster.seeds).refresh()

    def elsewhere(request: Any, **_: Any) -> None:
        request.url = request.url.replace(FAKE_DOMAIN, "elsewhere.invalid")

    client.meta.events.register("request-created.dynamodb", elsewhere)
    with pytest.raises(ClientError):  # signed for the one host, sent with the other
        get(client)
    assert sum(node.report.hosts.get(f"elsewhere.invalid:{cluster.port}", 0)
               for node in cluster.nodes) == 1  # fmt: skip


def test_with_every_node_down_the_error_names_them(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster)
    install_alternator_transport(client, cluster.seeds).refresh()
    for node in cluster.nodes:
        node.stop()
    with pytest.raises(EndpointConnectionError) as error:
        get(client)
    assert FAKE_DOMAIN in str(error.value)
    for address in cluster.addresses:
        assert f"{address}:{cluster.port}: Connection refused" in str(error.value)


def test_names_that_cannot_be_resolved_are_botocores_error_too(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    install_alternator_transport(client, "does-not-exist.invalid")
    with pytest.raises(EndpointConnectionError, match=r"does-not-exist\.invalid"):
        get(client)
