"""The exceptions of this library: each text names the value that was wrong and the way out."""

from __future__ import annotations

__all__ = [
    "AlternatorError",
    "DiscoveryError",
    "InvalidSettingError",
    "MissingExtraError",
    "NotADynamoDBClientError",
]


class AlternatorError(Exception):
    """Base of every exception that this library defines."""


class InvalidSettingError(AlternatorError, ValueError):
    """A seed, a port, a scheme or a setting cannot be used as it was given."""


class NotADynamoDBClientError(AlternatorError, TypeError):
    """What was given to install or uninstall is no DynamoDB or DynamoDB Streams client."""


class DiscoveryError(AlternatorError):
    """No node gave a usable list of the cluster's nodes."""


class MissingExtraError(AlternatorError, ImportError):
    """An optional package is not installed; the text says how to install it."""
