"""How long does it take from one task's waking another to that one's step, within a queue and between two?

Two tasks wake each other through futures: each notes the time just before it sets the other's future, and the other just after
it resumes. Beside that the wall time of a whole wake-up, without the notes. Set-ups take turns in one process, each
time on a new loop.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench._loops import Spawn, on_loop
from bench._report import Summary, columns, percentile, progress, ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "plain"
SETUPS = {PLAIN: 0, "one queue": 1, "same queue of two": 2, "different queues": 2}  # how many queues
PERCENTS = (50, 90, 99)


class Result(msgspec.Struct, frozen=True):
    """Nanoseconds for each wake-up; a figure a round."""

    setup: str
    latency_ns: dict[str, list[float]]  # by percentile: p50, p90, p99
    wakeup_ns: list[float]  # without taking notes
    p50_ratio: Summary  # to plain, within each round
    wakeup_ratio: Summary


class PingPong(msgspec.Struct, frozen=True):
    results: list[Result]

    def table(self) -> str:
        rows = [["ns: median (least-most) of the rounds", *(f"p{p} latency" for p in PERCENTS), "wake-up"]]
        rows[0] += ["p50 / plain", "wake-up / plain"]
        for result in self.results:
            cells = [*result.latency_ns.values(), result.wakeup_ns]
            figures = [f"{statistics.median(cell):,.0f} ({min(cell):,.0f}-{max(cell):,.0f})" for cell in cells]
            rows.append([result.setup, *figures, str(result.p50_ratio), str(result.wakeup_ratio)])
        return columns(rows)

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(ylabel="ns")
        for number, percent in enumerate(PERCENTS):
            found = [result.latency_ns[f"p{percent}"] for result in self.results]
            medians = [statistics.median(values) for values in found]
            below = [median - min(values) for median, values in zip(medians, found, strict=True)]
            above = [max(values) - median for median, values in zip(medians, found, strict=True)]
            axes.bar(
                [x + 0.25 * number for x in range(len(found))], medians, 0.25, yerr=[below, above], label=f"p{percent}"
            )
        axes.set_xticks([x + 0.25 for x in range(len(self.results))], [result.setup for result in self.results])
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--wakeups", type=int, default=50_000, help="of each task in each round, with and without notes"
    )


def run(options: argparse.Namespace) -> PingPong:
    latencies: dict[str, list[list[int]]] = {setup: [] for setup in SETUPS}
    wakeups: dict[str, list[float]] = {setup: [] for setup in SETUPS}
    for number in range(options.rounds + 1):  # the first one warms up
        progress(f"round {number} of {options.rounds}")
        for setup, count in SETUPS.items():
            queues = [cw.Queue(key) for key in range(count)]
            places = (0, 1) if setup == "different queues" else (0, 0)
            started = time.monotonic_ns()
            on_loop(queues, lambda spawns: play(spawns, places, options.wakeups))  # noqa: B023
            elapsed = time.monotonic_ns() - started
            noted = on_loop(queues, lambda spawns: play_noting(spawns, places, options.wakeups))  # noqa: B023
            if number:
                wakeups[setup].append(elapsed / (2 * options.wakeups))
                latencies[setup].append(sorted(noted))
    by_percent = {
        setup: {f"p{percent}": [percentile(one, percent) for one in rounds] for percent in PERCENTS}
        for setup, rounds in latencies.items()
    }
    return PingPong(
        [
            Result(
                setup,
                by_percent[setup],
                wakeups[setup],
                ratios(by_percent[setup]["p50"], by_percent[PLAIN]["p50"]),
                ratios(wakeups[setup], wakeups[PLAIN]),
            )
            for setup in SETUPS
        ]
    )


async def play(spawns: list[Spawn], places: tuple[int, int], wakeups: int) -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future(), loop.create_future()]

    async def player(own: int) -> None:
        for _ in range(wakeups):
            await futures[own]
            futures[own] = loop.create_future()
            futures[1 - own].set_result(None)

    running = [spawns[place](player(own)) for own, place in enumerate(places)]
    futures[0].set_result(None)
    for one in running:
        await one


async def play_noting(spawns: list[Spawn], places: tuple[int, int], wakeups: int) -> list[int]:
    """Returns the nanoseconds of each wake-up."""
    loop = asyncio.get_running_loop()
    clock = time.monotonic_ns
    noted: list[int] = []
    note = noted.append
    set_at = clock()
    futures = [loop.create_future(), loop.create_future()]

    async def player(own: int) -> None:
        nonlocal set_at
        for _ in range(wakeups):
            await futures[own]
            note(clock() - set_at)
            futures[own] = loop.create_future()
            set_at = clock()
            futures[1 - own].set_result(None)

    running = [spawns[place](player(own)) for own, place in enumerate(places)]
    set_at = clock()
    futures[0].set_result(None)
    for one in running:
        await one
    return noted
