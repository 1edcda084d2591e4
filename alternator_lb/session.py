"""A boto3.Session all of whose DynamoDB and DynamoDB Streams clients are balanced."""

from __future__ import annotations

import inspect
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from .addresses import host_header, split_seed
from .boto import SERVICES, install_alternator_transport
from .errors import InvalidSettingError
from .nodes import AlternatorNodes

__all__ = ["AlternatorSession", "balanced_session"]


class AlternatorSession(boto3.Session):  # type: ignore[misc]
    """A ``boto3.Session`` for one cluster; made by ``nodes.session()``.

    Clients and resources for other services are what they always are.
    """

    _endpoint_url: str
    _signed: bool
    _verify: Any

    def client(self, service_name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a client as ``boto3.Session.client`` does; for DynamoDB, the fake domain is default.

        Resources are made of these clients, too.
        """
        if service_name not in SERVICES:
            return super().client(service_name, *args, **kwargs)
        bound = inspect.signature(super().client).bind(service_name, *args, **kwargs).arguments
        if bound.get("endpoint_url") is None:
            bound["endpoint_url"] = self._endpoint_url
        if bound.get("verify") is None:
            bound["verify"] = self._verify
        if not self._signed and bound.get("aws_access_key_id") is None:
            unsigned = Config(signature_version=UNSIGNED)
            given = bound.get("config")
            bound["config"] = unsigned if given is None else given.merge(unsigned)
        return super().client(**bound)


def balanced_session(
    nodes: AlternatorNodes,
    fake_domain: str,
    key: str | None,
    secret: str | None,
    **boto3_session: Any,
) -> AlternatorSession:
    """Return the session that `AlternatorNodes.session` promises; the arguments are its own."""
    seed = split_seed(fake_domain, "fake domain")
    if seed.scheme not in (None, nodes.scheme):
        raise InvalidSettingError(
            f"fake domain {fake_domain!r} says {seed.scheme}, but the nodes speak {nodes.scheme}"
        )
    for name, given, other in (("key", key, secret), ("secret", secret, key)):
        # Of an empty one boto3 would take what it finds in the environment: another identity.
        if given == "" or (given is None and other is not None):
            raise InvalidSettingError(
                f"the {name} is {'missing' if given is None else 'empty'}; give key and secret, or "
                "none of them for requests that are not signed"
            )
    session = AlternatorSession(
        aws_access_key_id=key, aws_secret_access_key=secret, **boto3_session
    )
    host = host_header(nodes.scheme, seed.host, seed.port or nodes.port)
    session._endpoint_url = f"{nodes.scheme}://{host}"
    session._signed = key is not None
    session._verify = None if nodes.settings.verify is True else nodes.settings.verify

    def balance(base_classes: list[type], **_: Any) -> None:
        base_classes.insert(0, _balanced_base(nodes))

    for service in SERVICES:
        session.events.register(f"creating-client-class.{_EVENT_NAMES[service]}", balance)
    return session


_EVENT_NAMES = {"dynamodb": "dynamodb", "dynamodbstreams": "dynamodb-streams"}


def _balanced_base(nodes: AlternatorNodes) -> type:
    class Balanced:
        """Comes before botocore's BaseClient: what is made of it is installed at once."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            install_alternator_transport(self, nodes)

    return Balanced
