"""What the documentation says is true: its snippets and examples run, its tables are complete."""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alternator_lb.settings import Settings
from alternator_lb.testing import LocalCluster

from .conftest import make_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CHANGELOG.rst", *sorted((ROOT / "docs").glob("*.rst"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# A block of Python, and the indented or empty lines that follow.
_SNIPPET = re.compile(r"^\.\. code-block:: python\n((?:\n|[ ]{4}.*\n)+)", re.MULTILINE)
_ROW = re.compile(r"^   \* - ``(\w+)``\n     - (.+)\n     - (.+)\n", re.MULTILINE)
_LINK = re.compile(r"`[^`<]+ <([^>]+)>`_")


def snippets() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _SNIPPET.finditer(text):
            code = inspect.cleandoc(match[1]) + "\n"
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(code, id=f"{page.name}:{line}"))
    return found


def section(page: Path, title: str) -> str:
    text = page.read_text(encoding="utf-8")
    parts = re.split(r"^(.+)\n[=~-]+\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def clean_environment() -> dict[str, str]:
    """No settings of the machine, and the package that is under test."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error::ResourceWarning"}


# -- snippets and examples -------------------------------------------------------------------------


def put_in(cluster: LocalCluster, code: str) -> str:
    """Write a real cluster into a snippet, in the place of the addresses that stand for one."""
    there = {
        "10.0.0.1": cluster.addresses[0],
        "10.0.0.2": cluster.addresses[1],
        "8000": str(cluster.port),
        "8043": str(cluster.port),
        "alternator.example.com": cluster.server_name,
    }
    if cluster.ca_path is not None and cluster.client_cert is not None:
        there["/etc/alternator/ca.pem"] = cluster.ca_path
        there["/etc/alternator/client.pem"], there["/etc/alternator/client.key"] = (
            cluster.client_cert
        )
    return re.sub("|".join(map(re.escape, there)), lambda match: there[match[0]], code)


@pytest.mark.parametrize("code", snippets())
def test_a_snippet_runs(code: str, tmp_path: Path) -> None:
    if "def test_" in code:
        run_as_tests(code, tmp_path)
    elif "10.0.0.1" not in code:
        run(code)
    elif "https:" in code:
        with LocalCluster(tls="name-only", client_ca=True) as cluster:
            run(put_in(cluster, code))
            assert sum(node.report.calls for node in cluster.nodes) > 0
    else:
        with LocalCluster() as cluster:
            make_table(cluster)
            run(put_in(cluster, code))
            assert sum(node.report.accepted for node in cluster.nodes) > 1


def run(code: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "a snippet", "exec"), names)
    if "client" in names:
        names["client"].close()


def run_as_tests(code: str, tmp_path: Path) -> None:
    (tmp_path / "test_snippet.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path],
        cwd=tmp_path,
        env={**clean_environment(), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_on_a_cluster_of_its_own(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, example],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_with_endpoint(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalCluster() as cluster:
        monkeypatch.setattr(sys, "argv", [str(example), "--endpoint", cluster.url])
        runpy.run_path(str(example), run_name="__main__")
        assert sum(node.report.calls for node in cluster.nodes) > 0
    assert capsys.readouterr().out


def test_there_are_snippets_and_examples() -> None:
    assert len(snippets()) >= 7
    assert len(EXAMPLES) >= 4


# -- tables, links, versions, commands -------------------------------------------------------------


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = {name: default for name, default, _ in _ROW.findall(section(PAGES[0], "Settings"))}
    fields = {field.name: f"``{default_of(field)!r}``" for field in dataclasses.fields(Settings)}
    missing = [name for name in fields if name not in rows]
    assert not missing, "README.rst, section Settings, lacks these rows:\n" + "\n".join(
        f"   * - ``{name}``\n     - {fields[name]}\n     - What it does." for name in missing
    )
    unknown = [name for name in rows if name not in fields]
    assert not unknown, f"README.rst, section Settings, has rows for what is no setting: {unknown}"
    wrong = {name: default for name, default in fields.items() if rows[name] != default}
    assert not wrong, f"README.rst, section Settings, has other defaults than these: {wrong}"
    assert list(rows) == list(fields), "README.rst, section Settings: the order is that of the code"


def default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def test_the_table_of_localcluster_is_that_of_the_code() -> None:
    rows = [name for name, _, _ in _ROW.findall(section(ROOT / "docs/testing.rst", "Arguments"))]
    assert rows == list(inspect.signature(LocalCluster).parameters)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_linked_and_packed() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"<{page.relative_to(ROOT).as_posix()}>`_" in readme


def test_the_supported_versions_are_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    declared = config["options"]["install_requires"] + extras["boto3"] + extras["requests"]
    text = section(PAGES[0], "Supported versions")
    for requirement in declared.split():
        name, oldest = requirement.split(">=")
        assert f"{name} {oldest} or newer" in text
    for classifier in config["metadata"]["classifiers"].splitlines():
        version = re.search(r"Python :: (3\.\d+)$", classifier)
        assert version is None or version[1] in text


def test_ci_runs_the_command_of_the_readme() -> None:
    command = re.search(r'command=\$\(sed -n "(.+)" README\.rst\)', (ROOT / ".ci/run").read_text())
    assert command is not None
    found = subprocess.run(
        ["sed", "-n", command[1].replace("\\\\", "\\"), ROOT / "README.rst"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shown = section(PAGES[0], "Run the tests")
    assert found.strip() in shown
    assert found.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/python -m pytest"
    )
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_is_correct_rst(page: Path) -> None:
    core = pytest.importorskip("docutils.core")
    writer = importlib.import_module("docutils.writers.null").Writer()
    problems = io.StringIO()
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": problems, "raw_enabled": 0}
    core.publish_string(
        page.read_text(encoding="utf-8"), writer=writer, settings_overrides=settings
    )
    assert problems.getvalue() == ""
