"""Sessions: the tests on each Python and with the oldest dependencies, the linter, the types."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests", "oldest"]

# What the tests themselves need of the extra "dev"; the rest is for other sessions.
TEST_TOOLS = ("hypothesis", "pytest", "pytest-timeout")


def requirements(section: str, name: str) -> list[str]:
    """Return requirements as setup.cfg declares them."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).with_name("setup.cfg"), encoding="utf-8")
    return config[section][name].split()


def oldest() -> list[str]:
    """Return a pin on the oldest version of everything that users need to have."""
    declared = requirements("options", "install_requires")
    for extra in ("boto3", "requests"):
        declared += requirements("options.extras_require", extra)
    return [each.replace(">=", "==") for each in declared]


def test_tools() -> list[str]:
    """Return what the tests need besides the package."""
    dev = requirements("options.extras_require", "dev")
    return [each for each in dev if each.partition(">=")[0] in TEST_TOOLS]


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests with the newest dependencies."""
    session.install("-e", ".[boto3,requests,testing]", *test_tools())
    session.run("pytest", *session.posargs)


# The oldest botocore imports "cgi", which Python 3.13 has no more.
@nox.session(name="oldest", python=None if sys.version_info < (3, 13) else "3.12")
def tests_with_oldest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that setup.cfg declares."""
    session.install("-e", ".[boto3,requests,testing]", *oldest(), *test_tools())
    session.run("pytest", *session.posargs)


@nox.session(name="no-lean")
def tests_without_the_lean_path(session: nox.Session) -> None:
    """Run the tests on urllib3's own code throughout, with the newest dependencies."""
    session.install("-e", ".[boto3,requests,testing]", *test_tools())
    session.run("pytest", "--no-lean", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.install("-e", ".[dev]")
    session.run("mypy", "--strict")
    session.run("mypy", "--strict", "examples", "noxfile.py")
