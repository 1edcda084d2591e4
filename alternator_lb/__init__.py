"""Makes boto3, urllib3 and requests use every node of a ScyllaDB Alternator cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .addresses import NodeAddress
from .boto import install_alternator_transport, uninstall_alternator_transport
from .errors import (
    AlternatorError,
    DiscoveryError,
    InvalidSettingError,
    MissingExtraError,
    NotADynamoDBClientError,
)
from .events import NodeDown, NodeEvent, NodeJoined, NodeLeft, NodeUp
from .extras import need
from .membership import NodeStats
from .nodes import AlternatorNodes
from .poolmanager import AlternatorPoolManager
from .transport import NoNodeReachableError

if TYPE_CHECKING:
    from .adapters import AlternatorAdapter as AlternatorAdapter

# Without AlternatorAdapter, which needs requests: "import *" must work where that is not installed.
__all__ = [
    "AlternatorError",
    "AlternatorNodes",
    "AlternatorPoolManager",
    "DiscoveryError",
    "InvalidSettingError",
    "MissingExtraError",
    "NoNodeReachableError",
    "NodeAddress",
    "NodeDown",
    "NodeEvent",
    "NodeJoined",
    "NodeLeft",
    "NodeStats",
    "NodeUp",
    "NotADynamoDBClientError",
    "__version__",
    "install_alternator_transport",
    "uninstall_alternator_transport",
]


def __getattr__(name: str) -> Any:
    if name == "AlternatorAdapter":  # requests is optional
        return need("alternator_lb.adapters", "requests", name).AlternatorAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "AlternatorAdapter"])
