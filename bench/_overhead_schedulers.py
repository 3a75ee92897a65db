"""What does each scheduler cost? A table of `bench overhead`: operations on an executor of two queues, beside plain uvloop.

In time, set-ups take turns in one process, as everywhere in that benchmark. In instructions (`--instructions`) each
measurement is a child of one process under valgrind's cachegrind, which counts what the process does and not what the kernel
does for it: such counts are the same on any day and under any load, to a thousandth. Runs of n and of 2n operations are
subtracted, so imports and start-up drop out.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench._cachegrind import count_instructions
from bench._loops import on_loop
from bench._operations import Measure, spawn_and_await, wake_ups, yields
from bench._report import Summary, columns, progress, ratios, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "plain"
SCHEDULERS: dict[str, Callable[[], cw.Scheduler]] = {
    "RunnableFifo": cw.RunnableFifo,
    "ArrivalFifo": cw.ArrivalFifo,
    "QLAS": cw.QLAS,
    "LAS": cw.LAS,
}
SETUPS = (PLAIN, *SCHEDULERS)


class Row(msgspec.Struct, frozen=True):
    """An operation of the table."""

    measure: Measure
    tasks: int
    made: int  # operations that `measure` makes for each that it is asked for
    target: float  # of plain's cost, at most


ROWS = {
    "yield, 20 tasks": Row(yields, 20, 2, 0.75),
    "spawn and await, one after the other": Row(spawn_and_await, 1, 1, 0.70),
    "one task that awaits what one callback brings": Row(wake_ups, 1, 1, 1.0),
}


class Cell(msgspec.Struct, frozen=True):
    """One operation with one set-up."""

    row: str
    setup: str
    cost: list[float]  # nanoseconds round by round, or instructions
    ratio: Summary  # to plain, within each round


class Schedulers(msgspec.Struct, frozen=True):
    unit: str
    targets: dict[str, float]
    cells: list[Cell]

    def table(self) -> str:
        rows = [[f"{self.unit} an operation; of plain's: median (least-most)", *SETUPS, "target"]]
        for row in ROWS:
            cells = [cell for cell in self.cells if cell.row == row]
            if cells:
                rows.append([row, *(_shown(cell) for cell in cells), f"{self.targets[row]:.2f}"])
        return columns(rows)

    def failures(self) -> list[str]:
        return [
            f"{cell.row}, {cell.setup}: {cell.ratio.median:.3f} of plain uvloop's {self.unit}; at most "
            f"{self.targets[cell.row]:.2f} were wanted"
            for cell in self.cells
            if cell.ratio.median > self.targets[cell.row] and cell.setup != PLAIN
        ]

    def plot(self, figure: Figure) -> None:
        """Ratios to plain with their spread."""
        axes = figure.add_subplot(ylabel=f"of plain uvloop's {self.unit}")
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        for number, setup in enumerate(SCHEDULERS):
            found = [cell.ratio for cell in self.cells if cell.setup == setup]
            medians = [ratio.median for ratio in found]
            spread = [[ratio.median - ratio.least for ratio in found], [ratio.most - ratio.median for ratio in found]]
            axes.bar([x + 0.2 * number for x in range(len(rows))], medians, 0.2, yerr=spread, label=setup)
        for place, row in enumerate(rows):
            axes.hlines(self.targets[row], place - 0.1, place + 0.7, "black", label="target" * (place == 0))
        axes.set_xticks([x + 0.3 for x in range(len(rows))], rows, fontsize="small")
        axes.axhline(1, color="gray", linewidth=0.5)
        axes.legend()


def _shown(cell: Cell) -> str:
    cost = f"{summary(cell.cost).median:,.0f}"
    return cost if cell.setup == PLAIN else f"{cost}; {cell.ratio}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--schedulers", action="store_true", help="what each scheduler costs, and nothing else")
    parser.add_argument("--instructions", action="store_true", help="with --schedulers: count them; needs valgrind")
    parser.add_argument("--check", action="store_true", help="with --schedulers: status 1 if a target is missed")


def run(options: argparse.Namespace) -> Schedulers:
    targets = {name: row.target for name, row in ROWS.items()}
    if options.instructions:
        return Schedulers("instructions", targets, counted(options.operations // 20))
    cells = []
    for name in ROWS:
        costs: dict[str, list[float]] = {setup: [] for setup in SETUPS}
        for number in range(options.rounds + 1):
            progress(f"{name}, round {number} of {options.rounds}")
            # The set-up that goes first moves on, so that none always follows the same.
            for setup in SETUPS[number % len(SETUPS) :] + SETUPS[: number % len(SETUPS)]:
                ns = measure(name, setup, options.operations)
                if number:  # the first round warms up
                    costs[setup].append(ns)
        cells += [Cell(name, setup, costs[setup], ratios(costs[setup], costs[PLAIN])) for setup in SETUPS]
    return Schedulers("ns", targets, cells)


def measure(name: str, setup: str, operations: int) -> float:
    """Nanoseconds an operation of this row."""
    row = ROWS[name]
    make = SCHEDULERS.get(setup)
    queues = [] if make is None else [cw.Queue(number, scheduler=make()) for number in range(2)]
    return on_loop(queues, lambda spawns: row.measure(spawns, row.tasks, operations))


def counted(operations: int) -> list[Cell]:
    """By instructions, in runs of so many operations and of twice as many."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)")
    keys = [(name, setup, times * operations) for name in ROWS for setup in SETUPS for times in (1, 2)]
    with tempfile.TemporaryDirectory() as directory:
        totals = count_instructions(Path(directory), "bench._overhead_run", [str(key) for key in keys])
    cells = []
    for name, row in ROWS.items():
        cost = {
            setup: (totals[str((name, setup, 2 * operations))] - totals[str((name, setup, operations))])
            / (row.made * operations)
            for setup in SETUPS
        }
        cells += [Cell(name, setup, [cost[setup]], ratios([cost[setup]], [cost[PLAIN]])) for setup in SETUPS]
    return cells
