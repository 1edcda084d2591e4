"""The public names are typed: mypy --strict agrees with what users are promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import alternator_lb

HERE = Path(__file__).parent


def test_the_public_names() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(HERE / "typing" / "public_names.py")],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(alternator_lb.__file__).parent / "py.typed").exists()


def test_every_public_name_is_there_and_documented() -> None:
    for name in alternator_lb.__all__:
        thing = getattr(alternator_lb, name)
        assert name == "__version__" or thing.__doc__
    with pytest.raises(AttributeError):
        alternator_lb.no_such_name  # noqa: B018
    assert set(dir(alternator_lb)) == {*alternator_lb.__all__, "AlternatorAdapter"}


def test_what_needs_an_extra_says_so_and_nothing_else_does() -> None:
    code = """
import sys
sys.modules["requests"] = sys.modules["boto3"] = None
from alternator_lb import *
import alternator_lb
for use in (
    lambda: alternator_lb.AlternatorAdapter,
    lambda: AlternatorNodes("http", 8000, "127.0.0.1").client("dog"),
):
    try:
        use()
    except MissingExtraError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("AlternatorAdapter needs requests")
    assert first.endswith("pip install 'alternator-lb[requests]'")
    assert second.startswith("AlternatorNodes.session() needs boto3")
    assert second.endswith("pip install 'alternator-lb[boto3]'")
