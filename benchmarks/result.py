"""What a benchmark found, as data: tables and pictures that `render` turns into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .progress import Progress

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Claim",
    "Grid",
    "Lines",
    "Options",
    "Picture",
    "Result",
    "Series",
    "Table",
    "expected",
]


@dataclass(frozen=True)
class Options:
    """How to run a benchmark."""

    quick: bool = False
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True)
class Table:
    """Rows of text under headers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Claim:
    """What is expected of this library, and what was found; None: the machine was too noisy."""

    text: str
    found: str
    holds: bool | None

    @classmethod
    def at_most(cls, what: str, found: float, limit: float) -> Claim:
        """Return the claim that a ratio is no larger than a limit."""
        return cls(f"{what}: at most {limit:.2f}", f"{found:.2f}", round(found, 2) <= limit)


def expected(claims: Sequence[Claim]) -> Table:
    """Return the table that says which claims hold."""
    verdict = {True: "PASS", False: "MISS", None: "too noisy"}
    return Table(
        "Expected of alternator_lb",
        ["", "found", "verdict"],
        [[claim.text, claim.found, verdict[claim.holds]] for claim in claims],
    )


@dataclass(frozen=True)
class Series:
    """One line of a picture. ``role`` "limit" draws what cannot be passed, behind the others."""

    label: str
    color: str
    points: Sequence[tuple[float, float]]
    role: Literal["measured", "limit"] = "measured"


@dataclass(frozen=True)
class Lines:
    """A picture with lines."""

    name: str
    title: str
    subtitle: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar, with the spread around its end and a text after it."""

    label: str
    color: str
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Bars:
    """A picture with groups of horizontal bars; a group's title stands above it."""

    name: str
    title: str
    subtitle: str
    x_label: str
    groups: Sequence[tuple[str, Sequence[Bar]]]


@dataclass(frozen=True)
class Cell:
    """One client under one fault: calls as (when, how long), and when those began that hang."""

    points: Sequence[tuple[float, float]]
    failed: Sequence[tuple[float, float]]
    hanging: Sequence[float]
    text: str
    good: bool


@dataclass(frozen=True)
class Grid:
    """A picture with dots over time: a row a client, a column a fault, and when the faults came.

    ``rows`` gives a color to each label, ``columns`` the times at which something happened.
    """

    name: str
    title: str
    subtitle: str
    x_label: str
    y_label: str
    x_end: float
    limit: tuple[float, str]
    rows: Mapping[str, str]
    columns: Mapping[str, Sequence[float]]
    cells: Mapping[tuple[str, str], Cell]


Picture = Lines | Bars | Grid


@dataclass(frozen=True)
class Result:
    """What one benchmark found. ``about`` says in a paragraph what was done and what it means."""

    name: str
    title: str
    about: str
    tables: Sequence[Table]
    pictures: Sequence[Picture] = ()
