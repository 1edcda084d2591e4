"""The package itself: cheap to import, clear when the extra is missing; its pytest fixtures."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import Any

import pytest

import alternator_lb
from alternator_lb import testing
from alternator_lb.errors import MissingExtraError
from alternator_lb.testing import LocalCluster, LoopbackError, loopback


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_importing_it_imports_no_extra() -> None:
    heavy = ("moto", "trustme", "h11", "boto3", "alternator_lb.testing.cluster")
    code = (
        "import sys, alternator_lb\nbefore = set(sys.modules)\n"
        "import alternator_lb.testing, alternator_lb.testing.fixtures\n"
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    assert run(code).strip() == "[]"


def test_naming_the_cluster_imports_no_extra() -> None:
    code = (
        "import sys\nfrom alternator_lb.testing import LocalCluster\nLocalCluster()\n"
        "print({'moto', 'trustme', 'h11'} & set(sys.modules))"
    )
    assert run(code).strip() == "set()"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto.core.botocore_stubber", None)
    with pytest.raises(
        MissingExtraError, match=r"needs moto .*pip install 'alternator-lb\[testing\]'"
    ):
        LocalCluster().start()
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(MissingExtraError, match="needs h11"):
        LocalCluster(engine="http://127.0.0.1:1").start()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(MissingExtraError, match="needs trustme"):
        LocalCluster(tls=True, engine="http://127.0.0.1:1").start()


def test_public_names() -> None:
    for name in testing.__all__:
        assert getattr(testing, name).__name__ == name
        assert name in dir(testing)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = testing.Nothing


def test_a_system_without_loopback_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(address: str, port: int) -> Any:
        raise OSError(errno.EADDRNOTAVAIL, "Can't assign requested address")

    monkeypatch.setattr(loopback, "bind", bind)
    with pytest.raises(LoopbackError, match=r"alias 127\.93\.0\.1 up") as no:
        LocalCluster(nodes=2).start()
    assert "127.93.0.2" in str(no.value)


def test_addresses_are_many_and_far_from_home() -> None:
    address = loopback.choose_network(1000)
    found = {address(number) for number in range(1000)}
    assert len(found) == 1000
    for each in found:
        first, second, _third, last = (int(part) for part in each.split("."))
        assert (first, second >= 64, 0 < last < 255) == (127, True, True)


def test_the_cluster_fixture(alternator_cluster: LocalCluster) -> None:
    assert len(alternator_cluster.nodes) == 3
    assert all(node.running for node in alternator_cluster.nodes)


@pytest.mark.skipif(
    not hasattr(alternator_lb, "install_alternator_transport"), reason="the transport is not there"
)
def test_the_client_fixture(alternator_client: Any, alternator_cluster: LocalCluster) -> None:
    for _ in range(9):
        assert alternator_client.list_tables()["TableNames"] == []
    assert [node.report.calls for node in alternator_cluster.nodes] == [3, 3, 3]
