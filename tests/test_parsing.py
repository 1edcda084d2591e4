"""The short way to parse attribute values gives what botocore's own parser gives."""

from __future__ import annotations

import base64
import json
from typing import Any

import botocore.session
import pytest
from botocore.parsers import JSONParser, ResponseParserFactory
from hypothesis import given, settings
from hypothesis import strategies as st

from alternator_lb import install_alternator_transport, uninstall_alternator_transport
from alternator_lb.boto import LeanJSONParser, ParserFactory
from alternator_lb.parsing import attribute_value

MODEL = botocore.session.Session().get_service_model("dynamodb")

blobs = st.binary(max_size=8).map(lambda data: base64.b64encode(data).decode())
odd = st.one_of(
    st.none(), st.integers(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3)
)
leaves = st.one_of(
    st.text(max_size=5).map(lambda text: {"S": text}),
    st.integers().map(lambda number: {"N": str(number)}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    blobs.map(lambda blob: {"B": blob}),
    st.lists(st.text(max_size=3), max_size=3).map(lambda texts: {"SS": texts}),
    st.lists(st.text(max_size=3), max_size=3).map(lambda texts: {"NS": texts}),
    st.lists(blobs, max_size=3).map(lambda each: {"BS": each}),
    # What no server should send:
    st.dictionaries(
        st.sampled_from(["S", "N", "BOOL", "NULL", "SS", "M", "L", "X"]), odd, max_size=2
    ),
    st.none(),
)
attributes = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: {"L": items}),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda items: {"M": items}),
    ),
    max_leaves=12,
)
items = st.dictionaries(st.text(max_size=4), attributes, max_size=4)


def parsed(parser: Any, operation: str, body: Any, status: int = 200) -> Any:
    response = {"body": json.dumps(body).encode(), "headers": {}, "status_code": status}
    try:
        return parser.parse(response, MODEL.operation_model(operation).output_shape)
    except Exception as error:
        return type(error)


@settings(max_examples=500, deadline=None)
@given(items, st.sampled_from(["GetItem", "Query", "BatchGetItem", "PutItem"]))
def test_the_same_comes_of_any_answer(item: Any, operation: str) -> None:
    body = {
        "GetItem": {"Item": item},
        "Query": {"Items": [item, item], "Count": 2, "LastEvaluatedKey": item},
        "BatchGetItem": {"Responses": {"t": [item]}, "UnprocessedKeys": {"t": {"Keys": [item]}}},
        "PutItem": {"Attributes": item, "ConsumedCapacity": {"TableName": "t"}},
    }[operation]
    lean = ParserFactory(ResponseParserFactory()).create_parser("json")
    assert type(lean) is LeanJSONParser
    assert parsed(lean, operation, body) == parsed(JSONParser(), operation, body)


@given(st.recursive(odd, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_else_a_body_is(body: Any) -> None:
    lean = ParserFactory(ResponseParserFactory()).create_parser("json")
    for operation in ("GetItem", "ListTables", "DescribeTable"):
        for status in (200, 400):
            assert parsed(lean, operation, body, status) == parsed(
                JSONParser(), operation, body, status
            )


def test_what_is_parsed_shares_nothing_with_what_was_received() -> None:
    raw = {"SS": ["a"]}
    result = attribute_value(raw)
    assert result == raw
    assert result["SS"] is not raw["SS"]


def test_other_protocols_are_left_alone() -> None:
    factory = ParserFactory(ResponseParserFactory())
    for protocol in ("query", "rest-json", "rest-xml"):
        assert type(factory.create_parser(protocol)) is type(
            ResponseParserFactory().create_parser(protocol)
        )


def test_defaults_that_are_set_count() -> None:
    original = ResponseParserFactory()
    factory = ParserFactory(original)
    factory.set_parser_defaults(blob_parser=lambda value: f"blob {value}")
    lean = factory.create_parser("json")
    assert parsed(lean, "GetItem", {"Item": {"b": {"B": "eA=="}}})["Item"] == {
        "b": {"B": "blob eA=="}
    }


@pytest.mark.parametrize("lean", [True, False])
def test_install_puts_it_in_and_uninstall_takes_it_out(lean: bool) -> None:
    client = botocore.session.Session().create_client(
        "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    original = client._endpoint._response_parser_factory
    for _ in range(2):
        install_alternator_transport(client, "http://127.0.0.1:8000", lean=lean)
        assert isinstance(client._endpoint._response_parser_factory, ParserFactory) is lean
    uninstall_alternator_transport(client)
    assert client._endpoint._response_parser_factory is original
