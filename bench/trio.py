"""What does a step cost on trio, with every task in a queue, beside plain trio; and what do the queues give?

- A checkpoint of one of several tasks; a task that starts another and waits for its end; a wake-up through an event. In
  instructions by valgrind's cachegrind, which are the same on a busy machine (system calls are not in them, of which there are
  as many with queues), and in CPU time of the thread, in turn, round after round.
- Shares: 8 to 1 between two queues of tasks that compute 50 us at a time.
- Latency: a task that sleeps 2 ms and computes 100 us, again and again, beside 8 tasks that compute 200 us at a time: for how
  many of their steps it waits, which says the same on a busy machine, and how late it is done, which does not. Plain trio gives
  each task a step a pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import clockworker as cw
from bench._cachegrind import total
from bench._report import Summary, columns, percentile, progress, ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PLAIN = "plain"
PERCENTS = (50, 90, 99)


class Cost(msgspec.Struct, frozen=True):
    """Of one operation. ns: round by round."""

    operation: str
    setup: str
    instructions: float | None
    ns: list[float]
    ratio: Summary  # of CPU time to plain trio's, within each round
    instruction_ratio: float | None


class Lateness(msgspec.Struct, frozen=True):
    """Of one set-up, by percentile."""

    setup: str
    steps: dict[str, float]  # of the background's, that it waits for
    late_us: dict[str, float]
    background: float  # of a core


class Trio(msgspec.Struct, frozen=True):
    trio: str
    tasks: int
    costs: list[Cost]
    share: float  # of 8 to 1
    latencies: list[Lateness]

    def table(self) -> str:
        rows = [["an operation", "", "instructions", "/ plain", "CPU ns", "/ plain"]]
        rows += [
            [
                cost.operation,
                cost.setup,
                "-" if cost.instructions is None else f"{cost.instructions:,.0f}",
                "-" if cost.instruction_ratio is None else f"{cost.instruction_ratio:.3f}",
                f"{statistics.median(cost.ns):,.0f}",
                str(cost.ratio),
            ]
            for cost in self.costs
        ]
        late = [["waits for", *(f"{p}, steps" for p in self.latencies[0].steps)]]
        late[0] += [*(f"{p}, us" for p in self.latencies[0].late_us), "background"]
        late += [
            [
                each.setup,
                *(f"{steps:.1f}" for steps in each.steps.values()),
                *(f"{us:,.0f}" for us in each.late_us.values()),
                f"{each.background:.0%}",
            ]
            for each in self.latencies
        ]
        shares = f"shares of 8 to 1: {self.share:.3f} to 1"
        return f"{columns(rows)}\n\n{columns(late)}\n\n{shares}\n\ntrio {self.trio}, {self.tasks} tasks"

    def plot(self, figure: Figure) -> None:
        """Ratios to plain trio."""
        axes = figure.add_subplot(ylabel="of plain trio's CPU time")
        names = list(dict.fromkeys(cost.operation for cost in self.costs))
        setups = list(dict.fromkeys(cost.setup for cost in self.costs if cost.setup != PLAIN))
        for number, setup in enumerate(setups):
            found = [cost.ratio.median for cost in self.costs if cost.setup == setup]
            axes.bar([x + 0.25 * number for x in range(len(names))], found, 0.25, label=setup)
        axes.set_xticks([x + 0.25 for x in range(len(names))], names)
        axes.axhline(1, color="gray", linewidth=0.5)
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--operations", type=int, default=20_000, help="a measurement of time")
    parser.add_argument(
        "--counted", type=int, default=1_000, help="operations in the shorter run under cachegrind; 0: none"
    )
    parser.add_argument("--tasks", type=int, default=20, help="at a time")
    parser.add_argument("--seconds", type=float, default=2.0, help="for shares, and for each latency")


def run(options: argparse.Namespace) -> Trio:
    if importlib.util.find_spec("trio") is None:
        raise SystemExit("trio is not installed: pip install 'clockworker[trio]'")
    import trio

    counted: dict[tuple[str, str], float] = {}
    if options.counted and shutil.which("valgrind") is None:
        print(
            "valgrind is not installed (Debian: apt-get install valgrind): no instructions are counted", file=sys.stderr
        )
    elif options.counted:
        progress("counting instructions")
        counted = instructions(options.counted, options.tasks)
    costs = times(options, counted)
    share = shares(options.seconds)
    late = [lateness(setup, options.seconds) for setup in ("plain, alone", PLAIN, "alone", "two queues")]
    return Trio(trio.__version__, options.tasks, costs, share, late)


def instructions(count: int, tasks: int) -> dict[tuple[str, str], float]:
    """Instructions an operation, by operation and set-up."""
    from bench._trio_run import OPERATIONS

    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={directory}/%p"]
        command += [sys.executable, "-m", "bench._trio_run", directory, str(count), str(tasks), *OPERATIONS]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        counted: dict[tuple[str, str], dict[int, int]] = {}
        children: dict[str, Any] = msgspec.json.decode(Path(directory, "children.json").read_bytes())
        for pid, (name, setup, operations) in children.items():
            counted.setdefault((name, setup), {})[operations] = total(Path(directory, pid).read_text())
    return {key: (of[2 * count] - of[count]) / count for key, of in counted.items()}


def times(options: argparse.Namespace, counted: dict[tuple[str, str], float]) -> list[Cost]:
    from bench._trio_run import OPERATIONS, SETUPS, once

    costs = []
    for name in OPERATIONS:
        ns: dict[str, list[float]] = {setup: [] for setup in SETUPS}
        for number, setup in itertools.product(range(options.rounds), SETUPS):
            progress(f"{name}, {setup}, round {number + 1} of {options.rounds}")
            ns[setup].append(once(name, setup, options.tasks, options.operations) / options.operations)
        for setup in SETUPS:
            own, plain = counted.get((name, setup)), counted.get((name, PLAIN))
            ratio = None if own is None or plain is None else own / plain
            costs.append(Cost(name, setup, own, ns[setup], ratios(ns[setup], ns[PLAIN]), ratio))
    return costs


def compute(us: float) -> None:
    deadline = time.thread_time_ns() + us * 1_000
    while time.thread_time_ns() < deadline:
        pass


def shares(seconds: float) -> float:
    """What a queue of share 8 had of one of share 1."""
    import trio

    from clockworker.trio import Executor

    async def busy() -> None:
        while True:
            compute(50)
            await trio.lowlevel.checkpoint()

    async def main() -> float:
        async with Executor([cw.Queue("large", 8), cw.Queue("small", 1)]) as executor:
            for queue in executor.queues():
                for _ in range(4):
                    queue.start_soon(busy)
            await trio.sleep(seconds)
            stats = executor.queue_stats()
        return stats["large"].busy_ns / stats["small"].busy_ns

    return trio.run(main)


def lateness(setup: str, seconds: float) -> Lateness:
    """From when the foreground should have woken to when its step was done."""
    import trio

    from clockworker.trio import Executor

    done: list[tuple[float, float]] = []  # when it was due, and when it was done
    ends: list[float] = []  # of the background's steps

    async def foreground() -> None:
        stop = trio.current_time() + seconds
        while trio.current_time() < stop:
            due = trio.current_time() + 0.002
            await trio.sleep_until(due)
            compute(100)
            done.append((due, trio.current_time()))

    async def background() -> None:
        while True:
            compute(200)
            ends.append(trio.current_time())
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        hogs = 0 if "alone" in setup else 8
        if setup.startswith(PLAIN):
            async with trio.open_nursery() as nursery:
                for _ in range(hogs):
                    nursery.start_soon(background)
                await foreground()
                nursery.cancel_scope.cancel()
            return
        queues = [cw.Queue("foreground", 99, scheduler=cw.LAS()), cw.Queue("background")]
        async with Executor(queues) as executor:
            for _ in range(hogs):
                executor.queue("background").start_soon(background)
            await executor.queue("foreground").spawn(foreground())

    progress(f"latency, {setup}")
    trio.run(main)
    late = sorted((when - due) * 1e6 - 100 for due, when in done)
    waited = sorted(bisect(ends, when) - bisect(ends, due) for due, when in done)
    return Lateness(
        setup,
        {f"p{percent}": percentile(waited, percent) for percent in PERCENTS},
        {f"p{percent}": percentile(late, percent) for percent in PERCENTS},
        len(ends) * 200e-6 / seconds,
    )
