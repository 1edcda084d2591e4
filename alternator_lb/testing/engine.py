"""The database behind the nodes: moto in this process, or any other endpoint over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest, HeadersDict

from ..extras import need
from .messages import Request, Response, end_to_end, log

_JSON = "application/x-amz-json-1.0"
_HOSTS = {
    "DynamoDB_20120810": "dynamodb.us-east-1.amazonaws.com",
    "DynamoDBStreams_20120810": "streams.dynamodb.us-east-1.amazonaws.com",
}
_FORWARDERS = 32
_ENGINE_SECONDS = 60.0


class Engine(Protocol):
    """What answers a DynamoDB call, whichever node it came to."""

    async def call(self, request: Request) -> Response:
        """Answer one call; never raises for what the call asked."""

    def close(self) -> None:
        """Forget the data, and let go of connections and threads."""


def error_response(code: str, message: str, status: int = 400) -> Response:
    """Return an error in the form that DynamoDB clients understand."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
    return Response(status, json.dumps(body).encode(), [("Content-Type", _JSON)])


class MotoEngine:
    """moto's DynamoDB and DynamoDB Streams, asked through the seam that moto gives botocore.

    Each engine is an account of its own in moto's global state, so engines do not see each
    other's tables, and neither does a ``mock_aws`` of the same process. The region that a client
    signs for makes no difference, as with Alternator. Nothing is patched: only what is handed to
    `call` reaches moto, and moto reaches no network.
    """

    def __init__(self) -> None:
        """Import moto.

        Raises:
            MissingExtraError: moto is not installed.
        """
        stubber = need("moto.core.botocore_stubber", "testing", "LocalCluster")
        self._stubber = stubber.BotocoreStubber()
        self._stubber.enabled = True
        for service in ("dynamodb", "dynamodbstreams"):
            need(f"moto.{service}.responses", "testing", "LocalCluster")
        self._account = str(next(_accounts))
        self._thread: ThreadPoolExecutor | None = None

    async def call(self, request: Request) -> Response:
        """Answer one call; they come one after the other.

        On a thread beside the loop, so that a call that takes its time (the first of its kind
        imports a good deal) does not keep the nodes from answering ``/localnodes``.
        """
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "LocalCluster engine")
        return await loop.run_in_executor(self._thread, self._answer, request)

    def _answer(self, request: Request) -> Response:
        target = request.header("x-amz-target")
        version, _, operation = target.partition(".")
        if version not in _HOSTS or not operation:
            return error_response("UnknownOperationException", f"Unsupported operation {target}")
        try:
            # moto takes a body that it cannot parse for an empty one.
            json.loads(request.body)
        except ValueError as error:
            return error_response("SerializationException", f"the body is no JSON: {error}")
        asked = AWSPreparedRequest(
            "POST",
            f"https://{_HOSTS[version]}/",
            HeadersDict(
                {
                    "X-Amz-Target": target,
                    "Content-Type": request.header("content-type") or _JSON,
                    "x-moto-account-id": self._account,
                }
            ),
            request.body,
            False,
        )
        try:
            with _one_at_a_time:
                answer = self._stubber("before-send.dynamodb", asked)
        except Exception as error:
            if type(error).__name__ in ("OperationNotFoundError", "NotImplementedError"):
                return error_response(
                    "UnknownOperationException", f"Unsupported operation {operation}"
                )
            log.exception("moto failed at %s", target)
            return error_response("InternalServerError", f"moto: {error!r}", 500)
        kept = ("content-type", "x-amz", "x-amzn")
        headers = [
            (str(name), str(value))
            for name, value in answer.headers.items()
            if str(name).lower().startswith(kept)
        ]
        return Response(answer.status_code, answer.content, headers)

    def close(self) -> None:
        """Forget the tables, and end the thread, until the next call."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True)
        backends = need("moto.backends", "testing", "LocalCluster")
        with _one_at_a_time:
            for service in ("dynamodb", "dynamodbstreams", "iam"):
                dict.pop(backends.get_backend(service), self._account, None)


class ForwardEngine:
    """Any DynamoDB-compatible endpoint, asked with the requests just as they came."""

    def __init__(self, url: str) -> None:
        """Keep the endpoint; the first call connects.

        Args:
            url: such as ``http://127.0.0.1:8000``.

        Raises:
            ValueError: this is no http(s) URL.
        """
        import urllib3

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"engine={url!r}: give a URL such as 'http://127.0.0.1:8000'")
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._skip = urllib3.util.SKIP_HEADER
        self._error = urllib3.exceptions.HTTPError
        self._pool = urllib3.PoolManager(
            maxsize=_FORWARDERS,
            block=True,
            retries=False,
            timeout=urllib3.Timeout(connect=5.0, read=_ENGINE_SECONDS),
        )
        self._threads: ThreadPoolExecutor | None = None

    async def call(self, request: Request) -> Response:
        """Forward one request, and answer what the endpoint answers."""
        loop = asyncio.get_running_loop()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_FORWARDERS, "LocalCluster engine")
        return await loop.run_in_executor(self._threads, self._forward, request)

    def close(self) -> None:
        """Close the connections and end the threads, until the next call; the data stays."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)
        self._pool.clear()

    def _forward(self, request: Request) -> Response:
        # http.client would add these where the client sent none.
        headers: dict[str, Any] = {"accept-encoding": self._skip, "user-agent": self._skip}
        for name, value in end_to_end(request.headers):
            if name.lower() in headers:
                del headers[name.lower()]
            headers[name] = value
        try:
            answer = self._pool.request(
                request.method,
                self._url + request.target,
                headers=headers,
                body=request.body or None,
                redirect=False,
                decode_content=False,
            )
        except self._error as error:
            return error_response("InternalServerError", f"engine {self._url}: {error}", 500)
        return Response(answer.status, answer.data, end_to_end(answer.headers.items()))


_one_at_a_time = threading.Lock()
_accounts = itertools.count(random.randrange(10**11, 5 * 10**11))


def _after_fork_in_child() -> None:
    # The thread that may hold the lock is not in the child.
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
