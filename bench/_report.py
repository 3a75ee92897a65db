"""What benchmarks have in common: how one is written, the machine it ran on, and how figures are summed up.

A benchmark is a module with

    add_options(parser)     its options; `--json` and `--plot` are the driver's
    run(options) -> Report  measure; raises SystemExit with a message if something that it needs is missing

and a `Report`, which the driver prints, writes as JSON and draws. Set-ups that are compared are measured in turn, round after
round, so that what disturbs the machine disturbs them all alike; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

import clockworker as cw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report(Protocol):
    """A msgspec.Struct: its fields are what `--json` writes."""

    def table(self) -> str:
        """The figures, to read."""

    def plot(self, figure: Figure) -> None:
        """Draw them on an empty figure."""


class Checked(Report, Protocol):
    """Of a benchmark that has the option `--check`."""

    def failures(self) -> list[str]:
        """The figures that are not what was wanted, a line each."""


class Benchmark(Protocol):
    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, options: argparse.Namespace) -> Report: ...


class Summary(msgspec.Struct, frozen=True):
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


def summary(values: Sequence[float]) -> Summary:
    return Summary(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], to: Sequence[float]) -> Summary:
    """Of the ratios within each round."""
    return summary([value / peer for value, peer in zip(values, to, strict=True)])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in ascending order, between neighbours by linear interpolation. NaN if there are none."""
    if not ordered:
        return float("nan")
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def machine() -> dict[str, str]:
    """What the figures depend on, by name."""
    with open("/proc/cpuinfo") as info:
        models = {line.partition(":")[2].strip() for line in info if line.startswith("model name")}
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {', '.join(models) or platform.machine()}",
        "kernel": platform.release(),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "clockworker": f"{cw.__version__}, {'compiled' if cw.compiled else 'pure Python'}",
    }


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return "\n".join(
        "  ".join(cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)).rstrip()
        for row in rows
    )


def microseconds(values: list[float]) -> str:
    """Median, least and most of a figure that is in microseconds."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def progress(text: str) -> None:
    """A line on the terminal that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
