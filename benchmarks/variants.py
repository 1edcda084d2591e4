"""The clients that are compared, as data: one more is one line in `VARIANTS`.

Settings of this library are keywords: ``functools.partial(_balanced, connect_timeout=1.0)``.
"""

from __future__ import annotations

import functools
import io
import itertools
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from alternator_lb import install_alternator_transport

from .backend import Target

__all__ = ["OPERATIONS", "VARIANTS", "Call", "Operation", "Variant", "fake_domain_client"]

Call = Callable[[], object]  # makes one call and waits for its answer

_KEY, _SECRET, _REGION = "alternator", "secret_pass", "us-east-1"
_FAKE_DOMAIN = "alternator.example.com"


@dataclass(frozen=True)
class Operation:
    """One kind of call."""

    label: str
    method: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One client: ``open(target, operation)`` connects nothing yet, and returns the call."""

    label: str
    color: str
    open: Callable[[Target, Operation], Call]


_PRIMARY_KEY = {"pk": {"S": "customer#0001234"}, "sk": {"S": "order#2024-05-17#0042"}}

OPERATIONS = {
    "get": Operation("signed GetItem", "get_item", {"TableName": "orders", "Key": _PRIMARY_KEY}),
    "put": Operation(
        "PutItem of 4 KB",
        "put_item",
        {"TableName": "orders", "Item": {**_PRIMARY_KEY, "note": {"S": "x" * 4096}}},
    ),
    "query": Operation(
        "Query answering 100 KB",
        "query",
        {
            "TableName": "orders",
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": _PRIMARY_KEY["pk"]},
        },
    ),
}


def _client(target: Target, url: str) -> Any:
    # A session each: boto3's default one would share caches between clients.
    return boto3.session.Session().client(
        "dynamodb",
        endpoint_url=url,
        region_name=_REGION,
        aws_access_key_id=_KEY,
        aws_secret_access_key=_SECRET,
        verify=target.ca_file,
        config=Config(**_pool_size(target)),
    )


def _bound(client: Any, operation: Operation) -> Call:
    return functools.partial(getattr(client, operation.method), **operation.arguments)


def _plain_client(target: Target) -> Any:
    return _client(target, target.urls[0])


def _pool_size(target: Target) -> dict[str, int]:
    return {"max_pool_connections": target.connections} if target.connections else {}


def fake_domain_client(target: Target) -> Any:
    """Return a client for the fake domain, for this library to be installed in."""
    return _client(target, f"{target.scheme}://{_FAKE_DOMAIN}:{target.port}")


def _balanced_client(target: Target, **settings: Any) -> Any:
    client = fake_domain_client(target)
    install_alternator_transport(client, target.addresses[:3], **settings)
    return client


def _plain(target: Target, operation: Operation) -> Call:
    return _bound(_plain_client(target), operation)


def _balanced(target: Target, operation: Operation, **settings: Any) -> Call:
    return _bound(_balanced_client(target, **settings), operation)


def _in_turn(target: Target, operation: Operation) -> Call:
    """What people write: a hook that gives every request the next node's URL, before signing."""
    client = _plain_client(target)
    next_url = itertools.cycle(target.urls).__next__

    def to_next_node(request: Any, **_: Any) -> None:
        request.url = next_url()

    client.meta.events.register("before-sign.dynamodb", to_next_node)
    return _bound(client, operation)


def _alternator_client(target: Target, operation: Operation) -> Call:
    import alternator  # here: an extra

    given: dict[str, Any] = {
        "seed_hosts": target.addresses[:3],
        "port": target.port,
        "scheme": target.scheme,
        **_pool_size(target),
    }
    if target.ca_file is not None:
        given["tls"] = alternator.TLS(
            custom_ca_cert_paths=(Path(target.ca_file),), trust_system_ca_certs=False
        )
    client = alternator.create_client(
        alternator.Config(**given),
        auth=alternator.Auth.static_credentials(_KEY, _SECRET),
        verify=target.ca_file,
    )
    return _bound(client, operation)


def _send_alone(make: Callable[[Target], Any], target: Target, operation: Operation) -> Call:
    """The transport's share: botocore's ``URLLib3Session.send`` with a request made before."""
    client = make(target)
    request = _signed_request(client, operation)
    send = client._endpoint.http_session.send

    def call() -> object:
        return send(request).content

    return call


def _raw_urllib3(target: Target, operation: Operation) -> Call:
    import urllib3

    request = _signed_request(_plain_client(target), operation)
    pool = urllib3.connection_from_url(target.urls[0])

    def call() -> object:
        return pool.urlopen("POST", "/", body=request.body, headers=request.headers).data

    return call


def _bare_socket(target: Target, operation: Operation) -> Call:
    """The floor: send bytes that were made before, receive as many as the first answer had."""
    request = _signed_request(_plain_client(target), operation)
    headers = {
        "Host": urlsplit(request.url).netloc,
        **{name: _text(value) for name, value in request.headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sent = b"POST / HTTP/1.1\r\n" + head.encode() + b"\r\n" + request.body
    connection = socket.create_connection((target.addresses[0], target.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(sent)
    size = _answer_size(connection)

    def call() -> object:
        connection.sendall(sent)
        missing = size
        while missing > 0:
            received = len(connection.recv(65536))
            if not received:
                raise ConnectionError("nginx closed the connection")
            missing -= received
        return None

    return call


def _answer_size(connection: socket.socket) -> int:
    answer = b""
    size = None
    while size is None or len(answer) < size:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("nginx closed the connection")
        answer += part
        head, separator, _ = answer.partition(b"\r\n\r\n")
        if separator and size is None:
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            size = len(head) + len(separator) + int(length)
    return size


def _signed_request(client: Any, operation: Operation) -> Any:
    """Let botocore make and sign a request, and take it from it instead of sending it."""
    taken: list[Any] = []

    def take(request: Any, **_: Any) -> AWSResponse:
        taken.append(request)
        return AWSResponse(request.url, 200, {}, _EmptyObject(b"{}"))

    client.meta.events.register_first("before-send.dynamodb", take)
    _bound(client, operation)()
    client.meta.events.unregister("before-send.dynamodb", take)
    return taken[0]


class _EmptyObject(io.BytesIO):
    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


VARIANTS = {
    "plain": Variant("plain boto3, one node", "#8c8c8c", _plain),
    "turn": Variant("boto3, nodes in turn", "#d1802e", _in_turn),
    "peer": Variant("alternator-client", "#3d6fb6", _alternator_client),
    "ours": Variant("alternator_lb", "#0a7d4f", _balanced),
    "ours-short": Variant(
        "alternator_lb, short_user_agent=True",
        "#0a7d4f",
        functools.partial(_balanced, short_user_agent=True),
    ),
    "urllib3": Variant("urllib3 alone, request made before", "#b9b9b9", _raw_urllib3),
    "socket": Variant("bare socket, request made before", "#d9d9d9", _bare_socket),
    "send-plain": Variant(
        "botocore's send", "#8c8c8c", functools.partial(_send_alone, _plain_client)
    ),
    "send-ours": Variant(
        "alternator_lb's send", "#0a7d4f", functools.partial(_send_alone, _balanced_client)
    ),
}
