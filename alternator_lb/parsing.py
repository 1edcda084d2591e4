"""botocore's JSON parser, with a short way for DynamoDB's attribute values: the same result."""

from __future__ import annotations

from typing import Any

from botocore.parsers import JSONParser

__all__ = ["ParserFactory"]

_AS_IT_IS = {"S": str, "N": str, "BOOL": bool, "NULL": bool}


class LeanJSONParser(JSONParser):  # type: ignore[misc]
    """Parses an attribute value by its one key; botocore tries all ten that it could have."""

    def _handle_structure(self, shape: Any, value: Any) -> Any:
        if shape.name == "AttributeValue":
            parsed = self._attribute(value)
            if parsed is not None:
                return parsed
        return super()._handle_structure(shape, value)

    def _handle_map(self, shape: Any, value: Any) -> Any:
        value_shape = shape.value
        if value_shape.name != "AttributeValue":
            return super()._handle_map(shape, value)
        parsed = {}
        for name, each in value.items():
            attribute = self._attribute(each)
            if attribute is None:
                attribute = self._parse_shape(value_shape, each)
            parsed[name] = attribute
        return parsed

    def _attribute(self, value: Any) -> dict[str, Any] | None:
        """Return a parsed attribute value, or None where botocore's own way is needed."""
        if type(value) is not dict or len(value) != 1:
            return None
        ((kind, raw),) = value.items()
        if kind in _AS_IT_IS:
            return {kind: raw} if type(raw) is _AS_IT_IS[kind] else None
        if kind == "M" and type(raw) is dict:
            members = {name: self._attribute(each) for name, each in raw.items()}
            return None if None in members.values() else {kind: members}
        if kind == "L" and type(raw) is list:
            items = [self._attribute(each) for each in raw]
            return None if None in items else {kind: items}
        if kind in ("SS", "NS") and type(raw) is list:
            return {kind: raw[:]}
        return None


class ParserFactory:
    """Takes the place of a client's parser factory.

    Args:
        original: botocore's own factory.
    """

    def __init__(self, original: Any) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def create_parser(self, protocol_name: str) -> Any:
        """Return the parser that botocore would make, with the short way where it is JSON's."""
        parser = self.original.create_parser(protocol_name)
        if type(parser) is JSONParser:
            parser.__class__ = LeanJSONParser
        return parser
