"""AlternatorAdapter: the nodes of a cluster for ``requests``."""

from __future__ import annotations

from typing import Any

from requests.adapters import DEFAULT_POOLBLOCK, DEFAULT_POOLSIZE, DEFAULT_RETRIES, HTTPAdapter

from .nodes import AlternatorNodes
from .poolmanager import AlternatorPoolManager

__all__ = ["AlternatorAdapter"]


class AlternatorAdapter(HTTPAdapter):
    """A transport adapter that sends what it is mounted for to the next live node.

    ``session.mount("http://dog.scylladb.com:8000", AlternatorAdapter(nodes))``: the host of the URL
    is the fake domain. Proxies, also those of the environment, are not used.

    Args:
        nodes: the cluster. Closing the adapter does not stop it.
        pool_connections: as in requests; has no effect, there is no limit to the number of nodes.
        pool_maxsize: idle connections kept for each node.
        max_retries: as in requests; each retry goes to another node.
        pool_block: whether a call waits when ``pool_maxsize`` connections to its node are in use.

    ``verify`` and ``cert`` are those of the session or the request; the ``ca_certs`` and
    ``server_hostname`` of the nodes count, too. It can be pickled; the nodes in it start anew.
    """

    __attrs__ = [  # noqa: RUF012 - as in the base class
        *HTTPAdapter.__attrs__,
        "nodes",
    ]

    def __init__(
        self,
        nodes: AlternatorNodes,
        pool_connections: int = DEFAULT_POOLSIZE,
        pool_maxsize: int = DEFAULT_POOLSIZE,
        max_retries: Any = DEFAULT_RETRIES,
        pool_block: bool = DEFAULT_POOLBLOCK,
    ) -> None:
        self.nodes = nodes
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.nodes = state["nodes"]  # the pool manager, made in the next line, needs it
        super().__setstate__(state)  # type: ignore[misc]

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make the pool manager, with the arguments that requests gives."""
        self._pool_connections = connections
        self._pool_maxsize = maxsize
        self._pool_block = block
        self.poolmanager = AlternatorPoolManager(
            self.nodes, connections, maxsize=maxsize, block=block, **pool_kwargs
        )

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a request as ``HTTPAdapter.send`` does, without any proxy."""
        names = ("stream", "timeout", "verify", "cert", "proxies")
        kwargs.update(zip(names, args, strict=False))
        kwargs["proxies"] = None
        return super().send(request, **kwargs)
