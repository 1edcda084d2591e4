"""DynamoDB's attribute values as botocore parses them, for less CPU. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["attribute_value"]

_AS_IT_IS = {"S": str, "N": str, "BOOL": bool, "NULL": bool}


def attribute_value(value: Any) -> dict[str, Any] | None:
    """Return a parsed attribute value, or None where botocore's own way is needed.

    An attribute value has one key, which tells its type; botocore tries all ten that it could have.

    Args:
        value: what was received, as JSON.
    """
    if type(value) is not dict or len(value) != 1:
        return None
    ((kind, raw),) = value.items()
    if kind in _AS_IT_IS:
        return {kind: raw} if type(raw) is _AS_IT_IS[kind] else None
    if kind == "M" and type(raw) is dict:
        members = {name: attribute_value(each) for name, each in raw.items()}
        return None if None in members.values() else {kind: members}
    if kind == "L" and type(raw) is list:
        items = [attribute_value(each) for each in raw]
        return None if None in items else {kind: items}
    if kind in ("SS", "NS") and type(raw) is list:
        return {kind: raw[:]}
    return None
