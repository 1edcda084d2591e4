"""Install and uninstall: the only room that knows botocore's private names.

Those names are ``client._endpoint.http_session`` and, of ``URLLib3Session``, ``_manager``,
``_proxy_config``, ``_proxy_managers``, ``_verify``, ``_cert_file``, ``_key_file``, ``_path_url``,
``_get_pool_manager_kwargs`` and ``_pool_classes_by_scheme``; of ``AWSResponse``, ``_content``.
``client._user_agent_creator`` and ``client._endpoint._response_parser_factory`` are used where they
are there, and so are ``_handle_structure``, ``_handle_map`` and ``_parse_shape`` of ``JSONParser``.
A test holds them against every botocore that is tested.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import botocore.client
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import EndpointConnectionError
from botocore.httpsession import ProxyConfiguration, URLLib3Session, get_cert_path
from botocore.parsers import JSONParser

from ._version import __version__
from .addresses import DEFAULT_PORTS, Seed, split_seed
from .errors import InvalidSettingError, NotADynamoDBClientError
from .membership import Node
from .nodes import AlternatorNodes
from .parsing import attribute_value
from .poolmanager import AlternatorPoolManager
from .settings import Settings
from .tls import build_context
from .transport import Call, LeanResponse, node_of
from .wire import Head

try:
    from botocore.context import get_context
except ImportError:  # before botocore 1.37 no features of a call were noted
    get_context = None

try:
    from . import signing
    from .signing import SIGNATURE_VERSION
except ImportError:  # botocore has changed: its own signer signs, and the drift test notices
    SIGNATURE_VERSION = ""

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from .settings import InstallKeywords

__all__ = ["install_alternator_transport", "uninstall_alternator_transport"]

log = logging.getLogger(__name__)

_REBUILD = "rebuild_and_replace_user_agent_handler"

SERVICES = ("dynamodb", "dynamodbstreams")

Seeds = str | Iterable[str] | AlternatorNodes


def install_alternator_transport(
    client: Any, seeds: Seeds, **settings: Unpack[InstallKeywords]
) -> AlternatorNodes:
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
    if settings.get("verify") is None:  # as in boto3: the default, which is the client's own
        settings.pop("verify", None)
    owned = not isinstance(seeds, AlternatorNodes)
    if isinstance(seeds, AlternatorNodes):
        nodes = seeds
        if settings:
            raise InvalidSettingError(
                f"{', '.join(settings)}: these belong to the AlternatorNodes that was given; "
                "set them where it is made"
            )
    else:
        nodes = _make_nodes(original, url, seeds, dict(settings))
    if url.startswith("https:") and nodes.scheme == "http" and not _is_aws(url):
        raise InvalidSettingError(
            f"the client's endpoint is {url}, but the nodes speak http: requests would go out in "
            "clear text; make the client with an http:// endpoint_url, or the nodes with https"
        )
    if original._proxy_config.proxy_url_for(url):
        log.info("the proxy that is set for %s is not used: it could not resolve that name", url)
    verify = settings.get("verify", original._verify)
    session = BalancedSession(original, nodes, owned=owned, verify=verify)
    if isinstance(current, BalancedSession):
        _put_back_hooks(client)
    endpoint.http_session = session  # one assignment: a call takes the old one or the new one
    _put_in_hooks(client, nodes.settings)
    if isinstance(current, BalancedSession):
        current.release()
    return nodes


def uninstall_alternator_transport(client: Any) -> None:
    """Put everything back as it was before install. Does nothing where nothing was installed.

    Args:
        client: what was given to install, or its client.

    Raises:
        NotADynamoDBClientError: ``client`` is no DynamoDB client or resource.
    """
    client = _dynamodb_client(client)
    session = client._endpoint.http_session
    if isinstance(session, BalancedSession):
        client._endpoint.http_session = session.original
        _put_back_hooks(client)
        session.release()


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
        self._lean = nodes.settings.lean
        self._targets: dict[str, str] = {}
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
            return self._send_lean(request) or self._send_stock(self._manager, request)
        except EndpointConnectionError as error:
            error.args = (f"{error} ({error.kwargs['error']})",)
            raise

    def _send_lean(self, request: Any) -> Any:
        if (
            not self._lean
            or type(request.body) is not bytes
            or request.stream_output
            or "read_timeout" in (getattr(request, "context", None) or ())
        ):
            return None
        url = request.url
        target = self._targets.get(url)
        if target is None:
            target = self._path_url(url)
            if len(self._targets) < 256:
                self._targets[url] = target
        pool = self._manager.connection_from_url(url)
        answer = pool.lean(request.method, target, request.body, request.headers)
        if isinstance(answer, Call):
            return self._send_stock(_Continued(pool, answer), request)
        head, content, node = answer
        _count_overload(head.status, content, node)
        return LeanAWSResponse(request, target, head, content, node)

    def _send_stock(self, manager: Any, request: Any) -> Any:
        """Have botocore's own code send a request, and say in its own way what went wrong."""
        stock = object.__new__(URLLib3Session)
        stock.__dict__.update(self.__dict__, _manager=manager)
        response = stock.send(request)
        if response.status_code == 400:  # of any other the body is not touched here
            _count_overload(400, response.content, node_of(response.raw))
        return response

    def close(self) -> None:
        """Close all idle connections; stop the nodes if the installation made them."""
        self.release()
        self.original.close()

    def release(self) -> None:
        """Close the idle connections to the nodes; stop the nodes if the installation made them."""
        super().close()
        if self._owned:
            self.nodes.stop()


def _count_overload(status: int, content: bytes, node: Node | None) -> None:
    """An overloaded node is told of in its stats, and is not taken out."""
    if status == 400 and node is not None and b"RequestLimitExceeded" in content:
        node.overloads.tick()


class _Continued:
    """Takes the place of a pool manager, and of its pool, for a request that was begun."""

    proxy_headers: ClassVar[dict[str, str]] = {}

    def __init__(self, pool: Any, call: Any) -> None:
        self._pool = pool
        self._call = call

    def connection_from_url(self, url: str) -> Any:
        return self

    def urlopen(self, **kwargs: Any) -> Any:
        return self._pool.urlopen(**kwargs, pool_timeout=self._call)


class LeanAWSResponse(AWSResponse):  # type: ignore[misc]
    """botocore's response, for an answer that was read whole."""

    def __init__(self, request: Any, target: str, head: Head, content: bytes, node: Node) -> None:
        self.url = request.url
        self.status_code = head.status
        self.headers = HeadersDict(head.headers)
        self._content = content
        self._made_of = (head, content, node, request.method, target)

    @property
    def raw(self) -> Any:
        """urllib3's response; it is made when somebody asks for it."""
        raw = self.__dict__.get("_raw")
        if raw is None:
            raw = self._raw = LeanResponse(*self._made_of)
        return raw


class UserAgent:
    """Takes the place of a client's user agent creator: makes each text once.

    The text depends on the features that a call uses, and on nothing else that can change.

    Args:
        original: botocore's own creator.
        short: whether to send no more than what library this is.
    """

    def __init__(self, original: Any, short: bool) -> None:
        self.original = original
        self._texts: dict[Any, str] = {}
        self._short = f"Boto3-alternator-lb/{__version__}" if short else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def to_string(self) -> str:
        """Return the text that botocore would make."""
        if self._short is not None:
            return self._short
        context = get_context() if get_context is not None else None
        features = frozenset(context.features) if context is not None else None
        text = self._texts.get(features)
        if text is None:
            text = str(self.original.to_string())
            if len(self._texts) < 256:
                self._texts[features] = text
        return text

    def rebuild_and_replace_user_agent_handler(
        self, operation_name: str, request: Any, **_: Any
    ) -> None:
        """Put the text in, with the features that were noted since the request was made."""
        text = self.to_string()
        if request.headers.get("User-Agent") not in (None, text):
            request.headers.replace_header("User-Agent", text)


class LeanJSONParser(JSONParser):  # type: ignore[misc]
    """botocore's parser, with a short way for DynamoDB's attribute values: the same result."""

    def _handle_structure(self, shape: Any, value: Any) -> Any:
        if shape.name == "AttributeValue":
            parsed = attribute_value(value)
            if parsed is not None:
                return parsed
        return super()._handle_structure(shape, value)

    def _handle_map(self, shape: Any, value: Any) -> Any:
        value_shape = shape.value
        if value_shape.name != "AttributeValue":
            return super()._handle_map(shape, value)
        parsed = {}
        for name, each in value.items():
            attribute = attribute_value(each)
            if attribute is None:
                attribute = self._parse_shape(value_shape, each)
            parsed[name] = attribute
        return parsed


class ParserFactory:
    """Takes the place of a client's parser factory.

    Args:
        original: botocore's own factory.
    """

    def __init__(self, original: Any) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def create_parser(self, protocol_name: str) -> Any:
        """Return the parser that botocore would make, with the short way where it is JSON's."""
        parser = self.original.create_parser(protocol_name)
        if type(parser) is JSONParser:
            parser.__class__ = LeanJSONParser
        return parser


def _choose_signer(signature_version: Any = None, **_: Any) -> str | None:
    return SIGNATURE_VERSION if signature_version == "v4" and signing.is_plain() else None


def _service_id(client: Any) -> str:
    name: str = client.meta.service_model.service_id.hyphenize()
    return name


def _put_in_hooks(client: Any, settings: Settings) -> None:
    """Make what is the same in every call of a client once. What is gone is left out."""
    events, service = client.meta.events, _service_id(client)
    if settings.lean and SIGNATURE_VERSION:
        events.register_last(f"choose-signer.{service}", _choose_signer, "alternator-lb-signer")
    factory = getattr(client._endpoint, "_response_parser_factory", None)
    if settings.lean and hasattr(factory, "create_parser"):
        client._endpoint._response_parser_factory = ParserFactory(factory)
    creator = getattr(client, "_user_agent_creator", None)
    if hasattr(creator, "to_string") and (settings.lean or settings.short_user_agent):
        client._user_agent_creator = agent = UserAgent(creator, settings.short_user_agent)
        if hasattr(creator, _REBUILD):
            event = f"request-created.{service}"
            events.unregister(event, getattr(creator, _REBUILD))
            events.register_last(event, getattr(agent, _REBUILD))


def _put_back_hooks(client: Any) -> None:
    events, service = client.meta.events, _service_id(client)
    if SIGNATURE_VERSION:
        events.unregister(f"choose-signer.{service}", _choose_signer, "alternator-lb-signer")
    factory = getattr(client._endpoint, "_response_parser_factory", None)
    if isinstance(factory, ParserFactory):
        client._endpoint._response_parser_factory = factory.original
    agent = getattr(client, "_user_agent_creator", None)
    if isinstance(agent, UserAgent):
        client._user_agent_creator = agent.original
        if hasattr(agent.original, _REBUILD):
            event = f"request-created.{service}"
            events.unregister(event, getattr(agent, _REBUILD))
            events.register_last(event, getattr(agent.original, _REBUILD))


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
    # botocore takes everything that is false for no.
    settings.setdefault("verify", original._verify or False)
    if settings["verify"] is True and scheme == "https":
        settings["verify"] = get_cert_path(True)
    if original._cert_file is not None:
        pair = (original._cert_file, original._key_file)
        settings.setdefault("client_cert", pair if pair[1] is not None else pair[0])
    Settings.of(settings, others=("scheme", "port"))  # its text names these, too
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
