"""AlternatorPoolManager: a urllib3 PoolManager whose every host leads to the cluster's nodes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from urllib3 import PoolManager
from urllib3.exceptions import LocationValueError
from urllib3.poolmanager import SSL_KEYWORDS
from urllib3.util.ssl_ import resolve_cert_reqs
from urllib3.util.url import parse_url

from .addresses import DEFAULT_PORTS
from .connection import node_pool_class
from .errors import InvalidSettingError
from .membership import Node
from .nodes import AlternatorNodes
from .rotation import Rotation
from .tls import build_context
from .transport import VirtualPool

__all__ = ["AlternatorPoolManager"]

_TLS_KEYWORDS = frozenset(SSL_KEYWORDS) | {
    "assert_fingerprint",
    "assert_hostname",
    "server_hostname",
    "ssl_context",
}
_MOST_URLS = 256


class AlternatorPoolManager(PoolManager):
    """A ``urllib3.PoolManager`` that sends every request to the next live node of a cluster.

    Whatever host a URL names, it is the fake domain: it is sent as the Host header, never resolved
    and never connected to.

    Args:
        nodes: the cluster.
        num_pools: as in urllib3; has no effect, since there is no limit to the number of nodes.
        headers: headers for every request, as in urllib3.
        pool_settings: everything that ``urllib3.PoolManager`` takes, and means there. ``maxsize``
            and ``block`` count for each node. TLS keywords (``cert_reqs``, ``ca_certs``,
            ``cert_file``, ``ssl_context`` …) come before the TLS settings of ``nodes``.

    Raises:
        InvalidSettingError: a certificate cannot be loaded.

    Threads may share it. ``clear()`` closes the idle connections, and leaves ``nodes`` running.
    """

    def __init__(
        self, nodes: AlternatorNodes, num_pools: int = 10, headers: Any = None, **pool_settings: Any
    ) -> None:
        if not isinstance(nodes, AlternatorNodes):
            raise InvalidSettingError(
                f"{nodes!r:.200} is no AlternatorNodes; make one, and give it"
            )
        super().__init__(num_pools, headers, **pool_settings)
        self.nodes = nodes
        #: Schemes that a URL may have. An https URL on http nodes would go out in clear text.
        self.accepted_schemes = frozenset({nodes.scheme})
        self._rotations: dict[Hashable, Rotation] = {}
        self._virtual: dict[Hashable, VirtualPool] = {}
        self._by_url: dict[str, VirtualPool] = {}

    def connection_from_url(self, url: str, pool_kwargs: dict[str, Any] | None = None) -> Any:
        """Return the virtual pool for the host of a URL."""
        if pool_kwargs is None:
            try:
                return self._by_url[url]
            except KeyError:
                pass
        parts = parse_url(url)
        pool = self.connection_from_host(parts.host, parts.port, parts.scheme, pool_kwargs)
        if pool_kwargs is None and len(self._by_url) < _MOST_URLS:
            self._by_url[url] = pool
        return pool

    def connection_from_host(
        self,
        host: str | None,
        port: int | None = None,
        scheme: str | None = "http",
        pool_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the virtual pool for a fake host.

        Raises:
            LocationValueError: no host.
            InvalidSettingError: the scheme is not the one that the nodes speak.
        """
        if not host:
            raise LocationValueError("No host specified.")
        scheme = (scheme or "http").lower()
        if scheme not in self.accepted_schemes:
            raise InvalidSettingError(
                f"{scheme}://{host} cannot be asked of nodes that speak {self.nodes.scheme}; "
                f"write {self.nodes.scheme}://{host}"
            )
        port = port or DEFAULT_PORTS[scheme]
        settings = self._merge_pool_kwargs(pool_kwargs)
        # urllib3's own way to make a hashable key of what can be set.
        make_key = self.key_fn_by_scheme[scheme]
        rotation_key = make_key({**settings, "scheme": scheme, "host": "*", "port": 0})
        key = (scheme, host.lower(), port, rotation_key)
        pool = self._virtual.get(key)
        if pool is None:
            rotation = self._rotations.get(rotation_key)
            if rotation is None:
                rotation = self._rotations.setdefault(rotation_key, self._rotation(settings))
            shared = ("timeout", "retries", "headers", "block")
            own = {name: settings[name] for name in shared if name in settings}
            pool = self._virtual.setdefault(key, VirtualPool(rotation, scheme, host, port, **own))
        return pool

    def clear(self) -> None:
        """Close the idle connections to all nodes. Calls in flight finish, later ones reconnect."""
        for rotation in list(self._rotations.values()):
            rotation.close_idle()

    def _rotation(self, settings: dict[str, Any]) -> Rotation:
        scheme = self.nodes.scheme
        pool_class = node_pool_class(self.pool_classes_by_scheme[scheme])
        plain = {name: settings[name] for name in settings if name not in _TLS_KEYWORDS}
        if scheme == "https":
            plain.update(self._tls(settings))
        name = plain.get("server_hostname")

        def open_pool(node: Node) -> Any:
            address = node.address
            if scheme == "https" and name is None and address.name is not None:
                return pool_class(
                    address.host, address.port, **{**plain, "server_hostname": address.name}
                )
            return pool_class(address.host, address.port, **plain)

        return Rotation(self.nodes, open_pool)

    def _tls(self, given: dict[str, Any]) -> dict[str, Any]:
        """Everything is loaded here, once; connections get the context and nothing to load."""
        settings = self.nodes.settings
        kept = {
            name: given[name]
            for name in ("assert_hostname", "assert_fingerprint", "server_hostname")
            if given.get(name) is not None
        }
        kept.setdefault("server_hostname", settings.server_hostname)
        context = given.get("ssl_context")
        bundle = given.get("ca_certs") or given.get("ca_cert_dir")
        data = given.get("ca_cert_data")
        if context is None:
            verify: Any = settings.verify
            if given.get("cert_reqs") is not None:
                verify = bool(resolve_cert_reqs(given["cert_reqs"]))
            if verify and (bundle or data):
                verify = bundle or True
            certificate: Any = settings.client_cert
            if given.get("cert_file"):
                certificate = (given["cert_file"], given.get("key_file"))
            context = build_context(
                verify,
                ca_certs=settings.ca_certs,
                client_cert=certificate,
                key_password=given.get("key_password"),
                check_hostname="assert_hostname" not in kept and "assert_fingerprint" not in kept,
            )
            for name in ("ssl_minimum_version", "ssl_maximum_version"):
                if given.get(name) is not None:
                    setattr(context, name.removeprefix("ssl_"), given[name])
            if data:
                context.load_verify_locations(cadata=data)
        elif bundle or data:
            context.load_verify_locations(given.get("ca_certs"), given.get("ca_cert_dir"), data)
        requirement = given.get("cert_reqs") if given.get("ssl_context") is not None else None
        kept["ssl_context"] = context
        kept["cert_reqs"] = context.verify_mode if requirement is None else requirement
        return kept
