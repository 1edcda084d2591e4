"""The command line, as a user calls it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import boto3
import pytest

from alternator_lb import __version__, demo
from alternator_lb.__main__ import main
from alternator_lb.testing import LocalCluster

SECONDS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3) as cluster:
        yield cluster


def run(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=SECONDS, check=False, **more
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error::ResourceWarning", "-m", "alternator_lb", *arguments]


def signed(cluster: LocalCluster) -> list[str]:
    return ["--key", cluster.access_key, "--secret", cluster.secret_key]


def tables(cluster: LocalCluster) -> list[str]:
    client = boto3.client(
        "dynamodb",
        endpoint_url=cluster.url,
        region_name="us-east-1",
        aws_access_key_id=cluster.access_key,
        aws_secret_access_key=cluster.secret_key,
    )
    try:
        return client.list_tables()["TableNames"]
    finally:
        client.close()


class TestDemo:
    def test_shows_a_cluster_at_work_and_ends_well(self):
        ended = run("demo", "--items", "60")
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        lines = ended.stdout.splitlines()
        told, _, hosts = lines[3].partition(": ")
        assert told.endswith("told of 3 nodes")
        port = lines[0].rpartition(" ")[2]
        nodes = [f"{host}:{port}" for host in hosts.split(", ")]
        assert len(set(nodes)) == 3
        written = lines.index("write 60 items")
        assert [re.sub(r", .*", "", line).split() for line in lines[written + 1 : written + 4]] == [
            [node, "20", "calls"] for node in nodes
        ]
        stopped = hosts.partition(",")[0]
        for step in (
            f"while {stopped} stops",
            f"until {stopped} is back",
            "60 items from all again",
        ):
            assert f"\nread {step}" in ended.stdout
        without = lines.index("read 60 items without it")
        assert lines[without + 1].endswith("; down")
        assert [line.split()[1] for line in lines[without + 1 : without + 4]] == ["0", "30", "30"]
        assert ended.stdout.count("\n  ok  ") == 4
        assert "FAIL" not in ended.stdout

    def test_tls_and_a_single_node(self):
        ended = run("demo", "--nodes", "1", "--items", "10", "--tls", "--threads", "2")
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        assert "https://dog.scylladb.com" in ended.stdout
        assert "stops" not in ended.stdout

    def test_a_cluster_that_is_there_already(self, cluster):
        before = [node.report.calls for node in cluster.nodes]
        ended = run("demo", "--endpoint", cluster.url, "--items", "60", *signed(cluster))
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        assert all(f"{node.address}:{cluster.port}" in ended.stdout for node in cluster.nodes)
        served = [
            node.report.calls - known for node, known in zip(cluster.nodes, before, strict=True)
        ]
        assert min(served) >= 40
        assert tables(cluster) == []

    def test_unsigned(self):
        with LocalCluster(nodes=2, authorization=False) as cluster:
            environment = {
                name: value for name, value in os.environ.items() if not name.startswith("AWS_")
            }
            ended = run("demo", "--endpoint", cluster.url, "--items", "10", env=environment)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout

    def test_a_wrong_secret_is_an_error_in_one_line(self, cluster, capsys):
        status = main(["demo", "--endpoint", cluster.url, "--key", "alternator", "--secret", "no"])
        assert status == 1
        error = capsys.readouterr().err
        assert "UnrecognizedClientException" in error
        assert error.count("\n") == 1

    def test_items_that_are_not_read_as_they_were_written(self, cluster, capsys, monkeypatch):
        values = iter(range(10_000))
        monkeypatch.setattr(
            demo, "_item", lambda n: {"id": {"S": str(n)}, "n": {"N": str(next(values))}}
        )
        assert main(["demo", "--endpoint", cluster.url, "--items", "60", *signed(cluster)]) == 1
        out, error = capsys.readouterr()
        assert "none failed" in out
        assert re.search(r"\b1[0-3] FAILED", out)  # ten, and those that were under way then
        assert "was read as" in error
        assert tables(cluster) == []

    def test_interrupted(self, cluster):
        # Whoever runs the tests in the background may have SIGINT ignored, which is inherited.
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from alternator_lb.__main__ import main; sys.exit(main(sys.argv[1:]))"
        )
        arguments = ["demo", "--endpoint", cluster.url, "--items", "100000", *signed(cluster)]
        shown = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with shown:
            for line in shown.stdout:
                if line.startswith("write"):
                    break
            shown.send_signal(signal.SIGINT)
            _, error = shown.communicate(timeout=SECONDS)
        assert shown.returncode == 130
        assert error == "alternator-lb: interrupted\n"
        assert tables(cluster) == []

    def test_nobody_reads_on(self, cluster):
        shown = subprocess.Popen(
            command("demo", "--endpoint", cluster.url, "--items", "60", *signed(cluster)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with shown:
            shown.stdout.readline()
            shown.stdout.close()
            error = shown.stderr.read()
            status = shown.wait(SECONDS)
        assert (status, error) == (1, "")
        assert tables(cluster) == []

    def test_a_live_table_on_a_terminal(self):
        text, status = run_on_terminal("demo", "--items", "30")
        assert status == 0, text
        assert "calls in this step" in text
        assert "\x1b[" in text
        assert text.rstrip().splitlines()[-1].strip().startswith("\x1b[1;32m✓")

    @pytest.mark.parametrize("how", ["--plain", "TERM=dumb"])
    def test_plain_lines_on_a_terminal(self, cluster, how):
        plain = ["--plain"] if how == "--plain" else []
        terminal = "dumb" if how == "TERM=dumb" else "xterm-256color"
        text, status = run_on_terminal(
            "demo", "--endpoint", cluster.url, *signed(cluster), *plain, terminal=terminal
        )
        assert status == 0, text
        assert "\x1b" not in text

    def test_without_the_extra(self):
        code = (
            "import sys\n"
            "sys.modules['moto'] = None\n"
            "from alternator_lb.__main__ import main\n"
            "sys.exit(main(['demo']))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS
        )
        assert ended.returncode == 2
        assert "pip install 'alternator-lb[testing]'" in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_without_boto3(self, cluster):
        code = (
            "import sys\n"
            "sys.modules['boto3'] = None\n"
            "from alternator_lb.__main__ import main\n"
            f"sys.exit(main(['demo', '--endpoint', {cluster.url!r}]))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS
        )
        assert ended.returncode == 2
        assert "boto3" in ended.stderr
        assert "pip install 'alternator-lb[testing]'" in ended.stderr

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--endpoint", "http://127.0.0.1:1", "--nodes", "3"], "--nodes"),
            (["--endpoint", "http://127.0.0.1:1", "--tls"], "--tls"),
            (["--endpoint", "http://127.0.0.1:1", "--key", "k"], "--secret"),
            (["--key", "k", "--secret", "s"], "--endpoint"),
            (["--insecure"], "--endpoint"),
            (["--items", "0"], "'0'"),
            (["--nodes", "many"], "'many'"),
        ],
    )
    def test_what_does_not_go_together(self, arguments, told, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["demo", *arguments])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("calls", "first", "held"),
        [
            ([100, 100, 100], "up", True),
            ([98, 101, 101], "up", True),
            ([97, 102, 101], "up", False),
            ([0, 150, 150], "up", False),
            ([0, 150, 150], "down", True),
            ([0, 146, 154], "down", False),
            ([10_000, 10_200, 10_100], "up", True),
            ([10_000, 11_000, 10_500], "up", False),
        ],
    )
    def test_what_is_even(self, calls, first, held):
        step = demo.Step("read", sum(calls), {})
        step.after = {str(number): demo.Count(count) for number, count in enumerate(calls)}
        step.after["0"] = demo.Count(calls[0], state=first)
        assert demo._check_even([step]).held is held


class TestNodes:
    def test_lists_the_nodes(self, cluster):
        ended = run("nodes", cluster.url)
        assert (ended.returncode, ended.stderr) == (0, "")
        title, *lines = ended.stdout.splitlines()
        assert re.split("  +", title) == ["NODE", "STATE", "SINCE", "NEXT PROBE", "WHY"]
        assert [line.split()[:2] for line in lines] == [
            [f"{address}:{cluster.port}", "up"] for address in cluster.addresses
        ]
        assert lines[0].endswith("it answered /localnodes")
        assert lines[1].endswith("it answered a probe")

    def test_says_which_node_is_down_and_why(self, capsys):
        with LocalCluster(nodes=3) as cluster:
            cluster.nodes[0].stop()
            cluster.nodes[2].freeze()
            seeds = [f"{cluster.addresses[0]}:{cluster.port}", cluster.addresses[1]]
            assert main(["nodes", *seeds]) == 0
        _, first, second, third = capsys.readouterr().out.splitlines()
        assert re.search(r" down +\S+ s  in \S+ s +did not .*: Connection refused$", first)
        assert re.search(r" up +\S+ s +it answered /localnodes$", second)
        assert re.search(r" down +\S+ s  in \S+ s +did not .*: timed out$", third)

    def test_nobody_there(self, capsys):
        with LocalCluster(nodes=2) as cluster:
            url = cluster.url
        assert main(["nodes", url]) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert url.removeprefix("http://") in error
        assert "refused" in error
        assert error.count("\n") == 1

    def test_tls(self, capsys):
        with LocalCluster(nodes=2, tls="name-only") as cluster:
            trust = ["--ca-certs", str(cluster.ca_path)]
            assert main(["nodes", cluster.url]) == 1
            assert "certificate" in capsys.readouterr().err
            assert main(["nodes", cluster.url, *trust]) == 1
            assert main(["nodes", cluster.url, "--insecure"]) == 0
            capsys.readouterr()
            named = ["--server-hostname", cluster.server_name]
            assert main(["nodes", cluster.url, *trust, *named]) == 0
        out, error = capsys.readouterr()
        assert out.count(" up ") == 2
        assert error == ""

    @pytest.mark.parametrize(
        "seeds",
        [["http://127.0.0.1:1/path"], ["http://127.0.0.1:1", "https://127.0.0.1:1"]],
    )
    def test_a_seed_that_cannot_be(self, seeds, capsys):
        assert main(["nodes", *seeds]) == 2
        assert seeds[-1] in capsys.readouterr().err


def test_version():
    assert __version__ in run("--version").stdout


def test_help(capsys):
    assert main([]) == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "demo --endpoint" in out
    assert "nodes http://" in out


def run_on_terminal(*arguments: str, terminal: str = "xterm-256color") -> tuple[str, int]:
    """Run a command on a terminal of its own; return what it showed, and its exit status."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    settings = {"TERM": terminal, "COLUMNS": "100", "LINES": "40", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **settings}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as shown:
        os.close(theirs)
        parts = []
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and select.select([ours], [], [], SECONDS)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            parts.append(part)
        os.close(ours)
        return b"".join(parts).decode(), shown.wait(SECONDS)
