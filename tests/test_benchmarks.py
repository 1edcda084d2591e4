"""A smoke test of the benchmarks: the backend counts right, and one runs from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3

pytest.importorskip("alternator", reason="the extra 'benchmarks' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'benchmarks' is not installed")


@pytest.fixture(autouse=True)
def _needs_nginx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # workers inherit it
    from benchmarks import backend

    try:
        backend.find_nginx()
    except backend.BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("tls", [False, True])
def test_the_backend_counts_connections_for_calls_apart_from_those_for_polls(tls: bool) -> None:
    from benchmarks.backend import Backend

    with Backend(2, tls=tls, log=True) as backend:
        first, second = backend.target.urls
        with urllib3.PoolManager(ca_certs=backend.target.ca_file) as http:
            for _ in range(3):
                assert b"Item" in http.request("POST", first, body=b"{}").data
            for action, size in (("PutItem", 2), ("Query", 100_000)):
                headers = {"X-Amz-Target": f"DynamoDB_20120810.{action}"}
                answer = http.request("POST", second, body=b"{}", headers=headers)
                assert answer.status == 200
                assert len(answer.data) >= size
        with urllib3.PoolManager(ca_certs=backend.target.ca_file) as http:
            assert http.request("GET", f"{first}localnodes").json() == list(
                backend.target.addresses
            )
        seen = backend.traffic()
    assert (seen.calls, seen.connections) == (5, 2)
    assert (seen.polls, seen.poll_connections) == (1, 1)
    assert sorted(seen.calls_by_node.values()) == [2, 3]


def test_reuse_shows_one_connection_a_node_here_and_one_a_call_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import reuse
    from benchmarks.render import as_text, draw
    from benchmarks.result import Options

    monkeypatch.setattr(reuse, "_QUICK", reuse._Scale(36, (12,)))
    result = reuse.run(Options(quick=True))
    opened = {row[0]: row[3] for row in result.tables[0].rows}
    assert opened["alternator_lb"] == "12"
    assert opened["boto3, nodes in turn"] == "36"
    assert "alternator-client" in as_text(result)
    for picture in result.pictures:
        assert draw(picture, tmp_path).stat().st_size > 10_000
