"""Signatures are checked over what arrived, and refused in Alternator's words."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from alternator_lb.testing import LocalCluster
from alternator_lb.testing.messages import Request
from alternator_lb.testing.signatures import Rejected, check_signature

from .conftest import Clients

USERS = {"alternator": "secret_pass"}


def signed(body: bytes = b"{}", host: str = "fake.test:8000", **headers: str) -> Request:
    """Return a request as botocore signs it for a host."""
    asked = AWSRequest(
        "POST",
        f"http://{host}/",
        headers={"X-Amz-Target": "DynamoDB_20120810.ListTables", **headers},
        data=body,
    )
    SigV4Auth(Credentials(*next(iter(USERS.items()))), "dynamodb", "us-east-1").add_auth(asked)
    return Request("POST", "/", [("Host", host), *asked.headers.items()], body)


def replaced(request: Request, name: str, change: Callable[[str], str]) -> Request:
    """Return the request with one header changed; one that becomes empty is left out."""
    changed = [
        (key, change(value) if key.lower() == name else value) for key, value in request.headers
    ]
    kept = [(key, value) for key, value in changed if value]
    return Request(request.method, request.target, kept, request.body)


def test_what_botocore_signs_is_taken() -> None:
    assert check_signature(signed(), USERS) == "alternator"
    assert check_signature(signed(b"{ }", "other", **{"X-Two": "a   b "}), USERS) == "alternator"


def test_headers_that_are_not_signed_may_change() -> None:
    request = signed()
    request.headers.append(("User-Agent", "who"))
    assert check_signature(request, USERS) == "alternator"


def put(value: str) -> Callable[[str], str]:
    return lambda _: value


def swap(pattern: str, by: str) -> Callable[[str], str]:
    return lambda value: re.sub(pattern, by, value)


@pytest.mark.parametrize(
    ("header", "change", "code", "says"),
    [
        ("host", put("10.0.0.1:8000"), "UnrecognizedClientException", "wrong signature"),
        ("host", put(""), "InvalidSignatureException", "Host header is mandatory"),
        ("x-amz-target", put("Other"), "UnrecognizedClientException", "wrong signature"),
        ("authorization", put(""), "MissingAuthenticationTokenException", "mandatory"),
        ("authorization", put("Bearer x"), "InvalidSignatureException", "AWS4-HMAC-SHA256"),
        ("authorization", swap("alternator/", "/"), "UnrecognizedClientException", "not found: "),
        ("authorization", swap("alternator/", ""), "ValidationException", "Incorrect credential"),
        ("authorization", swap("host;", ""), "InvalidSignatureException", "Host header should"),
        ("authorization", swap("x-amz-date;?", ""), "InvalidSignatureException", "X-Amz-Date"),
        ("authorization", swap(r"/\d{8}/", "/20000101/"), "InvalidSignatureException", "match"),
        (
            "authorization",
            swap("Signature=.", "Signature="),
            "UnrecognizedClientException",
            "wrong",
        ),
    ],
)
def test_what_was_changed_is_refused(
    header: str, change: Callable[[str], str], code: str, says: str
) -> None:
    with pytest.raises(Rejected, match=says) as no:
        check_signature(replaced(signed(), header, change), USERS)
    assert no.value.code == code


def test_a_changed_body_is_refused() -> None:
    request = signed()
    request.body = b'{"Limit": 1}'
    with pytest.raises(Rejected, match="wrong signature"):
        check_signature(request, USERS)


def test_a_signed_hash_does_not_stand_for_the_body() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(Rejected, match="wrong signature"):
        check_signature(signed(**{"X-Amz-Content-SHA256": empty}), USERS)


@pytest.mark.parametrize(
    ("minutes", "says"), [(16, "Signature expired"), (-16, "Signature not yet current")]
)
def test_a_date_too_far_off_is_refused(minutes: int, says: str) -> None:
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    with pytest.raises(Rejected, match=says) as no:
        check_signature(signed(), USERS, then)
    assert no.value.code == "InvalidSignatureException"


def test_a_node_refuses_a_wrong_secret(connect: Clients) -> None:
    with LocalCluster(nodes=1) as cluster:
        with pytest.raises(ClientError, match="wrong signature") as no:
            connect(cluster, secret="wrong").list_tables()
        assert no.value.response["Error"]["Code"] == "UnrecognizedClientException"
        assert no.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        report = cluster.nodes[0].report
        assert report.errors == {"UnrecognizedClientException": 1}
        assert report.calls == 1
        connect(cluster).list_tables()


@pytest.mark.parametrize("change", ["host", "body"])
def test_a_node_refuses_what_was_changed_on_the_way(connect: Clients, change: str) -> None:
    def tamper(request: Any, **_: Any) -> None:
        if change == "body":
            request.body = b'{"Limit": 99}'
            request.headers["Content-Length"] = str(len(request.body))
        else:
            request.headers["Host"] = "elsewhere.test"

    with LocalCluster(nodes=1) as cluster:
        client = connect(cluster)
        client.list_tables()
        client.meta.events.register("before-send.dynamodb", tamper)
        with pytest.raises(ClientError, match="UnrecognizedClientException"):
            client.list_tables()


def test_without_authorization_anything_goes(connect: Clients) -> None:
    with (
        LocalCluster(nodes=1, authorization=False, users={}) as cluster,
        urllib3.PoolManager() as pool,
    ):
        connect(cluster, secret="wrong").list_tables()
        for service in ("DynamoDB", "DynamoDBStreams"):
            operation = "ListTables" if service == "DynamoDB" else "ListStreams"
            headers = {"X-Amz-Target": f"{service}_20120810.{operation}"}
            answer = pool.request("POST", cluster.url + "/", body=b"{}", headers=headers)
            assert answer.status == 200
        assert cluster.nodes[0].report.errors == {}
