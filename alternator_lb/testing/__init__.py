"""A cluster on loopback: for the demo, for this project's tests and for your own.

>>> from alternator_lb.testing import LocalCluster
>>> with LocalCluster(nodes=3) as cluster:
...     cluster.url, cluster.seeds, cluster.nodes[0].report.calls

It needs the extra ``testing`` (``pip install 'alternator-lb[testing]'``), which is imported
when a cluster starts, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster import LocalCluster
    from .loopback import LoopbackError
    from .node import LocalNode, NodeReport

__all__ = ["LocalCluster", "LocalNode", "LoopbackError", "NodeReport"]

_HOMES = {
    "LocalCluster": "cluster",
    "LocalNode": "node",
    "LoopbackError": "loopback",
    "NodeReport": "node",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that importing this package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
