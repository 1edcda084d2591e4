"""LocalCluster: Alternator-like nodes on loopback, in front of one engine."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..extras import need
from . import loopback
from .certificates import FAULTS, Certificates, server_context
from .engine import Engine, ForwardEngine, MotoEngine
from .front import Front, Users
from .host import InProcess
from .listener import Handler, Listener
from .loop import LoopThread
from .messages import Request, Response
from .node import Host, LocalNode, is_text_to_text
from .process import NodeProcess
from .topology import Datacenters, Racks, Topology, is_int, local_nodes

SERVER_NAME = "alternator.test"
_USERS = {"alternator": "secret_pass"}


class LocalCluster:
    """A cluster on loopback: many nodes, one port, one database behind them.

    Every node speaks HTTP/1.1 with keep-alive and no idle timeout, answers ``GET /localnodes``
    (with ``dc`` and ``rack``), ``GET /`` and DynamoDB and DynamoDB Streams calls, and checks
    signatures, all as ScyllaDB Alternator does. The database is moto's, in this process, unless
    ``engine`` names another. Nothing leaves loopback.

    >>> with LocalCluster(nodes=3) as cluster:
    ...     client = boto3.client(
    ...         "dynamodb", endpoint_url=cluster.url, region_name="us-east-1",
    ...         aws_access_key_id=cluster.access_key, aws_secret_access_key=cluster.secret_key,
    ...     )

    Each cluster has addresses and data of its own; several can run at a time (the environment
    variable MOTO_ACCOUNT_ID must not be set, it overrides what keeps them apart). Any thread may
    use a cluster. After a fork it goes on in the parent only. Use ``with``, or call `stop`.
    """

    def __init__(
        self,
        nodes: int | None = None,
        *,
        datacenters: Datacenters = None,
        racks: Racks = None,
        tls: bool | str = False,
        port: int | None = None,
        engine: str | None = None,
        processes: bool = False,
        users: Mapping[str, str] = _USERS,
        authorization: bool = True,
        certificates: Mapping[int, str] | None = None,
        client_ca: bool = False,
        ipv6: bool = False,
    ) -> None:
        """Check the arguments; nothing is started before `start`.

        Args:
            nodes: how many nodes; None for 3, or for as many as ``datacenters`` tells.
            datacenters: a number or names of datacenters, to which nodes are dealt in turn, or a
                mapping from names to numbers of nodes; None puts all into "datacenter1".
            racks: a number or names of racks, dealt in turn within each datacenter; None puts
                all into "rack1".
            tls: True for https, with a certificate for each node that names "alternator.test"
                and its address; "name-only" leaves the address out; False for http.
            port: the port of every node; None for any that is free.
            engine: the URL of a DynamoDB-compatible endpoint to put the nodes in front of; None
                for moto in this process.
            processes: whether each node is a process of its own, to be killed and frozen for
                real.
            users: access key -> secret key.
            authorization: whether signatures are checked; False takes anything.
            certificates: number of a node (from 0) -> what is wrong with its certificate:
                "expired", "wrong-name" or "unknown-ca"; with ``tls``.
            client_ca: whether clients have to show a certificate, such as `client_cert`; with
                ``tls``.
            ipv6: whether the cluster is the one node on ::1.

        Raises:
            ValueError: an argument makes no sense; the text names it.
        """
        self._topology = Topology(nodes, datacenters, racks)
        _check(port, tls, users, authorization, certificates, client_ca, len(self._topology.first))
        self._tls = tls
        self._wanted_port = port
        self._engine_url = engine
        self._engine: Engine | None = ForwardEngine(engine) if engine is not None else None
        self._processes = processes
        self._users = Users(dict(users), authorization)
        self._faults = dict(certificates or {})
        self._client_ca = client_ca
        self._ipv6 = ipv6

        self._lock = threading.RLock()
        self._nodes: tuple[LocalNode, ...] = ()
        self._made = 0
        self._port: int | None = None
        self._address: loopback.Address | None = None
        self._authority: Certificates | None = None
        self._client_cert: tuple[str, str] | None = None
        self._ca_path: str | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._loop: LoopThread | None = None
        self._backstage: Listener | None = None
        self._backstage_url = ""

    def __repr__(self) -> str:
        """Tell where it is and how many nodes run."""
        running = sum(node.running for node in self._nodes)
        where = self.url if self._nodes else "not started"
        return f"<LocalCluster {where} {running} of {len(self._nodes)} nodes running>"

    def __enter__(self) -> LocalCluster:
        """Start it."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def nodes(self) -> tuple[LocalNode, ...]:
        """The nodes present, running or stopped, in the order in which they came."""
        return self._nodes

    @property
    def scheme(self) -> str:
        """The scheme of the nodes' URLs, "http" or "https"."""
        return "https" if self._tls else "http"

    @property
    def port(self) -> int:
        """The port, the same on every node; it stays over `stop` and `start`."""
        if self._port is None:
            raise RuntimeError("start the LocalCluster first: it has no port yet")
        return self._port

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses of `nodes`."""
        return tuple(node.address for node in self._nodes)

    @property
    def seeds(self) -> list[str]:
        """What a user hands over as seeds: the address of the first node."""
        return [self._first.address]

    @property
    def url(self) -> str:
        """The URL of the first node."""
        return self._first.url

    @property
    def ca_path(self) -> str | None:
        """The path of a PEM file with the authority of the nodes' certificates; None without TLS.

        The file is there while the cluster runs.
        """
        return self._ca_path

    @property
    def client_cert(self) -> tuple[str, str] | None:
        """Paths of a certificate for clients and of its key; None without ``client_ca``."""
        return self._client_cert

    @property
    def server_name(self) -> str:
        """The DNS name in every node's certificate."""
        return SERVER_NAME

    @property
    def access_key(self) -> str:
        """The access key of the first user; "alternator" if there is none."""
        return next(iter(self._users.secrets), "alternator")

    @property
    def secret_key(self) -> str:
        """The secret key of the first user; "secret_pass" if there is none."""
        return next(iter(self._users.secrets.values()), "secret_pass")

    def start(self) -> LocalCluster:
        """Start every node and return when all of them listen; nothing if the cluster runs.

        After `stop`, the same nodes come back on the same addresses and port, with no data.

        Returns:
            The cluster itself.

        Raises:
            MissingExtraError: the extra ``testing`` is not installed.
            LoopbackError: this system has not enough loopback addresses, or the port is taken.
        """
        with self._lock:
            if self._loop is not None:
                return self
            try:
                self._start()
            except BaseException:
                self.stop()
                raise
            return self

    def stop(self) -> None:
        """Cut all connections, end all threads and processes and forget the data.

        Nothing if it does not run, or in a process that was forked from the one that started it.
        The reports of the nodes can still be read.
        """
        with self._lock:
            loop = self._loop
            if loop is None or not loop.mine:
                return
            for node in self._nodes:
                node._allow(False)
                node.kill()
            if self._backstage is not None:
                loop.run(self._backstage.abort())
            loop.close()
            self._loop = self._backstage = None
            if self._engine is not None:
                self._engine.close()
            if self._folder is not None:
                self._folder.cleanup()
            self._folder = self._ca_path = self._client_cert = None

    def add_node(
        self, datacenter: str | None = None, rack: str | None = None, *, listed: bool = True
    ) -> LocalNode:
        """Add a node and start it; its address was never used before in this cluster.

        Args:
            datacenter: None for the first one.
            rack: None for the next in turn.
            listed: whether /localnodes names it.

        Raises:
            RuntimeError: the cluster does not run.
        """
        with self._lock:
            loop = self._running()
            node = self._make(datacenter, rack, listed)
            self._equip(node, loop)
            node._begin()
            node._ready()
            node._allow(True)
            self._nodes = (*self._nodes, node)
            return node

    def remove_node(self, node: LocalNode) -> None:
        """Take a node out of /localnodes, then stop it, as `LocalNode.stop` does.

        Raises:
            ValueError: it is no node of this cluster.
        """
        with self._lock:
            if node not in self._nodes:
                raise ValueError(f"{node!r} is no node of this cluster")
            self._nodes = tuple(each for each in self._nodes if each is not node)
            node.listed = False
            node._allow(False)
            node.stop()

    def reset_counts(self) -> None:
        """Have every node's report count from zero."""
        for node in self._nodes:
            node._reset()

    @property
    def _first(self) -> LocalNode:
        if not self._nodes:
            raise RuntimeError("start the LocalCluster first: it has no nodes yet")
        return self._nodes[0]

    def _running(self) -> LoopThread:
        if self._loop is None:
            raise RuntimeError("start the LocalCluster first")
        return self._loop

    def _start(self) -> None:
        need("h11", "testing", "LocalCluster")
        if self._engine is None:
            self._engine = MotoEngine()
        fresh = not self._nodes
        count = len(self._topology.first) if fresh else len(self._nodes)
        if self._address is None:
            self._address = loopback.choose_network(count, ipv6=self._ipv6)
        addresses = [self._address(n) for n in range(count)] if fresh else list(self.addresses)
        self._port, bound = loopback.bind_all(addresses, self._port or self._wanted_port)
        try:
            if fresh:
                self._nodes = tuple(
                    self._make(name, None, listed=True) for name in self._topology.first
                )
            self._loop = LoopThread(f"LocalCluster {addresses[0]}:{self._port}")
            self._write_certificates()
            if self._processes:
                self._open_backstage(self._loop)
            for node in self._nodes:
                self._equip(node, self._loop)
                node._begin(bound.pop(0))
            for node in self._nodes:
                node._ready()
                node._allow(True)
        finally:
            for left in bound:
                left.close()

    def _make(self, datacenter: str | None, rack: str | None, listed: bool) -> LocalNode:
        assert self._address is not None
        assert self._engine is not None
        number, self._made = self._made, self._made + 1
        address = self._address(number)
        place = self._topology.place(datacenter, rack)

        async def localnodes(request: Request) -> Response:
            return self._local_nodes(request.query, address)

        host: Host = (
            NodeProcess()
            if self._processes
            else InProcess(Front(self._engine, localnodes, self._users))
        )
        return LocalNode(number, address, self.port, self.scheme, *place, listed, host)

    def _equip(self, node: LocalNode, loop: LoopThread) -> None:
        """Tell the host of a node, before each start, what it runs with."""
        tls = self._write_node(node) if self._tls else None
        host = node._host
        if isinstance(host, InProcess):
            host.equip(loop, server_context(*tls) if tls else None)
        else:
            host.settings = {
                "address": node.address,
                "users": dict(self._users.secrets),
                "checked": self._users.checked,
                "engine": self._engine_url,
                "parent": self._backstage_url,
                "tls": tls,
            }

    def _local_nodes(self, query: str, address: str) -> Response:
        """Answer /localnodes as the node with this address does."""
        asked = next((node for node in self._nodes if node.address == address), None)
        names = local_nodes(query, asked, self._nodes)
        return Response(200, json.dumps(names).encode(), [("Content-Type", "application/json")])

    def _open_backstage(self, loop: LoopThread) -> None:
        assert self._engine is not None
        backstage = self._backstage = Listener(_Backstage(self, self._engine))
        bound = loopback.bind("127.0.0.1", 0)
        self._backstage_url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        loop.call(lambda: backstage.open(bound))

    def _write_certificates(self) -> None:
        if not self._tls:
            return
        self._authority = self._authority or Certificates(SERVER_NAME)
        self._folder = tempfile.TemporaryDirectory(prefix="alternator-lb-")
        folder = Path(self._folder.name)
        self._ca_path = self._authority.write_authority(folder)
        if self._client_ca:
            self._client_cert = self._authority.write_client(folder)

    def _write_node(self, node: LocalNode) -> tuple[str, str, str | None]:
        assert self._authority is not None
        assert self._folder is not None
        certificate, key = self._authority.write_node(
            Path(self._folder.name),
            node.address,
            with_address=self._tls != "name-only",
            fault=self._faults.get(node._number),
        )
        return certificate, key, self._ca_path if self._client_ca else None


class _Backstage(Handler):
    """What the processes of nodes ask their parent: the engine, and who is in the cluster."""

    def __init__(self, cluster: LocalCluster, engine: Engine) -> None:
        self._cluster = cluster
        self._engine = engine

    async def respond(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._engine.call(request)
        return self._cluster._local_nodes(request.query, request.header("x-local-node"))


def _check(
    port: Any,
    tls: Any,
    users: Any,
    authorization: bool,
    certificates: Any,
    client_ca: bool,
    count: int,
) -> None:
    if port is not None and not (is_int(port) and 0 < port < 65536):
        raise ValueError(f"port={port!r}: give a port from 1 to 65535, or None for a free one")
    if tls not in (True, False, "name-only"):
        raise ValueError(f"tls={tls!r}: give True, False or 'name-only'")
    if not is_text_to_text(users):
        raise ValueError(f"users={users!r}: give access keys with their secret keys, as a dict")
    if authorization and not users:
        raise ValueError("users={}: give at least one, or authorization=False")
    if certificates is not None and not isinstance(certificates, Mapping):
        raise ValueError(
            f"certificates={certificates!r}: give numbers of nodes, as in {{0: fault}}"
        )
    if (certificates or client_ca) and not tls:
        raise ValueError("certificates and client_ca need tls=True")
    for number, fault in (certificates or {}).items():
        if not is_int(number) or not 0 <= number < count:
            raise ValueError(
                f"certificates={certificates!r}: {number!r} is no node; "
                f"give numbers from 0 to {count - 1}"
            )
        if fault not in FAULTS:
            raise ValueError(f"certificates={{{number}: {fault!r}}}: give one of {FAULTS}")
