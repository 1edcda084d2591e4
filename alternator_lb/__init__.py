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
    NotADynamoDBClientError,
)
from .events import NodeDown, NodeEvent, NodeJoined, NodeLeft, NodeUp
from .membership import NodeStats
from .nodes import AlternatorNodes
from .poolmanager import AlternatorPoolManager
from .transport import NoNodeReachableError

if TYPE_CHECKING:
    from .adapters import AlternatorAdapter

__all__ = [
    "AlternatorAdapter",
    "AlternatorError",
    "AlternatorNodes",
    "AlternatorPoolManager",
    "DiscoveryError",
    "InvalidSettingError",
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
        from .adapters import AlternatorAdapter

        return AlternatorAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
