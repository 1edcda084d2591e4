"""Seeds and /localnodes entries become addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alternator_lb.addresses import NodeAddress, host_header, parse_listed, parse_seed
from alternator_lb.errors import InvalidSettingError


@pytest.mark.parametrize(
    ("seed", "host"),
    [
        ("10.0.0.1", "10.0.0.1"),
        (" 10.0.0.1 ", "10.0.0.1"),
        ("10.0.0.1:8000", "10.0.0.1"),
        ("http://10.0.0.1", "10.0.0.1"),
        ("HTTP://10.0.0.1:8000/", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("http://[2001:db8::1]:8000", "2001:db8::1"),
        ("DB.Example.com", "db.example.com"),
        ("db.example.com:8000", "db.example.com"),
        ("localhost", "localhost"),
        ("node_1", "node_1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_seed_that_agrees(seed: str, host: str) -> None:
    assert parse_seed(seed, "http", 8000) == NodeAddress("http", host, 8000)


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ("10.0.0.1:8001", "port 8001"),
        ("https://10.0.0.1:8000", "https"),
        ("http://10.0.0.1:8000/path", "more than"),
        ("http://user@10.0.0.1", "more than"),
        ("", "names no host"),
        ("10.0.0.1:99999", "out of range"),
        ("10.0.0.1:0", "port 0"),
        ("10.0.0.256", "names no host"),
        ("0.0.0.0", "no address to connect to"),
        ("ftp://10.0.0.1", "scheme 'ftp'"),
        ("two hosts", "names no host"),
        (7, "a int"),
        (None, "a NoneType"),
    ],
)
def test_a_seed_that_cannot_be_used_is_named(seed: object, said: str) -> None:
    with pytest.raises(InvalidSettingError, match=said) as error:
        parse_seed(seed, "http", 8000)
    assert repr(seed) in str(error.value)


@pytest.mark.parametrize("entry", ["10.0.0.1", "::1", "2001:db8::7"])
def test_a_listed_entry(entry: str) -> None:
    assert parse_listed(entry, "https", 8043) == NodeAddress("https", entry, 8043)


@pytest.mark.parametrize(
    "entry",
    [
        *("8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11", "db.example.com", "", "10.0.0.1:8000"),
        *("0.0.0.0", "::", 5, None, {}, "224.0.0.1", "010.0.0.1"),
    ],
)
def test_a_listed_entry_that_is_no_address_is_named(entry: object) -> None:
    with pytest.raises(ValueError) as error:
        parse_listed(entry, "http", 8000)
    assert repr(entry) in str(error.value)


def test_text_forms() -> None:
    assert str(NodeAddress("http", "10.0.0.1", 8000)) == "10.0.0.1:8000"
    assert str(NodeAddress("http", "::1", 8000)) == "[::1]:8000"
    assert NodeAddress("https", "::1", 8043).url == "https://[::1]:8043"


def test_the_name_is_no_part_of_the_identity() -> None:
    by_name = NodeAddress("http", "10.0.0.1", 8000, name="db.example.com")
    assert by_name == NodeAddress("http", "10.0.0.1", 8000)
    assert len({by_name, NodeAddress("http", "10.0.0.1", 8000)}) == 1


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (("http", "Dog.ScyllaDB.com", 8000), "dog.scylladb.com:8000"),
        (("http", "dog.scylladb.com", 80), "dog.scylladb.com"),
        (("https", "dog.scylladb.com", 443), "dog.scylladb.com"),
        (("https", "dog.scylladb.com", 80), "dog.scylladb.com:80"),
        (("http", "::1", 8000), "[::1]:8000"),
        (("http", "[::1]", None), "[::1]"),
    ],
)
def test_the_host_header_is_what_botocore_signs(
    url: tuple[str, str, int | None], host: str
) -> None:
    from botocore.auth import _host_from_url

    assert host_header(*url) == host
    scheme, name, port = url
    bracketed = f"[{name}]" if ":" in name and "[" not in name else name
    assert _host_from_url(f"{scheme}://{bracketed}{f':{port}' if port else ''}/") in (
        host,
        host.replace("[", "").replace("]", ""),  # botocore before 1.34 lost the brackets
    )


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    try:
        address = parse_seed(text, "http", 8000)
    except InvalidSettingError:
        return
    assert parse_seed(str(address), "http", 8000) == address
