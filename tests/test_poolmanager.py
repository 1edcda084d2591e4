"""AlternatorPoolManager: a urllib3 PoolManager to its users, the whole cluster underneath."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from urllib3.poolmanager import PoolKey
from urllib3.util import Retry

from alternator_lb import AlternatorNodes, AlternatorPoolManager, InvalidSettingError
from alternator_lb.addresses import NodeAddress
from alternator_lb.testing import LocalCluster
from alternator_lb.tls import _OPENSSL_CHECKS_NAMES, build_context

from .conftest import FAKE_DOMAIN
from .servers import ScriptedServer, answer


def test_every_request_goes_to_the_next_node(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for _ in range(9):
            response = http.request("GET", f"http://{FAKE_DOMAIN}:{cluster.port}/")
            assert response.status == 200
            assert response.data.startswith(b"healthy")
    assert [stats.calls for stats in nodes.stats().values()] == [3] * 3
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_the_host_header_is_the_fake_domain_or_the_users_own() -> None:
    with ScriptedServer(lambda conn, _: conn.sendall(answer(b""))) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        with AlternatorPoolManager(nodes) as http:
            http.request("GET", f"http://{FAKE_DOMAIN}:8000/")
            http.request("GET", "http://other.example/")
            http.request("GET", "http://other.example/", headers={"host": "third.example"})
        nodes.stop()
        hosts = [
            line
            for request in server.requests
            if b"/localnodes" not in request
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"host:")
        ]
    assert hosts == [b"Host: dog.scylladb.com:8000", b"Host: other.example", b"host: third.example"]


def test_fake_hosts_share_the_nodes_connections(nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for name in ("a.example", "b.example", "c.example"):
            for _ in range(3):
                http.request("GET", f"http://{name}/")
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_urllib3s_retries_take_the_next_turn(cluster: LocalCluster) -> None:
    answered: list[str] = []

    def script(conn: Any, request: bytes) -> None:
        if b"/localnodes" in request:
            conn.sendall(answer(b'["127.0.0.51", "127.0.0.52"]'))
            return
        answered.append(conn.getsockname()[0])
        status = "503 Busy" if len(answered) == 1 else "200 OK"
        conn.sendall(answer(b"x", status))

    first = ScriptedServer(script, "127.0.0.51")
    with first, ScriptedServer(script, "127.0.0.52", first.port):
        nodes = AlternatorNodes("http", first.port, first.address)
        nodes.refresh()
        with AlternatorPoolManager(nodes, retries=Retry(2, status_forcelist=[503])) as http:
            assert http.request("GET", f"http://{FAKE_DOMAIN}/").status == 200
        nodes.stop()
    assert sorted(answered) == ["127.0.0.51", "127.0.0.52"]


def test_a_redirect_stays_within_the_cluster() -> None:
    def script(conn: Any, request: bytes) -> None:
        if b"GET /old" in request:
            conn.sendall(answer(b"", "302 Found", "Location: http://elsewhere.invalid/new"))
        else:
            conn.sendall(answer(request.split(b"\r\n")[0]))

    with ScriptedServer(script) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        with AlternatorPoolManager(nodes) as http:
            assert b"GET /new" in http.request("GET", f"http://{FAKE_DOMAIN}/old").data
        nodes.stop()


def test_clear_closes_idle_connections_and_leaves_the_nodes(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    http = AlternatorPoolManager(nodes)
    url = f"http://{FAKE_DOMAIN}/"
    for _ in range(3):
        http.request("GET", url)
    http.clear()
    for _ in range(3):
        http.request("GET", url)
    assert [stats.connections for stats in nodes.stats().values()] == [2] * 3
    http.clear()


def test_streamed_responses_give_their_connection_back(nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for _ in range(6):
            response = http.request("GET", f"http://{FAKE_DOMAIN}/", preload_content=False)
            assert response.read().startswith(b"healthy")
            response.release_conn()
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_maxsize_is_for_each_node(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes, maxsize=2) as http:
        url = f"http://{FAKE_DOMAIN}/"
        open_ones = [http.request("GET", url, preload_content=False) for _ in range(12)]
        for response in open_ones:
            response.drain_conn()
            response.release_conn()
        opened = sum(stats.connections for stats in nodes.stats().values())
        assert opened == 12
        again = [http.request("GET", url, preload_content=False) for _ in range(6)]
        assert sum(stats.connections for stats in nodes.stats().values()) == opened
        for response in again:
            response.drain_conn()
            response.release_conn()


def test_a_host_is_needed(nodes: AlternatorNodes) -> None:
    with pytest.raises(urllib3.exceptions.LocationValueError):
        AlternatorPoolManager(nodes).connection_from_host(None)


def test_https_is_never_sent_in_clear_text(nodes: AlternatorNodes) -> None:
    with pytest.raises(InvalidSettingError, match=r"https://dog.*speak http"):
        AlternatorPoolManager(nodes).request("GET", f"https://{FAKE_DOMAIN}/")


def test_what_is_no_nodes_is_named() -> None:
    with pytest.raises(InvalidSettingError, match="no AlternatorNodes"):
        AlternatorPoolManager("10.0.0.1")  # type: ignore[arg-type]


def test_different_settings_do_not_share_connections(nodes: AlternatorNodes) -> None:
    http = AlternatorPoolManager(nodes)
    first = http.connection_from_host(FAKE_DOMAIN, 8000, "http")
    assert http.connection_from_host(FAKE_DOMAIN.upper(), 8000, "http") is first
    assert http.connection_from_host(FAKE_DOMAIN, 8000, "http", {"maxsize": 3}) is not first
    assert http.connection_from_url(f"http://{FAKE_DOMAIN}:8000/x") is first


def test_a_client_that_nobody_refers_to_closes_its_connections(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    import gc

    from .conftest import until

    def use() -> None:
        http = AlternatorPoolManager(nodes)
        for _ in range(3):
            http.request("GET", f"http://{FAKE_DOMAIN}/")

    use()
    gc.collect()
    nodes.stop()  # closes the connections of the polls
    until(lambda: sum(node.report.open_connections for node in cluster.nodes) == 0)


def test_threads_make_one_rotation(nodes: AlternatorNodes) -> None:
    http = AlternatorPoolManager(nodes)
    ready = threading.Barrier(8)
    pools = []

    def ask() -> None:
        ready.wait()
        pools.append(http.connection_from_url(f"http://{FAKE_DOMAIN}/"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, pools))) == 1


def tls_pool(**given: Any) -> Any:
    """The pool of a node that speaks TLS."""
    nodes = AlternatorNodes("https", 8043, "127.0.0.1", verify=False)
    http = AlternatorPoolManager(nodes, **given)
    (pool,) = http.connection_from_url(f"https://{FAKE_DOMAIN}/")._rotation.pools
    return pool


@pytest.mark.skipif(
    "key_ca_cert_data" not in PoolKey._fields, reason="this urllib3 has no such keywords"
)
def test_what_is_told_of_tls_is_in_the_context() -> None:
    pem = trustme.CA().cert_pem.bytes().decode()
    pool = tls_pool(
        cert_reqs="CERT_REQUIRED",
        ca_cert_data=pem,
        ssl_minimum_version=ssl.TLSVersion.TLSv1_3,
        ssl_maximum_version=ssl.TLSVersion.TLSv1_3,
    )
    context = pool.conn_kw["ssl_context"]
    loaded = context.get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(pem) in loaded
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == pool.cert_reqs == ssl.CERT_REQUIRED


def test_a_given_context_gets_the_bundle_and_the_requirement(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = build_context(False)
    pool = tls_pool(ssl_context=own, ca_certs=str(tmp_path / "ca.pem"), cert_reqs="CERT_REQUIRED")
    assert pool.conn_kw["ssl_context"] is own
    assert len(own.get_ca_certs()) == 1
    assert pool.cert_reqs == "CERT_REQUIRED"
    assert tls_pool(ssl_context=own).cert_reqs == own.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    "given",
    [{"assert_fingerprint": "00" * 20}, {"assert_hostname": "x"}, {"assert_hostname": False}],
    ids=str,
)
def test_what_urllib3_checks_instead_the_context_does_not(given: dict[str, Any]) -> None:
    context = tls_pool(cert_reqs="CERT_REQUIRED").conn_kw["ssl_context"]
    assert context.check_hostname is _OPENSSL_CHECKS_NAMES
    pool = tls_pool(cert_reqs="CERT_REQUIRED", **given)
    assert not pool.conn_kw["ssl_context"].check_hostname


def test_a_client_certificate_and_a_bundle_by_urllib3s_keywords() -> None:
    with LocalCluster(nodes=2, tls=True, client_ca=True) as cluster:
        assert cluster.client_cert is not None
        certificate, key = cluster.client_cert
        nodes = AlternatorNodes("https", cluster.port, *cluster.addresses)
        nodes.stop()
        url = f"https://{FAKE_DOMAIN}/"
        tls = {"cert_file": certificate, "key_file": key, "ca_certs": cluster.ca_path}
        with AlternatorPoolManager(nodes, retries=False, **tls) as http:
            for _ in range(2):
                assert http.request("GET", url).status == 200
        del tls["cert_file"]
        with (
            AlternatorPoolManager(nodes, retries=False, **tls) as http,
            pytest.raises((urllib3.exceptions.HTTPError, OSError)),
        ):
            http.request("GET", url)


def test_a_node_that_was_resolved_from_a_name_has_to_show_that_name() -> None:
    with LocalCluster(nodes=1, tls="name-only") as cluster:
        nodes = AlternatorNodes("https", cluster.port, cluster.server_name, verify=cluster.ca_path)
        address = NodeAddress("https", cluster.addresses[0], cluster.port, name=cluster.server_name)
        nodes._members.replace([address], [])
        nodes.stop()
        with AlternatorPoolManager(nodes, retries=False) as http:
            assert http.request("GET", f"https://{FAKE_DOMAIN}/").status == 200


@pytest.mark.parametrize(
    "timeout",
    [None, 3, 3.5, urllib3.Timeout(total=5), urllib3.Timeout(connect=1, read=None)],
    ids=str,
)
def test_every_kind_of_timeout(nodes: AlternatorNodes, timeout: Any) -> None:
    url = f"http://{FAKE_DOMAIN}/"
    given = {"retries": False, "preload_content": False, "decode_content": False, "body": b""}
    with AlternatorPoolManager(nodes, timeout=timeout) as http:
        assert http.request("GET", url).status == 200
        assert http.request("GET", url, timeout=timeout).status == 200
        response = http.urlopen("GET", url, **given)
        assert response.status == 200
        response.drain_conn()
    with AlternatorPoolManager(nodes) as http:
        response = http.urlopen("GET", url, **given)
        assert response.read().startswith(b"healthy")
