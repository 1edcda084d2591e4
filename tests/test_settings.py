"""Settings are checked when they are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import urllib3

from alternator_lb.errors import InvalidSettingError
from alternator_lb.settings import InstallKeywords, Settings, SettingsKeywords


def test_defaults_are_settings() -> None:
    settings = Settings.of({})
    assert (settings.fetch_interval, settings.idle_interval) == (1.0, 60.0)
    assert settings.connect_timeout < 5


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().verify = False  # type: ignore[misc]


def test_an_unknown_setting_names_itself_its_value_and_what_was_meant() -> None:
    with pytest.raises(InvalidSettingError) as error:
        Settings.of({"conect_timeout": 3})
    text = str(error.value)
    assert "'conect_timeout'" in text
    assert "3" in text
    assert "did you mean 'connect_timeout'" in text


def test_a_setting_of_the_client_is_told_where_it_belongs() -> None:
    with pytest.raises(InvalidSettingError, match="give it to botocore's Config"):
        Settings.of({"max_pool_connections": 3})
    with pytest.raises(InvalidSettingError, match="did you mean 'scheme'"):
        Settings.of({"Scheme": "http"}, others=("scheme", "port"))


def test_the_keywords_for_type_checkers_are_the_settings() -> None:
    names = {field.name: field.type for field in dataclasses.fields(Settings)}
    assert set(SettingsKeywords.__annotations__) == set(names)
    for name, kind in SettingsKeywords.__annotations__.items():
        assert kind.__forward_arg__ == names[name]
    assert set(InstallKeywords.__annotations__) - set(names) == {"scheme", "port"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fetch_interval", 0),
        ("fetch_interval", -1),
        ("fetch_interval", "1"),
        ("fetch_interval", True),
        ("idle_interval", float("inf")),
        ("connect_timeout", float("nan")),
        ("discovery_timeout", None),
        ("failover_timeout", 0),
        ("late_after", 0),
        ("watch", 1),
        ("lean", "yes"),
        ("short_user_agent", None),
        ("listener", 5),
        ("verify", 1.5),
        ("verify", ""),
        ("ca_certs", 5),
        ("ca_certs", True),
        ("ca_certs", ["/a.pem", 5]),
        ("client_cert", (1, 2)),
        ("client_cert", ("a", "b", "c")),
        ("client_cert", 7),
        ("server_hostname", "no host"),
        ("server_hostname", 5),
        ("server_hostname", "dog.example:80"),
        ("server_hostname", "https://dog.example"),
        ("http", object()),
    ],
)
def test_an_impossible_value_is_named_with_what_would_do(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettingError) as error:
        Settings.of({name: value})
    assert name in str(error.value)
    assert repr(value)[:20] in str(error.value)
    assert "give" in str(error.value)


def test_possible_values() -> None:
    Settings.of(
        {
            "fetch_interval": 1,
            "verify": Path("ca.pem"),
            "client_cert": ("cert.pem", Path("key.pem")),
            "server_hostname": "dog.scylladb.com",
            "http": urllib3.PoolManager(),
        }
    )
