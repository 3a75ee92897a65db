"""What do a spawn, a yield, a future's wake-up and a sleep cost on an executor, in time and memory, beside plain uvloop?

Times are CPU times of the thread: what else the machine does counts less, and waiting for a timer not at all. On the executor
tasks are dealt out to all of its queues. Set-ups take turns in one process, each time on a new loop.

- spawn and await: each of many tasks spawns one that returns at once, awaits it, and so on, as a server's handlers do.
- spawn all: tasks that return at once; so many are spawned, then each is awaited, most of them long since done.
- yield: `asyncio.sleep(0)`. One step of each task is its wake-up from the barrier instead.
- future ping: tasks in pairs wake each other through a new future each time; the cost is that of one wake-up.
- sleep: `asyncio.sleep(0.001)`, the task's spawn and end included.

Memory is that of fresh processes: resident bytes for each of many tasks that wait for a future, and what is left of
many that have come and gone.

Where clockworker is compiled, the same operations are measured without the compiled modules as well, in another process.

`--preempt` counts instead what the extra `preempt` costs where no queue is preemptive: the instructions of each operation with
two queues, in a process that finds greenlet and in one that does not, under valgrind's cachegrind. They are the same on a busy
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

import clockworker as cw
from bench import _overhead_schedulers
from bench._cachegrind import count_instructions
from bench._loops import Spawn, on_loop
from bench._operations import OPERATIONS, deal, finished
from bench._report import Summary, columns, progress, ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "plain"
SETUPS = {PLAIN: 0, "two queues": 2, "one queue": 1}  # how many queues
WAVE = 1_000  # tasks alive at a time while many come and go
TARGETS = {"spawn and await": 0.70, "yield": 0.80, "future ping": 1.10}  # of plain, with two queues, compiled


class Cost(msgspec.Struct, frozen=True):
    """Nanoseconds for each operation, round by round."""

    operation: str
    tasks: int
    setup: str
    ns: list[float]
    ratio: Summary  # to plain, within each round


class Memory(msgspec.Struct, frozen=True):
    setup: str
    pending: int
    bytes_per_pending: float
    finished: int
    before: int  # resident bytes
    after: int


class Counted(msgspec.Struct, frozen=True):
    """Instructions an operation, where the extra `preempt` is installed and where it is not."""

    operation: str
    tasks: int
    without: float
    with_extra: float


class Overhead(msgspec.Struct, frozen=True):
    targets: dict[str, float]
    costs: list[Cost]
    memory: list[Memory] = []
    pure: list[Cost] = []  # without the compiled modules
    counted: list[Counted] = []  # instead of all that, with --preempt

    def table(self) -> str:
        if self.counted:
            return self._counted()
        tables = [self._costs(self.costs, self.targets)]
        if self.pure:
            tables.append(f"pure Python\n{self._costs(self.pure, {})}")
        if self.memory:
            tables.append(self._memory())
        return "\n\n".join(tables)

    @staticmethod
    def _costs(costs: list[Cost], targets: dict[str, float]) -> str:
        rows = [["ns an operation: median (least-most)", "tasks", *SETUPS]]
        rows[0] += [f"{setup} / plain" for setup in SETUPS if setup != PLAIN] + ["target, two queues"] * bool(targets)
        for (operation, tasks), group in itertools.groupby(costs, lambda cost: (cost.operation, cost.tasks)):
            measured = list(group)
            row = [operation, f"{tasks:,}"]
            row += [f"{statistics.median(cost.ns):,.0f} ({min(cost.ns):,.0f}-{max(cost.ns):,.0f})" for cost in measured]
            row += [str(cost.ratio) for cost in measured if cost.setup != PLAIN]
            row += [f"{targets[operation]:.2f}"] if operation in targets else []
            rows.append(row)
        return columns(rows)

    def _counted(self) -> str:
        rows = [["instructions an operation, two queues", "tasks", "without the extra", "with", "with / without"]]
        rows += [
            [
                each.operation,
                f"{each.tasks:,}",
                f"{each.without:,.0f}",
                f"{each.with_extra:,.0f}",
                f"{each.with_extra / each.without:.4f}",
            ]
            for each in self.counted
        ]
        return columns(rows)

    def _memory(self) -> str:
        memory = [["memory", "bytes a pending task", "MiB before", "MiB after", "after / before"]]
        for m in self.memory:
            figures = [f"{m.bytes_per_pending:,.0f}", f"{m.before / 2**20:.2f}", f"{m.after / 2**20:.2f}"]
            memory.append([m.setup, *figures, f"{m.after / m.before:.4f}"])
        known = self.memory[0]
        note = (
            f"{known.pending:,} pending; before and after {known.finished:,} spawned and finished, {WAVE:,} at a time"
        )
        return f"{columns(memory)}\n{note}"

    def plot(self, figure: Figure) -> None:
        """Ratios to plain with their spread; of `--preempt`, those of instructions."""
        if self.counted:
            axes = figure.add_subplot(ylabel="instructions with the extra, of those without")
            axes.bar(
                [each.operation for each in self.counted], [each.with_extra / each.without for each in self.counted]
            )
            return
        axes = figure.add_subplot(ylabel="of plain uvloop's time")
        places = list(dict.fromkeys((cost.operation, cost.tasks) for cost in self.costs))
        setups = [setup for setup in SETUPS if setup != PLAIN]
        for number, setup in enumerate(setups):
            found = [cost.ratio for cost in self.costs if cost.setup == setup]
            medians = [ratio.median for ratio in found]
            spread = [[ratio.median - ratio.least for ratio in found], [ratio.most - ratio.median for ratio in found]]
            axes.bar([x + 0.4 * number for x in range(len(places))], medians, 0.4, yerr=spread, label=setup)
        for place, (operation, _) in enumerate(places):
            if operation in self.targets:
                axes.hlines(self.targets[operation], place - 0.2, place + 0.6, "black", label="target" * (place == 0))
        axes.set_xticks([x + 0.2 for x in range(len(places))], [f"{name}\n{tasks:,}" for name, tasks in places])
        axes.axhline(1, color="gray", linewidth=0.5)
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 1_000, 100_000], help="how many at a time")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--operations", type=int, default=25_000, help="a measurement, at least")
    parser.add_argument("--times-only", action="store_true", help="leave out memory and pure Python")
    parser.add_argument("--preempt", action="store_true", help="count what the extra `preempt` costs, and nothing else")
    parser.add_argument("--pending", type=int, default=100_000, help="tasks, to measure the memory of")
    parser.add_argument("--finished", type=int, default=1_000_000, help="tasks, to look for leaks after")
    _overhead_schedulers.add_options(parser)


def run(options: argparse.Namespace) -> Overhead | _overhead_schedulers.Schedulers:
    if options.schedulers:
        return _overhead_schedulers.run(options)
    if options.preempt:
        return Overhead({}, [], counted=with_and_without_extra(options.operations, min(options.tasks)))
    costs: list[Cost] = []
    for operation, tasks in itertools.product(OPERATIONS, options.tasks):
        costs += compare(operation, tasks, options)
    targets = TARGETS if cw.compiled else {}
    if options.times_only:
        return Overhead(targets, costs)
    memory = []
    for setup in SETUPS:
        progress(f"memory, {setup}")
        # Spawned, not forked, and one job each: a process that has not used any memory yet.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            memory.append(process.submit(measure_memory, setup, options.pending, options.finished).result())
    return Overhead(targets, costs, memory, without_compiled_modules(options) if cw.compiled else [])


def without_compiled_modules(options: argparse.Namespace) -> list[Cost]:
    """The same measurements, in a process that leaves them alone."""
    with tempfile.TemporaryDirectory() as directory:
        figures = Path(directory) / "figures.json"
        command = [sys.executable, "-m", "bench", "overhead", "--times-only", "--json", str(figures)]
        command += ["--rounds", str(options.rounds), "--operations", str(options.operations)]
        command += ["--tasks", *map(str, options.tasks)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ | {"CLOCKWORKER_PURE": "1"})
        return msgspec.json.decode(figures.read_bytes(), type=Overhead).costs


def with_and_without_extra(operations: int, tasks: int) -> list[Counted]:
    """Of what waits for no timer: how often that wakes up is the machine's."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)")
    if importlib.util.find_spec("greenlet") is None:
        raise SystemExit("greenlet is not installed: pip install 'clockworker[preempt]'")
    names = [name for name in OPERATIONS if name != "sleep"]
    found: dict[str, dict[str, float]] = {}
    for kind in ("without", "with"):
        progress(f"instructions, {kind} the extra")
        keys = {
            (name, count): str((kind, name, tasks, count)) for name in names for count in (operations, 2 * operations)
        }
        with tempfile.TemporaryDirectory() as directory:
            counted = count_instructions(Path(directory), "bench._extra_run", [*keys.values()])
        found[kind] = {
            name: (counted[keys[name, 2 * operations]] - counted[keys[name, operations]]) / operations for name in names
        }
    return [Counted(name, tasks, found["without"][name], found["with"][name]) for name in names]


def compare(operation: str, tasks: int, options: argparse.Namespace) -> list[Cost]:
    """The operation under each set-up in turn."""
    measure = OPERATIONS[operation]
    measured: dict[str, list[float]] = {setup: [] for setup in SETUPS}
    for number in range(options.rounds + 1):
        progress(f"{operation}, {tasks:,} tasks, round {number} of {options.rounds}")
        # Who goes first moves on, so that nobody always follows the same.
        for setup in [*SETUPS][number % len(SETUPS) :] + [*SETUPS][: number % len(SETUPS)]:
            at_a_time = tasks if number else min(tasks, WAVE)  # the first round warms up
            ns = on_loop(queues(setup), lambda spawns: measure(spawns, at_a_time, options.operations))  # noqa: B023
            if number:
                measured[setup].append(ns)
    return [Cost(operation, tasks, setup, ns, ratios(ns, measured[PLAIN])) for setup, ns in measured.items()]


def queues(setup: str) -> list[cw.Queue]:
    return [cw.Queue(number) for number in range(SETUPS[setup])]


def measure_memory(setup: str, pending: int, finished: int) -> Memory:
    """In a process of its own."""

    async def main(spawns: list[Spawn]) -> Memory:
        await come_and_go(spawns, 10 * WAVE)  # what is allocated once, is
        before = resident()
        await come_and_go(spawns, finished)
        after = resident()
        return Memory(setup, pending, await bytes_per_pending(spawns, pending), finished, before, after)

    return on_loop(queues(setup), main)


async def come_and_go(spawns: list[Spawn], tasks: int) -> None:
    async def task() -> None:
        await asyncio.sleep(0)

    for _ in range(0, tasks, WAVE):
        await finished([spawn(task()) for spawn in deal(spawns, WAVE)])


async def bytes_per_pending(spawns: list[Spawn], tasks: int) -> float:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def task() -> None:
        future = loop.create_future()
        futures.append(future)
        if len(futures) == tasks:
            loop.call_soon(all_wait.set_result, None)
        await future

    all_wait = loop.create_future()
    before = resident()
    running = [spawn(task()) for spawn in deal(spawns, tasks)]
    await all_wait
    size = resident() - before
    for future in futures:
        future.set_result(None)
    await finished(running)
    return size / tasks


def resident() -> int:
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size
