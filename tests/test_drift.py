"""The private names of botocore and urllib3 that this library touches are still what they were."""

from __future__ import annotations

import inspect

import botocore.client
import botocore.endpoint
import botocore.session
from botocore.httpsession import ProxyConfiguration, URLLib3Session, get_cert_path
from urllib3 import HTTPConnectionPool, PoolManager
from urllib3.connection import HTTPConnection


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_a_client_sends_through_endpoint_http_session() -> None:
    client = botocore.session.Session().create_client(
        "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert type(client._endpoint.http_session) is URLLib3Session
    assert "self.http_session.send(request)" in inspect.getsource(botocore.endpoint.Endpoint._send)
    assert "self.http_session.close()" in inspect.getsource(botocore.endpoint.Endpoint.close)
    assert "self._endpoint.close()" in inspect.getsource(botocore.client.BaseClient.close)


def test_the_names_of_urllib3session() -> None:
    session = URLLib3Session(client_cert=("cert", "key"), verify="ca")
    assert isinstance(session._manager, PoolManager)
    assert isinstance(session._proxy_config, ProxyConfiguration)
    assert session._proxy_managers == {}
    assert session._verify == "ca"
    assert (session._cert_file, session._key_file) == ("cert", "key")
    assert set(session._pool_classes_by_scheme) == {"http", "https"}
    settings = session._get_pool_manager_kwargs()
    known = {"strict", "timeout", "maxsize", "ssl_context", "socket_options"}
    assert set(settings) <= known | {"cert_file", "key_file", "blocksize"}
    assert {"timeout", "maxsize", "socket_options"} <= set(settings)
    assert get_cert_path(False) is False
    assert get_cert_path("x") == "x"
    assert isinstance(get_cert_path(True), str)


def test_the_names_that_the_hooks_need() -> None:
    """Where they are gone, the hooks are left out; here it is noticed that they are."""
    from botocore.auth import AUTH_TYPE_MAPS, SigV4Auth
    from botocore.awsrequest import AWSResponse

    from alternator_lb.signing import SIGNATURE_VERSION, LeanSigV4Auth

    assert AUTH_TYPE_MAPS["v4"] is SigV4Auth
    assert AUTH_TYPE_MAPS[SIGNATURE_VERSION] is LeanSigV4Auth
    assert parameters(SigV4Auth.__init__) == ["self", "credentials", "service_name", "region_name"]
    assert parameters(AWSResponse.__init__) == ["self", "url", "status_code", "headers", "raw"]
    assert set(vars(AWSResponse("u", 200, {}, None))) == {
        *("url", "status_code", "headers", "raw", "_content")
    }
    assert URLLib3Session()._path_url("http://x/y?z") == "/y?z"
    from botocore.parsers import JSONParser, ResponseParserFactory

    assert type(ResponseParserFactory().create_parser("json")) is JSONParser
    for name in ("_handle_structure", "_handle_map", "_parse_shape"):
        assert parameters(getattr(JSONParser, name))[:2] == ["self", "shape"]
    client = botocore.session.Session().create_client(
        "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert isinstance(client._endpoint._response_parser_factory, ResponseParserFactory)
    if tuple(map(int, botocore.__version__.split(".")[:2])) >= (1, 32):
        assert client._user_agent_creator.to_string().startswith("Botocore/")
        source = inspect.getsource(type(client._user_agent_creator).to_string)
        assert "self._build_feature_metadata()" in source


def test_send_reads_manager_and_proxies_once_and_maps_the_errors() -> None:
    source = inspect.getsource(URLLib3Session.send)
    assert source.count("self._proxy_config.proxy_url_for(") == 1
    assert "manager.connection_from_url(request.url)" in source
    assert "(NewConnectionError, socket.gaierror)" in source
    assert "EndpointConnectionError(endpoint_url=request.url, error=e)" in source
    manager = inspect.getsource(URLLib3Session._get_connection_manager)
    assert manager.count("self._manager") == 1
    assert "self._manager.clear()" in inspect.getsource(URLLib3Session.close)


def test_the_seams_of_urllib3s_pool() -> None:
    source = inspect.getsource(HTTPConnectionPool.urlopen)
    assert source.count("self._get_conn(timeout=pool_timeout)") == 1
    assert "self._put_conn(conn)" in source
    assert "pool_timeout=pool_timeout" in source  # handed on when it retries
    assert parameters(HTTPConnectionPool._get_conn) == ["self", "timeout"]
    assert parameters(HTTPConnectionPool._put_conn) == ["self", "conn"]
    assert parameters(HTTPConnectionPool._validate_conn) == ["self", "conn"]
    assert "self._validate_conn(conn)" in inspect.getsource(HTTPConnectionPool._make_request)
    first = ["self", "method", "url", "body", "headers", "retries", "redirect", "assert_same_host"]
    assert parameters(HTTPConnectionPool.urlopen)[:8] == first
    assert hasattr(HTTPConnectionPool, "QueueCls")
    assert hasattr(HTTPConnectionPool, "ConnectionCls")


def test_the_seams_of_urllib3s_connection_and_manager() -> None:
    conn = HTTPConnection("127.0.0.1", 1)
    assert conn.sock is None
    assert hasattr(conn, "timeout")
    assert parameters(PoolManager.connection_from_host)[:4] == ["self", "host", "port", "scheme"]
    manager = PoolManager()
    assert set(manager.key_fn_by_scheme) == {"http", "https"}
    assert manager._merge_pool_kwargs({"maxsize": 3}) == {"maxsize": 3}
