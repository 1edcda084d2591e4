"""Install and uninstall: the only room that knows botocore's private names.

Those names are ``client._endpoint.http_session`` and, of ``URLLib3Session``, ``_manager``,
``_proxy_config``, ``_proxy_managers``, ``_verify``, ``_get_pool_manager_kwargs`` and
``_pool_classes_by_scheme``. A test holds them against every botocore that is tested.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.client
from botocore.exceptions import EndpointConnectionError
from botocore.httpsession import ProxyConfiguration, URLLib3Session, get_cert_path

from .addresses import DEFAULT_PORTS, Seed, split_seed
from .errors import InvalidSettingError, NotADynamoDBClientError
from .nodes import AlternatorNodes
from .poolmanager import AlternatorPoolManager
from .tls import build_context
from .transport import node_of

if TYPE_CHECKING:
    import ssl

__all__ = ["install_alternator_transport", "uninstall_alternator_transport"]

log = logging.getLogger(__name__)

SERVICES = ("dynamodb", "dynamodbstreams")

Seeds = str | Iterable[str] | AlternatorNodes


def install_alternator_transport(client: Any, seeds: Seeds, **settings: Any) -> AlternatorNodes:
    """Send every request of a DynamoDB client to the next live node of an Alternator cluster.

    Opens no connection and starts no thread: the first call does. The client keeps its own
    settings (timeouts, ``max_pool_connections``, ``verify``, ``client_cert``, retries). Proxies are
    not used from here on, since a proxy could not resolve the fake domain. Installing again
    replaces what was installed.

    Args:
        client: a botocore or boto3 client for ``dynamodb`` or ``dynamodbstreams``, or a boto3
            resource, such as a Table, whose client is then meant.
        seeds: a node, several nodes, or an `AlternatorNodes` to share. Nodes are IP addresses, DNS
            names, ``host:port`` or URLs.
        settings: ``scheme`` and ``port`` of the nodes, which default to those of the client's
            endpoint, and every setting of `AlternatorNodes`. Not possible with an AlternatorNodes,
            which has its own.

    Returns:
        The nodes. Those that were made here stop with ``client.close()`` and with uninstall; those
        that were handed in live until their owner stops them.

    Raises:
        NotADynamoDBClientError: ``client`` is nothing of the kind.
        InvalidSettingError: a seed or a setting is not possible.

    Safe while other threads use the client: a call takes either the old transport or the new one.
    """
    client = _dynamodb_client(client)
    endpoint = client._endpoint
    current = endpoint.http_session
    original = current.original if isinstance(current, BalancedSession) else current
    if not isinstance(original, URLLib3Session):
        raise NotADynamoDBClientError(
            f"the client sends through {type(original).__name__}, not through botocore's "
            "URLLib3Session; asynchronous clients cannot be patched"
        )
    url = client.meta.endpoint_url
    owned = not isinstance(seeds, AlternatorNodes)
    if isinstance(seeds, AlternatorNodes):
        nodes = seeds
        if settings:
            raise InvalidSettingError(
                f"{', '.join(settings)}: these belong to the AlternatorNodes that was given; "
                "set them where it is made"
            )
    else:
        nodes = _make_nodes(original, url, seeds, settings)
    if url.startswith("https:") and nodes.scheme == "http" and not _is_aws(url):
        raise InvalidSettingError(
            f"the client's endpoint is {url}, but the nodes speak http: requests would go out in "
            "clear text; make the client with an http:// endpoint_url, or the nodes with https"
        )
    verify = settings.get("verify", original._verify)
    session = BalancedSession(original, nodes, owned=owned, verify=verify)
    endpoint.http_session = session  # one assignment: a call takes the old one or the new one
    if isinstance(current, BalancedSession):
        current.close()
    return nodes


def uninstall_alternator_transport(client: Any) -> None:
    """Put everything back as it was before install. Does nothing where nothing was installed.

    Args:
        client: what was given to install, or its client.

    Raises:
        NotADynamoDBClientError: ``client`` is no DynamoDB client or resource.
    """
    endpoint = _dynamodb_client(client)._endpoint
    session = endpoint.http_session
    if isinstance(session, BalancedSession):
        endpoint.http_session = session.original
        session.close()


class BalancedSession(URLLib3Session):  # type: ignore[misc]
    """A client's HTTP session, with the nodes' pool manager in the place of its own.

    Args:
        original: the session to take the settings from, and to put back.
        nodes: the cluster.
        owned: whether the nodes stop when the client is closed.
        verify: what to check the nodes' certificates with.
    """

    def __init__(
        self, original: URLLib3Session, nodes: AlternatorNodes, *, owned: bool, verify: Any
    ) -> None:
        self.__dict__.update(original.__dict__)
        self.original = original
        self.nodes = nodes
        self._owned = owned
        self._verify = verify
        self._proxy_config = ProxyConfiguration()
        self._proxy_managers: dict[str, Any] = {}
        settings = original._get_pool_manager_kwargs()
        for name in ("ssl_context", "cert_file", "key_file"):
            settings.pop(name, None)
        if nodes.scheme == "https":
            settings["ssl_context"] = context = _context(original, nodes, verify)
            settings["cert_reqs"] = context.verify_mode
        self._manager = AlternatorPoolManager(nodes, **settings)
        self._manager.pool_classes_by_scheme = original._pool_classes_by_scheme
        # The fake domain may be https where nobody chose it (AWS's own); install() has checked.
        self._manager.accepted_schemes = frozenset(DEFAULT_PORTS)

    def send(self, request: Any) -> Any:
        """Send a request as botocore does; where no node can be reached, say which were tried."""
        try:
            response = super().send(request)
        except EndpointConnectionError as error:
            error.args = (f"{error} ({error.kwargs['error']})",)
            raise
        if response.status_code == 400 and b"RequestLimitExceeded" in response.content:
            node = node_of(response.raw)
            if node is not None:
                node.overloads.tick()
        return response

    def close(self) -> None:
        """Close the idle connections; stop the nodes if the installation made them."""
        super().close()
        if self._owned:
            self.nodes.stop()


def _dynamodb_client(given: Any) -> Any:
    client = given
    if not isinstance(given, botocore.client.BaseClient):
        client = getattr(getattr(given, "meta", None), "client", None)
    if not isinstance(client, botocore.client.BaseClient):
        hint = (
            "; use nodes.session(...) for a session"
            if callable(getattr(given, "client", None))
            else ""
        )
        raise NotADynamoDBClientError(
            f"{given!r:.200} ({type(given).__name__}) is no botocore or boto3 client for DynamoDB "
            f"or DynamoDB Streams, and no resource of one{hint}"
        )
    service = client.meta.service_model.service_name
    if service not in SERVICES:
        raise NotADynamoDBClientError(
            f"{given!r:.200} is a client for {service}; only clients for {' and '.join(SERVICES)} "
            "can use Alternator's nodes"
        )
    return client


def _make_nodes(
    original: URLLib3Session, url: str, seeds: Any, settings: dict[str, Any]
) -> AlternatorNodes:
    if isinstance(seeds, str):
        seeds = (seeds,)
    try:
        seeds = tuple(seeds)
    except TypeError:
        raise InvalidSettingError(
            f"seeds {seeds!r:.200} cannot be used; give a node, several nodes or an AlternatorNodes"
        ) from None
    settings = dict(settings)
    parts = urlsplit(url)
    told: list[Seed] = [split_seed(seed) for seed in seeds]
    scheme = settings.pop("scheme", None)
    if scheme is None:
        named = {seed.scheme for seed in told if seed.scheme}
        # An endpoint that nobody chose (AWS's own) does not count against what the seeds say.
        scheme = named.pop() if len(named) == 1 and _is_aws(url) else parts.scheme
    port = settings.pop("port", None)
    if port is None:
        port = parts.port
    if port is None:
        ports = {seed.port for seed in told if seed.port}
        port = ports.pop() if len(ports) == 1 else DEFAULT_PORTS[scheme]
    settings.setdefault("verify", original._verify)
    if settings["verify"] is True and scheme == "https":
        settings["verify"] = get_cert_path(True)
    if original._cert_file is not None:
        pair = (original._cert_file, original._key_file)
        settings.setdefault("client_cert", pair if pair[1] is not None else pair[0])
    if settings["verify"] is None:
        settings["verify"] = False  # botocore takes everything that is false for no
    return AlternatorNodes(scheme, port, *seeds, **settings)


def _context(original: URLLib3Session, nodes: AlternatorNodes, verify: Any) -> ssl.SSLContext:
    certificate: Any = nodes.settings.client_cert
    if original._cert_file is not None:
        certificate = (original._cert_file, original._key_file)
    return build_context(
        get_cert_path(verify) if verify else False,
        ca_certs=nodes.settings.ca_certs,
        client_cert=certificate,
    )


def _is_aws(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".aws.dev"))
