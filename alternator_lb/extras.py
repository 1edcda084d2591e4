"""Import what the extra `testing` brings, or say how to get it."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ImportError):
    """A package of the extra ``testing`` is not installed; the text says how to install it."""


def need(module: str) -> Any:
    """Import a module of the extra ``testing``.

    Raises:
        MissingExtra: the module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"LocalCluster needs {module.partition('.')[0]} (no module named {error.name!r}): "
            "pip install alternator-lb[testing]",
            name=error.name,
        ) from error
