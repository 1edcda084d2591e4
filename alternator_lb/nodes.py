"""AlternatorNodes: the public object; it joins who is live with the polling that finds out."""

from __future__ import annotations

import errno
import logging
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from .addresses import NodeAddress, check_port, check_scheme, parse_seed
from .errors import DiscoveryError, InvalidSettingError
from .extras import need
from .health import UP
from .membership import Membership, Node, NodeStats, Subscriber
from .polling import Polling, resolve
from .settings import Settings, check_seconds

if TYPE_CHECKING:
    import boto3
    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from .settings import SettingsKeywords

__all__ = ["AlternatorNodes"]

log = logging.getLogger(__name__)

# Failures of this machine, not of the node that it tried to connect to.
_OWN_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


class AlternatorNodes:
    """The live nodes of one Alternator cluster.

    Nothing is connected and no thread runs until ``start()``, ``refresh()`` or the first call.
    Then a daemon thread polls ``/localnodes``: every ``fetch_interval`` seconds while calls flow,
    every ``idle_interval`` seconds while none are made.

    Args:
        scheme: ``"http"`` or ``"https"``, the same for every node.
        port: the port, the same for every node.
        initial_nodes: the seeds, at least one: IP addresses, DNS names, ``host:port`` or URLs.
        settings: see `Settings`; each is checked here and now.

    Raises:
        InvalidSettingError: no seed, a seed that contradicts scheme or port, an unknown setting or
            an impossible value.

    All methods may be called from any thread. One object can serve several clients.
    """

    def __init__(
        self, scheme: str, port: int, *initial_nodes: str, **settings: Unpack[SettingsKeywords]
    ) -> None:
        self.scheme = check_scheme(scheme)
        self.port = check_port(port)
        self.settings = Settings.of(settings)
        if not initial_nodes:
            raise InvalidSettingError(
                "no seed was given; name at least one node of the cluster, as in "
                f"AlternatorNodes({scheme!r}, {port}, '10.0.0.1')"
            )
        self._given: tuple[Any, ...] = (initial_nodes, settings)
        self._seeds = tuple(
            dict.fromkeys(parse_seed(seed, self.scheme, self.port) for seed in initial_nodes)
        )
        self._members = Membership(self.settings)
        self._members.replace([], [seed for seed in self._seeds if seed.is_ip])
        self._polling = Polling(self.settings, self._seeds, self._members)
        if self.scheme == "https":
            self._polling.discovery.load_certificates()
        _all.add(self)

    # -- what users call ---------------------------------------------------------------------

    @property
    def live(self) -> tuple[NodeAddress, ...]:
        """The addresses that calls go to, in the order of the rotation."""
        return tuple(node.address for node in self._members.live)

    def start(self, fetch_interval: float | None = None) -> AlternatorNodes:
        """Begin polling at once, without waiting for the first answer. Can be repeated.

        Args:
            fetch_interval: seconds between polls while calls flow; None keeps the setting (1.0).

        Raises:
            InvalidSettingError: ``fetch_interval`` is no positive number.
            RuntimeError: no thread can be started.
        """
        if fetch_interval is not None:
            fetch_interval = check_seconds("fetch_interval", fetch_interval)
        self._polling.start(fetch_interval)
        return self

    def stop(self) -> None:
        """End polling, close its connections. Calls go on with the last list. Can be repeated."""
        self._polling.stop()

    def __enter__(self) -> AlternatorNodes:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def refresh(self) -> tuple[NodeAddress, ...]:
        """Ask for the nodes now, and probe those that are new or down; wait for the answers.

        Returns:
            The live nodes.

        Raises:
            DiscoveryError: no node gave a usable list; the last good one stays. The text names
                every node asked and how it failed.
        """
        self._polling.refresh()
        return self.live

    def stats(self) -> dict[NodeAddress, NodeStats]:
        """Return the health of each node that is known now, and what was counted of it."""
        return self._members.stats()

    def session(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        *,
        region_name: str = "us-east-1",
        **boto3_session: Any,
    ) -> boto3.Session:
        """Return a ``boto3.Session`` whose DynamoDB and Streams clients and resources are balanced.

        Args:
            fake_domain: stands in for the endpoint: it is signed, and sent as the Host. Any name
                will do; it is never resolved.
            key: the access key id. Without it, requests are not signed.
            secret: the secret key.
            region_name: is signed, and has no other meaning for Alternator.
            boto3_session: more arguments for ``boto3.Session``.

        Raises:
            InvalidSettingError: the fake domain is no host name, or key or secret is missing.
            MissingExtraError: boto3 is not installed.
        """
        # Here, since boto3 is optional; session lies above nodes.
        session = need("alternator_lb.session", "boto3", "AlternatorNodes.session()")
        made: boto3.Session = session.balanced_session(
            self, fake_domain, key, secret, region_name=region_name, **boto3_session
        )
        return made

    def client(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        **client_settings: Any,
    ) -> Any:
        """Return a boto3 DynamoDB client that is balanced; the arguments are those of session().

        Args:
            fake_domain: see `session`.
            key: see `session`.
            secret: see `session`.
            client_settings: more arguments for ``boto3.Session.client``, ``config`` for example.
        """
        return self.session(fake_domain, key, secret).client("dynamodb", **client_settings)

    def resource(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        **client_settings: Any,
    ) -> Any:
        """Return a balanced boto3 DynamoDB resource; the arguments are those of client()."""
        return self.session(fake_domain, key, secret).resource("dynamodb", **client_settings)

    def __repr__(self) -> str:
        members, polling = self._members, self._polling
        if members.listed is None:
            known = f"no list yet, {len(self._seeds)} seed(s)"
        else:
            known = f"{len(members.live)} live of {len(members.listed)} listed"
            if members.all_out:
                known = f"none of {len(members.listed)} listed is up, so all are tried"
        when = {
            "new": "polling starts with the first call",
            "stopped": "stopped",
            "running": f"polling every {polling.fetch_interval:g} s",
        }[polling.phase]
        if polling.phase == "running" and members.asleep and polling.answered:
            when = f"idle, polling every {self.settings.idle_interval:g} s"
        last = ""
        if polling.answered:
            at, source = polling.answered
            last = f", last answer {time.monotonic() - at:.1f} s ago from {source}"
        return f"<AlternatorNodes {self.scheme} port {self.port}: {known}, {when}{last}>"

    def __reduce__(self) -> tuple[Any, ...]:
        initial_nodes, settings = self._given
        return _rebuild, (self.scheme, self.port, initial_nodes, settings)

    # -- what the transport calls --------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keep a rotation (weakly referred to) up to date from now on."""
        self._members.subscribe(subscriber)

    def known(self) -> tuple[Node, ...]:
        """Return the nodes to try; names among the seeds are resolved where there are no others.

        Raises:
            DiscoveryError: there are only names, and none can be resolved.
        """
        if not self._members.live:
            failures: list[str] = []
            self._members.replace([], list(resolve(self._seeds, failures)))
            if not self._members.live:
                raise DiscoveryError("; ".join(failures))
        return self._members.live

    def failed_to_connect(self, node: Node, error: BaseException, reason: str) -> None:
        """Convict a node that could not be connected to; nothing had been sent."""
        node.failures.tick()
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if isinstance(cause, OSError) and cause.errno in _OWN_FAULTS:
            return
        log.debug("cannot connect to %s: %s", node.address, error)
        if self._members.convict(node, reason):
            self._polling.fetch_soon()

    def connected(self, node: Node) -> None:
        """Let a node in again that a call could connect to while none was known to work."""
        if node.health.state != UP and (self._members.all_out or self._members.unattended):
            self._members.works(node, "a call could connect to it")

    def broke(self, node: Node, reason: str) -> None:
        """Take note that an answer of a node broke off."""
        if self._members.broke(node, reason):
            self._polling.fetch_soon()

    def _after_fork_in_child(self) -> None:
        self._members.after_fork_in_child()
        self._polling.after_fork_in_child()


def _rebuild(
    scheme: str, port: int, initial_nodes: tuple[str, ...], settings: dict[str, Any]
) -> AlternatorNodes:
    return AlternatorNodes(scheme, port, *initial_nodes, **settings)


_all: weakref.WeakSet[AlternatorNodes] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for nodes in list(_all):
        nodes._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
