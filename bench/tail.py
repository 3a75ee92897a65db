"""How long do short tasks wait behind long ones, under each scheduler?

One queue, open-loop arrivals by a Poisson process at 80 % load. Three mixes of thin tasks and fat ones:

- crate: that of the Rust crate's benchmark. 99 % thin of 0-4 segments, 1 % fat of 5-9, each 100-500 us of CPU time with a
  sleep of 100-1,000 us after it. There 1,000 come in a second, which is a load of 0.615.
- most thin: 90 % thin of 1-3 segments, 10 % fat of 5-10, with the same sleeps between. Most of the load is thin, as in the
  crate's first version (0-3, 5-10).
- halves: thin and fat make half of the load each. Thin: one segment of 100-300 us; fat: 20-50 of them, with yields between.

The load is what plain uvloop's thread uses of the core, event loop and benchmark included; a first run of it finds the rate of
arrivals that makes so much. Then plain uvloop and the schedulers take turns, round after round, with the same arrivals.
Latencies are from the arrival's sending to the task's end.

FairSRPT, EDF and FairGroups know the kind of each task: kinds are their groups. Under EDF thin tasks are due in 10 ms and fat
ones in 60. To the others each task is a group of its own.

Before that all of them are simulated (_simulated.py), with the very schedulers, on a core where nothing else takes time and
nothing is in the way: those figures are the same each time. Beside them stand two that know more than anybody can: SRPT by
the true remaining time of each task, and EDF on a core that can be taken away in the middle of a step.

- mix: as above, at the load asked for. "waiting" is what is left of the mean when the task's own work and sleeps are taken
  off; "nobody waits" is these alone, and no order has less.
- deadlines: the part of all tasks that are done when they are due, at loads from 0.8 to 1.2. Beyond 1 there is more work than
  time, and EDF, which always does what is latest, meets less than who gives up on some.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench._loops import Spawn, on_loop
from bench._microsleep import MicrosecondTimer
from bench._open_loop import Background, Kind, Load, Measured, await_both, cores, generate, serve
from bench._report import Summary, columns, microseconds, percentile, progress, ratios
from bench._simulated import Remaining, Served, ideal, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THIN, FAT = "thin", "fat"
PLAIN, FIFO = "plain uvloop", "RunnableFifo"
DUE_S = {THIN: 0.010, FAT: 0.060}
SCHEDULERS: dict[str, Callable[[], cw.Scheduler]] = {
    FIFO: cw.RunnableFifo,
    "ArrivalFifo": cw.ArrivalFifo,
    "LAS": cw.LAS,
    "QLAS": cw.QLAS,
    "FairGroups": cw.FairGroups,
    "FairSRPT": cw.FairSRPT,
    "EDF": partial(cw.EDF, DUE_S),
}
BY_KIND = ("FairGroups", "FairSRPT", "EDF")
TRUE_SRPT, IDEAL_EDF, ALONE = "SRPT, exact", "EDF, ideal", "nobody waits"
LOADS = (0.8, 0.9, 1.0, 1.2)
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
        {THIN: Kind((0, 4), (100, 500), (100, 1_000), True), FAT: Kind((5, 9), (100, 500), (100, 1_000), True)},
        {THIN: 99, FAT: 1},
    ),
    "most thin": Mix(
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


class Simulated(msgspec.Struct, frozen=True):
    """Microseconds, exact. waiting_us: of the mean, without the task's own work and sleeps."""

    mix: str
    setup: str
    kind: str
    tasks: int
    mean_us: float
    waiting_us: float
    p50_us: float
    p99_us: float


class Deadlines(msgspec.Struct, frozen=True):
    """The part of all tasks that were done when they were due, by load."""

    mix: str
    setup: str
    met: dict[str, float]


class Tail(msgspec.Struct, frozen=True):
    load: float
    simulated: list[Simulated]
    deadlines: list[Deadlines]
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
        measured = [f"{columns(rows)}\n\nload {self.load:.0%}"] if self.results else []
        return "\n\n".join([*self._exact(), *measured])

    def _exact(self) -> list[str]:
        rows = [
            ["simulated, us", "", "tasks", "mean", "waiting", "p50", "p99", "mean / RunnableFifo", "waiting", "p99"]
        ]
        peers = {(each.mix, each.kind): each for each in self.simulated if each.setup == FIFO}
        for each in self.simulated:
            peer = peers[each.mix, each.kind]
            figures = [each.mean_us, each.waiting_us, each.p50_us, each.p99_us]
            ratios = [each.mean_us / peer.mean_us, each.waiting_us / peer.waiting_us, each.p99_us / peer.p99_us]
            row = [f"{each.mix}, {each.setup}", each.kind, f"{each.tasks:,}", *(f"{figure:,.0f}" for figure in figures)]
            rows.append([*row, *(f"{ratio:.2f}" for ratio in ratios)])
        met = [
            ["simulated, deadlines met", *(f"load {load}" for load in LOADS)],
            *([f"{line.mix}, {line.setup}", *(f"{part:.4f}" for part in line.met.values())] for line in self.deadlines),
        ]
        return [columns(rows), columns(met)]

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
            names = SETUPS if self.results else ()
            axes.set_xticks([x + 0.2 for x in range(len(names))], names, rotation=30)
            axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.3, help="of each set-up in each round, after --warm-up")
    parser.add_argument("--warm-up", type=float, default=0.3, help="seconds that are not counted")
    parser.add_argument("--load", type=float, default=0.8, help="of one core")
    parser.add_argument("--simulated-seconds", type=float, default=20.0, help="of arrivals, by the simulation's clock")


def run(options: argparse.Namespace) -> Tail:
    server_core, generator_core = cores()
    context = multiprocessing.get_context("spawn")
    results: list[Result] = []
    simulated, deadlines = exact(options.load, options.simulated_seconds)
    if options.rounds == 0:
        return Tail(options.load, simulated, deadlines, results, TARGETS)
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
    return Tail(options.load, simulated, deadlines, results, TARGETS)


def exact(load: float, seconds: float) -> tuple[list[Simulated], list[Deadlines]]:
    simulated, deadlines = [], []
    for name, mix in MIXES.items():
        work = Load(mix.kinds, mix.weights, 1, 0, 0, 0).utilisation()

        def arrivals(load: float) -> Load:
            return Load(mix.kinds, mix.weights, load / work, 1, seconds, 1)  # noqa: B023

        alone = {kind: shortest(arrivals(load), kind) for kind in mix.kinds}
        least = {kind: of_kind.mean_us() for kind, of_kind in alone.items()}
        for setup, make in {**SCHEDULERS, TRUE_SRPT: Remaining}.items():
            progress(f"{name}, {setup}, simulated")
            served = simulate(arrivals(load), make(), grouped=setup in BY_KIND)
            simulated += [exactly(name, setup, kind, of_kind, least[kind]) for kind, of_kind in served.items()]
        simulated += [exactly(name, ALONE, kind, of_kind, least[kind]) for kind, of_kind in alone.items()]
        for setup in (FIFO, "LAS", "FairSRPT", "EDF", IDEAL_EDF):
            progress(f"{name}, {setup}, deadlines")
            met = {}
            for each in LOADS:
                if setup == IDEAL_EDF:
                    served = ideal(arrivals(each), DUE_S)
                else:
                    served = simulate(arrivals(each), SCHEDULERS[setup](), grouped=setup in BY_KIND)
                done = [of_kind.within(DUE_S[kind]) * len(of_kind.total_ns) for kind, of_kind in served.items()]
                met[str(each)] = sum(done) / sum(len(of_kind.total_ns) for of_kind in served.values())
            deadlines.append(Deadlines(name, setup, met))
    return simulated, deadlines


def shortest(load: Load, kind: str) -> Served:
    """What such tasks take if nobody is there beside them."""
    return Served(
        [
            1_000 * (sum(each.cpu_us) + sum(each.sleeps_us))
            for each in load.arrivals()
            if each.kind == kind and each.counted
        ]
    )


def exactly(mix: str, setup: str, kind: str, served: Served, least_us: float) -> Simulated:
    mean, p50, p99 = served.mean_us(), served.percentile_us(50), served.percentile_us(99)
    return Simulated(mix, setup, kind, len(served.total_ns), mean, mean - least_us, p50, p99)


def serve_tasks(setup: str, path: str, load: Load, core: int) -> Measured:
    os.sched_setaffinity(0, [core])

    async def main(spawns: list[Spawn]) -> Measured:
        timer = MicrosecondTimer()
        by_kind = None
        if setup in BY_KIND:
            queue = cw.current_executor().queue("tasks")
            by_kind = {kind: queue.group(kind).spawn for kind in load.kinds}
        work = Background(load.kinds[THIN], 0, spawns[0], timer)
        measured = await serve(path, load, spawns[0], timer, work, by_kind)
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
