"""Import what an extra brings, or say how to get it."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingExtraError

__all__ = ["need"]


def need(module: str, extra: str, who: str) -> Any:
    """Import a module that an extra brings, or one of this package that needs it.

    Args:
        module: its full name.
        extra: the extra of setup.cfg.
        who: what needs it, for the text of the error.

    Raises:
        MissingExtraError: the module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise MissingExtraError(
            f"{who} needs {package} (no module named {error.name!r}): "
            f"pip install 'alternator-lb[{extra}]'",
            name=error.name,
        ) from error
