"""How long do short tasks wait behind long ones, under each scheduler?

One queue, open-loop arrivals by a Poisson process at 80 % load. Two mixes of thin tasks and fat ones:

- crate: that of the Rust crate's benchmark. 90 % thin of 1-3 segments, 10 % fat of 5-10, each 100-500 us of CPU time with
  sleeps of 100-1,000 us between. Most of the load is thin.
- halves: thin and fat make half of the load each. Thin: one segment of 100-300 us; fat: 20-50 of them, with yields between.

The load is what plain uvloop's thread uses of the core, event loop and benchmark included; a first run of it finds the rate of
arrivals that makes so much. Then plain uvloop and the schedulers take turns, round after round, with the same arrivals.
Latencies are from the arrival's sending to the task's end.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench._loops import Spawn, on_loop
from bench._microsleep import MicrosecondTimer
from bench._open_loop import Background, Kind, Load, Measured, await_both, cores, generate, serve
from bench._report import Summary, columns, microseconds, percentile, progress, ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THIN, FAT = "thin", "fat"
PLAIN, FIFO = "plain uvloop", "RunnableFifo"
SCHEDULERS: dict[str, type[cw.Scheduler]] = {
    FIFO: cw.RunnableFifo,
    "ArrivalFifo": cw.ArrivalFifo,
    "LAS": cw.LAS,
    "QLAS": cw.QLAS,
}
SETUPS = (PLAIN, *SCHEDULERS)
PERCENTS = (50, 90, 99)


class Mix(msgspec.Struct, frozen=True):
    kinds: dict[str, Kind]
    weights: dict[str, float]  # by number of tasks


def halves(thin: Kind, fat: Kind) -> Mix:
    """Half of the load each."""
    return Mix({THIN: thin, FAT: fat}, {THIN: fat.mean_cpu_us(), FAT: thin.mean_cpu_us()})


MIXES = {
    "crate": Mix(
        {THIN: Kind((1, 3), (100, 500), (100, 1_000)), FAT: Kind((5, 10), (100, 500), (100, 1_000))}, {THIN: 9, FAT: 1}
    ),
    "halves": halves(Kind((1, 1), (100, 300), (0, 0)), Kind((20, 50), (100, 300), (0, 0))),
}
# p99 under LAS and QLAS, of that under RunnableFifo. In the crate's mix a thin task waits for other thin ones rather than for
# fat ones, and least attained service prefers who has just come to who is nearly done: it is there to compare.
TARGET_MIX, TARGETS = "halves", {THIN: 0.5, FAT: 2.0}


class Result(msgspec.Struct, frozen=True):
    """Microseconds; a figure a round."""

    mix: str
    setup: str
    kind: str
    tasks: int  # over all rounds
    cpu: list[float]  # of the server's thread, of one core
    total_us: dict[str, list[float]]  # by percentile: p50, p90, p99
    p99_ratio: Summary  # to that under RunnableFifo, within each round
    pooled_p99_us: float  # over all rounds at once


class Tail(msgspec.Struct, frozen=True):
    load: float
    results: list[Result]
    targets: dict[str, float]

    def table(self) -> str:
        rows = [
            ["us: median (least-most) of the rounds", "", "tasks", *(f"p{p}" for p in PERCENTS), "p99 / RunnableFifo"]
        ]
        rows[0] += ["target", "CPU"]
        aimed_at = {(TARGET_MIX, "LAS"), (TARGET_MIX, "QLAS")}
        for result in self.results:
            row = [f"{result.mix}, {result.setup}", result.kind, f"{result.tasks:,}"]
            row += [*map(microseconds, result.total_us.values()), str(result.p99_ratio)]
            row += [
                f"{self.targets[result.kind]:.2f}" if (result.mix, result.setup) in aimed_at else "",
                f"{statistics.median(result.cpu):.0%}",
            ]
            rows.append(row)
        return f"{columns(rows)}\n\nload {self.load:.0%}"

    def plot(self, figure: Figure) -> None:
        """The 99th percentiles with their spread."""
        for place, mix in enumerate(MIXES, 1):
            axes = figure.add_subplot(1, len(MIXES), place, title=mix, ylabel="p99, ms", yscale="log")
            for number, kind in enumerate((THIN, FAT)):
                found = [result.total_us["p99"] for result in self.results if (result.mix, result.kind) == (mix, kind)]
                medians = [statistics.median(values) / 1e3 for values in found]
                below = [median - min(values) / 1e3 for median, values in zip(medians, found, strict=True)]
                above = [max(values) / 1e3 - median for median, values in zip(medians, found, strict=True)]
                axes.bar([x + 0.4 * number for x in range(len(found))], medians, 0.4, yerr=[below, above], label=kind)
            axes.set_xticks([x + 0.2 for x in range(len(SETUPS))], SETUPS, rotation=30)
            axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.3, help="of each set-up in each round, after --warm-up")
    parser.add_argument("--warm-up", type=float, default=0.3, help="seconds that are not counted")
    parser.add_argument("--load", type=float, default=0.8, help="of one core")


def run(options: argparse.Namespace) -> Tail:
    server_core, generator_core = cores()
    context = multiprocessing.get_context("spawn")
    results = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        generator, server = (stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(2))
        for mix_name, mix in MIXES.items():
            measured: dict[str, list[Measured]] = {setup: [] for setup in SETUPS}
            rate = options.load / Load(mix.kinds, mix.weights, 1, 0, 0, 0).utilisation()

            def measure(setup: str, rate: float, seed: int) -> Measured:
                load = Load(mix.kinds, mix.weights, rate, options.warm_up, options.seconds, seed)  # noqa: B023
                path = str(directory / f"{mix_name} {setup} {seed}")  # noqa: B023
                served = server.submit(serve_tasks, setup, path, load, server_core)
                await_both(generator.submit(generate, path, load, generator_core), served)
                return served.result()

            progress(f"{mix_name}, how many arrivals make the load")
            rate *= options.load / measure(PLAIN, rate, -1).cpu
            for number in range(options.rounds):
                for setup in SETUPS:
                    progress(f"{mix_name}, {setup}, round {number + 1} of {options.rounds}")
                    measured[setup].append(measure(setup, rate, number))
            results += [sum_up(mix_name, setup, kind, measured) for kind in (THIN, FAT) for setup in SETUPS]
    return Tail(options.load, results, TARGETS)


def serve_tasks(setup: str, path: str, load: Load, core: int) -> Measured:
    os.sched_setaffinity(0, [core])

    async def main(spawns: list[Spawn]) -> Measured:
        timer = MicrosecondTimer()
        measured = await serve(path, load, spawns[0], timer, Background(load.kinds[THIN], 0, spawns[0], timer))
        timer.close()
        return measured

    return on_loop([cw.Queue("tasks", scheduler=SCHEDULERS[setup]())] if setup in SCHEDULERS else [], main)


def sum_up(mix: str, setup: str, kind: str, measured: dict[str, list[Measured]]) -> Result:
    rounds = [sorted(one.latencies[kind].total_us) for one in measured[setup]]
    peer = [percentile(sorted(one.latencies[kind].total_us), 99) for one in measured[FIFO]]
    percentiles = {f"p{percent}": [percentile(values, percent) for values in rounds] for percent in PERCENTS}
    pooled = sorted(value for values in rounds for value in values)
    ratio = ratios(percentiles["p99"], peer)
    return Result(
        mix, setup, kind, len(pooled), [one.cpu for one in measured[setup]], percentiles, ratio, percentile(pooled, 99)
    )
