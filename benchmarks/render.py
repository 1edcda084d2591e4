"""Turns results into text for a terminal, a reStructuredText report and PNG pictures."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .result import Bars, Cell, Grid, Lines, Picture, Result, Table

__all__ = ["as_text", "draw", "write_report"]

_INK, _FAINT, _LIMIT, _BAD = "#222222", "#6b6b6b", "#dcdcdc", "#c62828"
_REPORT = "REPORT.rst"
_PACKAGES = ("alternator-lb", "alternator-client", "boto3", "botocore", "urllib3")


def as_text(result: Result) -> str:
    """Return a result's tables for a terminal."""
    parts = [f"{result.title}\n{'=' * len(result.title)}", textwrap.fill(result.about, 100)]
    for table in result.tables:
        parts.append(f"{table.title}\n{_grid(table)}")
    return "\n\n".join(parts)


def write_report(results: Sequence[Result], folder: Path, *, quick: bool) -> Path:
    """Write one report of all results; its pictures must be beside it. Returns the path."""
    title = "Benchmarks"
    parts = [f"{'=' * len(title)}\n{title}\n{'=' * len(title)}", _circumstances(quick)]
    for result in results:
        parts.append(f"{result.title}\n{'=' * len(result.title)}")
        parts.append(textwrap.fill(result.about, 100))
        for picture in result.pictures:
            parts.append(f".. image:: {picture.name}.png\n   :alt: {picture.title}")
        parts += [_rst_table(table) for table in result.tables]
    path = folder / _REPORT
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def draw(picture: Picture, folder: Path) -> Path:
    """Write a picture as a PNG; returns its path."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "text.color": _INK, "axes.edgecolor": _FAINT}):
        if isinstance(picture, Bars):
            figure = _draw_bars(picture, pyplot)
        elif isinstance(picture, Grid):
            figure = _draw_grid(picture, pyplot)
        else:
            figure = _draw_lines(picture, pyplot)
        path = folder / f"{picture.name}.png"
        figure.savefig(path, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.2)
        pyplot.close(figure)
    return path


def _grid(table: Table) -> str:
    rows = [table.headers, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headers))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(table.headers), rule, *map(line, table.rows)])


def _rst_table(table: Table) -> str:
    lines = [f".. list-table:: {table.title}", "   :header-rows: 1", ""]
    for row in [table.headers, *table.rows]:
        for column, cell in enumerate(row):
            lines.append(f"   {'* -' if column == 0 else '  -'} {cell}".rstrip())
    return "\n".join(lines)


def _circumstances(quick: bool) -> str:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    text = (
        f"Made by ``python -m benchmarks{' --quick' if quick else ''}`` on "
        f"{datetime.date.today().isoformat()}, as it came out. {platform.python_implementation()} "
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores; {', '.join(versions)}; {_nginx_version()} answers, on loopback. "
        "Numbers are medians, with the quartiles in brackets; comparisons are paired: the "
        "variants take turns, each in a process of its own. Trust the ratios rather than the "
        "microseconds."
    )
    if quick:
        text += " **This was a quick run: it shows that the benchmarks work, and little more.**"
    return textwrap.fill(text, 100)


def _nginx_version() -> str:
    from .backend import find_nginx

    told = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=False)
    return told.stderr.strip().removeprefix("nginx version: ").replace("/", " ") or "nginx"


def _headline(figure: Any, picture: Picture) -> None:
    inches = figure.get_size_inches()[1]
    figure.text(0.0, 1 + 0.34 / inches, picture.title, size=14, weight="bold", ha="left")
    figure.text(0.0, 1 + 0.08 / inches, picture.subtitle, size=10, color=_FAINT, ha="left")


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_FAINT)
    axes.set_axisbelow(True)


def _draw_lines(picture: Lines, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(8.4, 4.6), layout="constrained")
    _headline(figure, picture)
    _bare(axes)
    if picture.x_log:
        axes.set_xscale("log")
    if picture.y_log:
        axes.set_yscale("log")
    ticks = sorted({x for series in picture.series for x, _ in series.points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_xlabel(picture.x_label, color=_FAINT)
    axes.set_ylabel(picture.y_label, color=_FAINT)
    for series in picture.series:
        x, y = zip(*series.points, strict=True)
        if series.role == "limit":
            axes.plot(x, y, color=_LIMIT, linewidth=9, solid_capstyle="round", zorder=1)
        else:
            axes.plot(x, y, color=series.color, linewidth=2, marker="o", markersize=5, zorder=2)
    if not picture.y_log:
        axes.set_ylim(bottom=0)
    _name_lines(axes, picture)
    return figure


def _name_lines(axes: Any, picture: Lines) -> None:
    """Write each line's name beside its end."""
    figure = axes.figure
    figure.canvas.draw()  # places the axes, so that data can be turned into pixels
    ends = [axes.transData.transform(series.points[-1])[1] for series in picture.series]
    for series, end, place in zip(
        picture.series, ends, _apart(ends, figure.dpi * 0.19), strict=True
    ):
        axes.annotate(
            series.label,
            xy=series.points[-1],
            xytext=(14, (place - end) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            color=_FAINT if series.role == "limit" else series.color,
            weight="normal" if series.role == "limit" else "bold",
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places near the wanted ones, in the same order, with a gap between any two."""
    groups: list[list[int]] = []  # of indices whose places touch; each is centred as a whole

    def middle(group: list[int]) -> float:
        return sum(wanted[index] for index in group) / len(group)

    for index in sorted(range(len(wanted)), key=lambda index: wanted[index]):
        group = [index]
        while (
            groups and middle(group) - middle(groups[-1]) < gap * (len(group) + len(groups[-1])) / 2
        ):
            group = groups.pop() + group
        groups.append(group)
    places = [0.0] * len(wanted)
    for group in groups:
        for rank, index in enumerate(group):
            places[index] = middle(group) + (rank - (len(group) - 1) / 2) * gap
    return places


def _draw_bars(picture: Bars, pyplot: Any) -> Any:
    rows = sum(len(bars) + 1.4 for _, bars in picture.groups)
    figure, axes = pyplot.subplots(figsize=(8.4, 0.34 * rows + 0.7), layout="constrained")
    _headline(figure, picture)
    _bare(axes)
    axes.grid(axis="x", color="#eeeeee")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(picture.x_label, color=_FAINT)
    longest = max(bar.high for _, bars in picture.groups for bar in bars)
    axes.set_xlim(0, longest * 1.3)
    place = 0.0
    places, labels = [], []
    for title, bars in picture.groups:
        axes.text(0, place, title, weight="bold", va="center")
        place += 1.0
        for bar in bars:
            axes.barh(place, bar.value, color=bar.color, height=0.72)
            axes.plot([bar.low, bar.high], [place, place], color=_INK, linewidth=1)
            axes.text(bar.high + longest * 0.012, place, bar.text, va="center", color=_INK)
            places.append(place)
            labels.append(bar.label)
            place += 1.0
        place += 0.4
    axes.set_yticks(places, labels, color=_INK)
    axes.set_ylim(place - 0.4, -0.7)
    return figure


def _draw_grid(picture: Grid, pyplot: Any) -> Any:
    rows, columns = len(picture.rows), len(picture.columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(2.5 * columns, 1.9 * rows + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    _headline(figure, picture)
    for (label, color), line in zip(picture.rows.items(), grid, strict=True):
        line[0].set_ylabel(picture.y_label, color=_FAINT)
        line[0].set_title(label, color=color, weight="bold", size=11, loc="left", pad=8)
        for (name, times), axes in zip(picture.columns.items(), line, strict=True):
            _draw_cell(axes, picture, picture.cells[label, name], color)
            for time in times:
                axes.axvline(time, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        line[-1].annotate(
            picture.limit[1],
            (picture.x_end, picture.limit[0]),
            xytext=(4, 0),
            textcoords="offset points",
            size=8,
            color=_FAINT,
            va="center",
            annotation_clip=False,
        )
    for axes in grid[-1]:
        axes.set_xlabel(picture.x_label, color=_FAINT)
    for name, axes in zip(picture.columns, grid[0], strict=True):
        axes.annotate(
            name,
            (0.5, 1),
            xytext=(0, 26),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            size=12,
            weight="bold",
        )
    return figure


def _draw_cell(axes: Any, picture: Grid, cell: Cell, color: str) -> None:
    _bare(axes)
    axes.set_yscale("log")
    axes.set_xlim(0, picture.x_end)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.axhline(picture.limit[0], color=_LIMIT, linewidth=1, zorder=1)
    for points, marker, its_color in ((cell.points, ".", color), (cell.failed, "x", _BAD)):
        if points:
            size = 9 if marker == "." else 30
            axes.scatter(*zip(*points, strict=True), s=size, marker=marker, color=its_color, lw=1)
    if cell.hanging:
        axes.axvspan(min(cell.hanging), picture.x_end, color=_BAD, alpha=0.12, lw=0)
    axes.text(
        0.98,
        0.93,
        cell.text,
        transform=axes.transAxes,
        ha="right",
        va="top",
        size=9,
        color=_FAINT if cell.good else _BAD,
        weight="normal" if cell.good else "bold",
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
    )
