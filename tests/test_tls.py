"""TLS: what is verified and with what, names and client certificates, and loading once."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import urllib3
from botocore.config import Config
from botocore.exceptions import SSLError
from cryptography.hazmat.primitives import serialization
from urllib3.util.ssl_ import create_urllib3_context

from alternator_lb import (
    AlternatorAdapter,
    AlternatorNodes,
    AlternatorPoolManager,
    DiscoveryError,
    InvalidSettingError,
    install_alternator_transport,
)
from alternator_lb.testing import LocalCluster
from alternator_lb.tls import ResumingContext, build_context

from .conftest import FAKE_DOMAIN, get, make_table, new_client


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3, tls=True) as cluster:
        make_table(cluster)
        yield cluster


@pytest.fixture(autouse=True)
def _fresh_counts(cluster: LocalCluster) -> None:
    cluster.reset_counts()


def calls(cluster: LocalCluster) -> list[int]:
    return [node.report.calls for node in cluster.nodes]


def test_verify_with_a_path(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, verify=cluster.ca_path)
    install_alternator_transport(client, cluster.seeds).refresh()
    for _ in range(6):
        assert get(client) == "rex"
    assert calls(cluster) == [2, 2, 2]
    assert [node.report.connections for node in cluster.nodes] == [1, 1, 1]


def test_verify_false(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, verify=False)
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        install_alternator_transport(client, cluster.seeds).refresh()
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert get(client) == "rex"


def test_an_unknown_ca_is_botocores_ssl_error_and_names_the_nodes(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    with pytest.raises(SSLError) as error:
        get(client)
    assert cluster.addresses[0] in str(error.value)
    assert "certificate verify failed" in str(error.value)
    with pytest.raises(DiscoveryError, match="name its CA with ca_certs"):
        nodes.refresh()
    assert calls(cluster) == [0, 0, 0]


@pytest.mark.parametrize("form", ["path", "list", "pem"])
def test_ca_certs_come_on_top(cluster: LocalCluster, make_client: Any, form: str) -> None:
    path = str(cluster.ca_path)
    ca_certs: Any = {"path": path, "list": [Path(path)], "pem": Path(path).read_text()}[form]
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, ca_certs=ca_certs)
    nodes.refresh()
    assert get(client) == "rex"
    context = client._endpoint.http_session._manager.connection_pool_kw["ssl_context"]
    assert len(context.get_ca_certs()) > 10  # those of botocore's bundle are there as well


def test_nodes_whose_certificate_names_the_cluster_only(make_client: Any) -> None:
    with LocalCluster(nodes=2, tls="name-only") as cluster:
        client = make_client(cluster, verify=cluster.ca_path)
        install_alternator_transport(client, cluster.seeds)
        with pytest.raises(SSLError, match=r"match|valid for"):
            client.list_tables()
        nodes = install_alternator_transport(
            client, cluster.seeds, server_hostname=cluster.server_name
        )
        nodes.refresh()
        for _ in range(4):
            client.list_tables()
        assert calls(cluster) == [2, 2]
        install_alternator_transport(client, cluster.seeds, server_hostname="wrong.example")
        with pytest.raises(SSLError, match=r"wrong\.example|match"):
            client.list_tables()


def test_client_certificates(make_client: Any) -> None:
    with LocalCluster(nodes=2, tls=True, client_ca=True) as cluster:
        certificate, key = cluster.client_cert
        config = Config(client_cert=(certificate, key), retries={"max_attempts": 0})
        client = make_client(cluster, verify=cluster.ca_path, config=config)
        install_alternator_transport(client, cluster.seeds).refresh()
        for _ in range(4):
            client.list_tables()
        assert calls(cluster) == [2, 2]
        nodes = AlternatorNodes(
            "https", cluster.port, *cluster.seeds,
            verify=str(cluster.ca_path), client_cert=(certificate, key),
        )  # fmt: skip
        with AlternatorPoolManager(nodes) as http:
            assert http.request("GET", f"https://{FAKE_DOMAIN}/").status == 200
        nodes.stop()
        without = make_client(cluster, verify=cluster.ca_path)
        install_alternator_transport(without, cluster.seeds)
        with pytest.raises(Exception, match=r"(?i)certificate|connect|closed|EOF"):
            without.list_tables()


def test_plain_urllib3(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, ca_certs=str(cluster.ca_path))
    url = f"https://{FAKE_DOMAIN}:{cluster.port}/"
    with AlternatorPoolManager(nodes) as http:
        assert http.request("GET", url).status == 200
    with (
        AlternatorPoolManager(nodes, cert_reqs="CERT_NONE") as http,
        pytest.warns(urllib3.exceptions.InsecureRequestWarning),
    ):
        assert http.request("GET", url).status == 200
    context = build_context(str(cluster.ca_path))
    with AlternatorPoolManager(nodes, ssl_context=context) as http:
        assert http.request("GET", url).status == 200
    with AlternatorPoolManager(nodes, ca_certs=str(cluster.ca_path)) as http:
        assert http.request("GET", url).status == 200
    with AlternatorPoolManager(nodes, assert_hostname=cluster.server_name) as http:
        assert http.request("GET", url).status == 200
    with (
        AlternatorPoolManager(nodes, assert_hostname="wrong.example", retries=False) as http,
        pytest.raises(urllib3.exceptions.SSLError),
    ):
        http.request("GET", url)
    nodes.stop()


def test_requests(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, ca_certs=str(cluster.ca_path))
    url = f"https://{FAKE_DOMAIN}:{cluster.port}/"
    with requests.Session() as session:
        session.mount(url, AlternatorAdapter(nodes))
        assert session.get(url, timeout=5).status_code == 200
        assert session.get(url, timeout=5, verify=str(cluster.ca_path)).status_code == 200
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            assert session.get(url, timeout=5, verify=False).status_code == 200
        assert session.get(url, timeout=5).status_code == 200
    nodes.stop()
    bare = AlternatorNodes("https", cluster.port, *cluster.seeds)
    with requests.Session() as session:
        session.mount(url, AlternatorAdapter(bare))
        with pytest.raises(requests.exceptions.SSLError):
            session.get(url, timeout=5)
    bare.stop()


def test_ca_certificates_are_loaded_once(
    cluster: LocalCluster, make_client: Any, monkeypatch: Any
) -> None:
    client = make_client(cluster, verify=cluster.ca_path)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    loaded = []

    def load(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        loaded.append(args or kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    for _ in range(6):
        assert get(client) == "rex"
    client._endpoint.http_session._manager.clear()
    for _ in range(6):
        assert get(client) == "rex"
    assert [node.report.connections for node in cluster.nodes] == [2, 2, 2]
    assert loaded == []


def test_clients_whose_verify_differs_do_not_share_a_context(
    cluster: LocalCluster, make_client: Any
) -> None:
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, verify=str(cluster.ca_path))
    checked = make_client(cluster, verify=cluster.ca_path)
    unchecked = make_client(cluster, verify=False)
    install_alternator_transport(checked, nodes)
    install_alternator_transport(unchecked, nodes)
    wrong = make_client(cluster)
    install_alternator_transport(wrong, nodes)
    for _ in range(2):
        assert get(checked) == "rex"
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            assert get(unchecked) == "rex"
        with pytest.raises(SSLError):
            get(wrong)
    nodes.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"verify": "/no/such/ca.pem"}, "/no/such/ca.pem"),
        ({"ca_certs": ["/no/such/ca.pem"]}, "/no/such/ca.pem"),
        ({"ca_certs": "-----BEGIN CERTIFICATE-----\nnonsense"}, "ca_certs"),
        ({"client_cert": "/no/such/cert.pem"}, "/no/such/cert.pem"),
    ],
)
def test_what_cannot_be_loaded_fails_early_and_is_named(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        AlternatorNodes("https", 8043, "127.0.0.1", **settings)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files")
def test_a_directory_of_ca_certificates(cluster: LocalCluster, tmp_path: Path) -> None:
    path = str(cluster.ca_path)
    command = ["openssl", "x509", "-in", path, "-noout", "-subject_hash"]
    name = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    shutil.copy(path, tmp_path / f"{name.strip()}.0")
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, verify=tmp_path)
    assert len(nodes.refresh()) == 3
    nodes.stop()


def test_verify_true_is_what_the_system_trusts(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(cluster.ca_path))
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds)
    assert len(nodes.refresh()) == 3
    nodes.stop()


def test_urllib3s_options_are_taken_over() -> None:
    ours, urllib3s = build_context(False), create_urllib3_context()
    for name in ("options", "verify_flags", "minimum_version", "maximum_version"):
        assert getattr(ours, name) == getattr(urllib3s, name), name


def test_the_key_may_have_a_password(cluster: LocalCluster, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("client.example")
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    (tmp_path / "key.pem").write_bytes(secret)
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    pair = (tmp_path / "cert.pem", tmp_path / "key.pem")
    build_context(False, client_cert=pair, key_password="open sesame")
    with pytest.raises(InvalidSettingError, match="client_cert"):
        build_context(False, client_cert=pair, key_password="wrong")


def test_a_fingerprint_takes_the_place_of_the_name() -> None:
    with LocalCluster(nodes=1, tls="name-only") as cluster:
        nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, verify=str(cluster.ca_path))
        nodes.stop()
        pem = ssl.get_server_certificate((cluster.addresses[0], cluster.port))
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        url = f"https://{FAKE_DOMAIN}/"
        with AlternatorPoolManager(nodes, assert_fingerprint=fingerprint) as http:
            assert http.request("GET", url, retries=False).status == 200
        for wrong in ({}, {"assert_fingerprint": "00" * 32}):
            with (
                AlternatorPoolManager(nodes, retries=False, **wrong) as http,
                pytest.raises(urllib3.exceptions.SSLError),
            ):
                http.request("GET", url)


def test_https_on_a_client_without_endpoint_url(cluster: LocalCluster) -> None:
    client = new_client(cluster, endpoint_url=None, verify=cluster.ca_path)
    nodes = install_alternator_transport(client, [cluster.url])
    assert (nodes.scheme, nodes.port) == ("https", cluster.port)
    assert get(client) == "rex"
    client.close()


@pytest.mark.parametrize("verify", ["path", False])
def test_verify_of_the_nodes_counts_for_the_clients_they_make(
    cluster: LocalCluster, verify: Any
) -> None:
    verify = str(cluster.ca_path) if verify == "path" else verify
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, verify=verify)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
        assert get(nodes.client(FAKE_DOMAIN, cluster.access_key, cluster.secret_key)) == "rex"
    nodes.stop()


def test_sessions_are_resumed_on_reconnect(cluster: LocalCluster, make_client: Any) -> None:
    client = make_client(cluster, verify=cluster.ca_path)
    install_alternator_transport(client, cluster.seeds).refresh()
    manager = client._endpoint.http_session._manager
    rotation = manager.connection_from_url(client.meta.endpoint_url + "/")._rotation

    def reused() -> list[bool]:
        return [conn.sock.session_reused for pool in rotation.pools for conn in pool.pool._idle]

    for _ in range(3):
        get(client)
    assert reused() == [False] * 3
    for _ in range(5):
        manager.clear()
        for _ in range(3):
            assert get(client) == "rex"
        assert reused() == [True] * 3


def test_a_session_never_stands_in_for_a_check(cluster: LocalCluster, make_client: Any) -> None:
    """What one client has verified, another has not; nor does one name vouch for another."""
    nodes = AlternatorNodes("https", cluster.port, *cluster.seeds, verify=str(cluster.ca_path))
    checked = make_client(cluster, verify=cluster.ca_path)
    install_alternator_transport(checked, nodes)
    for _ in range(6):
        assert get(checked) == "rex"
    wrong = make_client(cluster)
    install_alternator_transport(wrong, cluster.seeds)
    with pytest.raises(SSLError):
        get(wrong)
    install_alternator_transport(
        checked, cluster.seeds, verify=str(cluster.ca_path), server_hostname="wrong.example"
    )
    with pytest.raises(SSLError):
        get(checked)
    nodes.stop()


def test_a_session_is_that_of_one_name(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = build_context(str(cluster.ca_path))
    assert isinstance(context, ResumingContext)
    given = []
    real = ssl.SSLContext.wrap_socket

    def wrap(self: ssl.SSLContext, sock: Any, **kwargs: Any) -> ssl.SSLSocket:
        given.append(kwargs["session"])
        return real(self, sock, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    address = cluster.addresses[0]
    for name in (cluster.server_name, cluster.server_name, address):
        with (
            socket.create_connection((address, cluster.port)) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(1000)
            context.remember(tls)
    assert [session is not None for session in given] == [False, True, False]


def test_a_node_that_comes_back_with_a_bad_certificate_is_out(make_client: Any) -> None:
    with LocalCluster(nodes=1, tls=True) as good, LocalCluster(nodes=1, tls=True) as other:
        context = build_context(str(good.ca_path))
        assert isinstance(context, ResumingContext)
        address = (good.addresses[0], good.port)
        with socket.create_connection(address) as plain:
            tls = context.wrap_socket(plain, server_hostname=good.server_name)
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(1000)
            context.remember(tls)
            tls.close()
        (session,) = context._sessions.values()
        elsewhere = (other.addresses[0], other.port)
        with socket.create_connection(elsewhere) as plain:
            context._sessions[plain.getpeername(), other.server_name] = session
            with pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(plain, server_hostname=other.server_name)


def test_sessions_are_resumed_also_where_nodes_close_after_each_answer(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster, verify=cluster.ca_path)
    install_alternator_transport(client, cluster.seeds).refresh()

    def close_after_it(request: Any, **_: Any) -> None:
        request.headers["Connection"] = "close"

    client.meta.events.register("before-send.dynamodb", close_after_it)
    handshakes = []
    real = ssl.SSLContext.wrap_socket

    def wrap(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> Any:
        sock = real(self, *args, **kwargs)
        handshakes.append(sock.session_reused)
        return sock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "wrap_socket", wrap)
        for _ in range(9):
            assert get(client) == "rex"
    assert handshakes[-6:] == [True] * 6
