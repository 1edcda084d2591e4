"""The kept parts of a signature and of the User-Agent: the same bytes as botocore's, always."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import botocore.auth
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from alternator_lb import install_alternator_transport, uninstall_alternator_transport
from alternator_lb.signing import SIGNATURE_VERSION, LeanSigV4Auth

from .servers import ScriptedServer, answer

try:
    from botocore.useragent import register_feature_id
except ImportError:  # before botocore 1.37
    register_feature_id = None

text = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=20)
secrets = st.one_of(st.sampled_from(["secret_pass", "", "ü€"]), text)
names = st.sampled_from(
    ["X-Amz-Target", "Content-Type", "User-Agent", "X-Amz-Date", "Authorization", "Date", "Host"]
    + ["X-Amz-Security-Token", "x-custom", "Expect", "X-Amz-Content-SHA256", "Connection", "X-A"]
)
urls = st.sampled_from(
    ["http://dog.scylladb.com:8000/", "https://dog.scylladb.com/", "http://[::1]:8000/"]
    + ["https://DOG.scylladb.com:8043/", "http://dog:80/", "http://dog:8000/path", "http://dog"]
    + ["http://dog:8000/?a=b", "http://u:p@dog:8000/", "https://dog:443/"]
)
times = st.datetimes(datetime.datetime(2001, 1, 1), datetime.datetime(2100, 1, 1))


def sign(
    cls: Any,
    when: Any,
    url: str,
    headers: Any,
    body: Any,
    credentials: Any,
    method: str,
    place: tuple[str, str] = ("dynamodb", "us-east-1"),
    **context: Any,
) -> Any:
    request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
    request.context.update(context)
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(botocore.auth, "get_current_datetime"):
            patch.setattr(botocore.auth, "get_current_datetime", lambda *_: when)
        else:

            class Clock(datetime.datetime):
                @classmethod
                def utcnow(cls) -> Any:
                    return when

            patch.setattr(botocore.auth.datetime, "datetime", Clock)
        auth = cls(credentials, *place)
        try:
            auth.add_auth(request)
        except Exception as error:
            return type(error)
    return sorted(request.headers.items()), request.context.get("timestamp")


@settings(max_examples=800, deadline=None)
@given(
    times,
    urls,
    st.dictionaries(names, text, max_size=6),
    st.one_of(st.binary(max_size=50), st.just(b""), text),
    secrets,
    st.one_of(st.none(), st.just("token")),
    st.sampled_from(["POST"] * 5 + ["GET", "PUT"]),
    st.sampled_from([{}, {}, {}, {"payload_signing_enabled": False}, {"checksum": {}}]),
)
def test_the_signature_is_botocores(
    when: Any, url: str, headers: Any, body: Any, secret: str, token: Any, method: str, context: Any
) -> None:
    credentials = Credentials("alternator", secret, token).get_frozen_credentials()
    expected = sign(SigV4Auth, when, url, headers, body, credentials, method, **context)
    assert sign(LeanSigV4Auth, when, url, headers, body, credentials, method, **context) == expected


def test_the_key_is_of_its_day_region_service_and_secret() -> None:
    """What is kept of one must not serve for the other; a second round finds it kept."""
    today = datetime.datetime(2026, 12, 31, 23, 59, 59)
    several = itertools.product(
        (today, today + datetime.timedelta(seconds=1)),
        (("dynamodb", "us-east-1"), ("dynamodb", "eu-west-1"), ("streams", "us-east-1")),
        ("secret", "other"),
    )
    signatures = set()
    for when, place, secret in [*several] * 2:
        credentials = Credentials("alternator", secret).get_frozen_credentials()
        given_ = (when, "http://dog:8000/", {"X-Amz-Target": "x"}, b"{}", credentials, "POST")
        signed = sign(LeanSigV4Auth, *given_, place=place)
        assert signed == sign(SigV4Auth, *given_, place=place)
        signatures.add(str(signed))
    assert len(signatures) == 12


def test_signing_again_for_a_retry_and_the_next_day() -> None:
    credentials = Credentials("alternator", "secret").get_frozen_credentials()
    for cls in (SigV4Auth, LeanSigV4Auth):
        request = AWSRequest("POST", "http://dog:8000/", {"X-Amz-Target": "x"}, b"{}")
        for _ in range(3):
            cls(credentials, "dynamodb", "us-east-1").add_auth(request)
        assert request.headers.get_all("Authorization") is not None
        assert len(request.headers.get_all("Authorization")) == 1
        assert len(request.headers.get_all("X-Amz-Date")) == 1


def test_no_credentials_is_botocores_error() -> None:
    from botocore.exceptions import NoCredentialsError

    for data in (b"", b"{}"):
        request = AWSRequest("POST", "http://d/", {}, data)
        with pytest.raises(NoCredentialsError):
            LeanSigV4Auth(None, "dynamodb", "us-east-1").add_auth(request)


@pytest.mark.parametrize("what", ["the map", "the class"])
def test_a_signer_that_was_replaced_is_used(what: str, monkeypatch: Any) -> None:
    """As tests of applications do, and tools that trace."""
    signed = []

    def script(conn: Any, request: bytes) -> None:
        conn.sendall(answer(b'["127.0.2.71"]' if request.startswith(b"GET") else b"{}"))

    def add_auth(self: Any, request: Any) -> None:
        signed.append(request.url)

    with ScriptedServer(script, "127.0.2.71") as server:
        client = client_of(server)
        install_alternator_transport(client, "127.0.2.71", lean=True)
        client.list_tables()
        assert signed == []
        if what == "the map":
            own = type("Own", (SigV4Auth,), {"add_auth": add_auth})
            monkeypatch.setitem(botocore.auth.AUTH_TYPE_MAPS, "v4", own)
        else:
            monkeypatch.setattr(SigV4Auth, "add_auth", add_auth)
        client.list_tables()
        client.close()
    assert signed == [f"{server.url}/"]


OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("get_item", {"TableName": "animals", "Key": {"name": {"S": "rex"}}}),
    ("put_item", {"TableName": "animals", "Item": {"name": {"S": "ü€"}, "b": {"B": b"\x00"}}}),
    ("query", {"TableName": "animals", "KeyConditionExpression": "#n = :n",
               "ExpressionAttributeNames": {"#n": "name"},
               "ExpressionAttributeValues": {":n": {"S": "x" * 5000}}}),
    ("batch_write_item",
     {"RequestItems": {"animals": [{"DeleteRequest": {"Key": {"n": {"N": "1"}}}}]}}),
    ("list_tables", {}),
    ("describe_endpoints", {}),
    ("transact_get_items", {"TransactItems": [
        {"Get": {"TableName": "animals", "Key": {"name": {"S": "rex"}}}}]}),
    ("scan", {"TableName": "arn:aws:dynamodb:us-east-1:123456789012:table/animals"}),
]  # fmt: skip


def client_of(server: ScriptedServer, config: Any = None) -> Any:
    return botocore.session.Session().create_client(
        "dynamodb",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="alternator",
        aws_secret_access_key="secret_pass",
        config=config,
    )


def note_a_feature(**_: Any) -> None:
    """As parts of botocore do it after the User-Agent was made, so that it is made anew."""
    if register_feature_id is not None:
        register_feature_id("WAITER")


def requests_of(how: str, server: ScriptedServer, config: Any, **settings_: Any) -> None:
    """Send one request for each of many operations."""
    client = client_of(server, config)
    client.meta.events.register_first("request-created.dynamodb", note_a_feature)
    if how != "plain":
        install_alternator_transport(client, server.address, lean=True, **settings_)
    if how == "uninstalled":
        uninstall_alternator_transport(client)
    for name, arguments in OPERATIONS:
        getattr(client, name)(**arguments)
    paginator = client.get_paginator("list_tables")
    list(paginator.paginate())
    client.close()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"user_agent": "mine/1"},
        {"user_agent_extra": "extra/2"},
        {"user_agent_appid": "app"},
        {"retries": {"mode": "standard"}},
        {"signature_version": botocore.UNSIGNED},
    ],
    ids=lambda config: next(iter(config), "default"),
)
def test_whole_requests_are_those_of_plain_boto3(config: dict[str, Any], monkeypatch: Any) -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    try:
        given_config = Config(**config)
    except TypeError:
        pytest.skip("this botocore does not know the setting")
    if hasattr(botocore.auth, "get_current_datetime"):
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: when)
    sent = []

    def script(conn: Any, request: bytes) -> None:
        body = b'["127.0.0.71"]' if request.startswith(b"GET") else b"{}"
        conn.sendall(answer(body, "200 OK", "Content-Type: application/x-amz-json-1.0"))

    with ScriptedServer(script, "127.0.0.71") as server:
        for how in ("plain", "installed", "uninstalled"):
            server.requests.clear()
            requests_of(how, server, given_config)
            sent.append([split(r) for r in server.requests if not r.startswith(b"GET /localnodes")])
    assert len(sent[0]) == len(OPERATIONS) + 1
    for plain, installed, uninstalled in zip(*sent, strict=True):
        if not hasattr(botocore.auth, "get_current_datetime"):  # the clock is another one
            for headers, _ in (plain, installed, uninstalled):
                headers.pop(b"Authorization", None)
                headers.pop(b"X-Amz-Date", None)
        assert installed == plain
        assert uninstalled == plain


def split(request: bytes) -> tuple[dict[bytes, Any], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers: dict[bytes, Any] = dict(line.split(b": ", 1) for line in lines[1:])
    headers.pop(b"amz-sdk-invocation-id", None)  # a new one for each call
    agent = headers.get(b"User-Agent", b"")
    # The features in m/… come out of a set: their order is no one's.
    words = [
        b"m/" + b",".join(sorted(word[2:].split(b","))) if word.startswith(b"m/") else word
        for word in agent.split(b" ")
    ]
    headers[b"User-Agent"] = words
    headers[b""] = lines[0]
    return headers, body


def test_a_short_user_agent_where_that_is_wanted() -> None:
    def script(conn: Any, request: bytes) -> None:
        conn.sendall(answer(b'["127.0.0.71"]' if request.startswith(b"GET") else b"{}"))

    with ScriptedServer(script, "127.0.0.71") as server:
        requests_of("installed", server, Config(), short_user_agent=True)
        agents = {
            line
            for request in server.requests
            if request.startswith(b"POST")
            for line in request.split(b"\r\n")
            if line.startswith(b"User-Agent")
        }
    from botocore import __version__

    if tuple(map(int, __version__.split(".")[:2])) >= (1, 32):
        assert len(agents) == 1
        assert len(agents.pop()) < 50


def test_uninstall_takes_the_hooks_back() -> None:
    client = botocore.session.Session().create_client(
        "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    chosen = []
    client.meta.events.register(
        "before-sign.dynamodb", lambda signature_version, **_: chosen.append(signature_version)
    )
    creator = getattr(client, "_user_agent_creator", None)

    def handlers() -> list[Any]:
        request = AWSRequest("POST", "http://dog:8000/", {"User-Agent": "x"}, b"{}")
        event = "request-created.dynamodb.ListTables"
        given_ = {"request": request, "operation_name": "ListTables"}
        return [handler for handler, _ in client.meta.events.emit(event, **given_)]

    before = handlers()

    def presign() -> str:
        client.generate_presigned_url("list_tables")
        return str(chosen[-1])

    assert presign() == "v4-query"
    for _ in range(2):
        install_alternator_transport(client, "127.0.0.1:8000", scheme="http", port=8000, lean=True)
        assert presign() == "v4-query"
        assert creator is None or client._user_agent_creator is not creator
    uninstall_alternator_transport(client)
    assert getattr(client, "_user_agent_creator", None) is creator
    assert handlers() == before
    handler = client.meta.events.emit_until_response(
        "choose-signer.dynamodb.ListTables",
        signing_name="dynamodb",
        region_name="us-east-1",
        signature_version="v4",
        context={},
    )
    assert SIGNATURE_VERSION not in handler
