"""How quickly does foreground work get through beside background work that wants all of the core?

The question, and the figures, of the Rust crate's benchmark of this name. Foreground: 1,000 tasks a second, 1-3 segments of
100-500 us of CPU time with sleeps of 100-500 us between; that is 60 % of a core. Background: tasks that do the same without
end, 8 of them, more than the core has left. Shares are 99 to 1, as there: foreground first, and no more than a foothold for
the other. Sleeps are the event loop's own, and 1 ms in fact: libuv's timers count in milliseconds, as tokio's do. With
`--timer exact` they are true to the microsecond, by a timerfd whose every setting costs CPU time (7 us in a virtual machine),
which is then counted against who takes turns most often. Our queues have the default scheduler, or with `--scheduler las`
another. Five set-ups take turns, round after round, with the same arrivals:

- plain uvloop, without and with the background tasks;
- Clockworker, without and with them;
- two processes on one core, plain uvloop each, the foreground niced to -20 (if permitted, else 0) and the background to 19.

Before that they are simulated (_simulated_queues.py), with the very policy and the very schedulers, on a core where nothing
else takes time: what is seen there no executor can undo. Alone the foreground has what it would have if background steps could
be cut at any time for nothing, so that is the least that its scheduler leaves it with. `--rounds 0` does no more.

`--preempt` adds a sixth, Clockworker with the background tasks in a process that does not find greenlet: what the extra
`preempt` costs where no queue is preemptive.

Foreground latencies are from sending. Background work is CPU time used in whole segments, of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench import _hidden
from bench._loops import Spawn, on_loop
from bench._microsleep import LoopTimer, MicrosecondTimer, Timer
from bench._open_loop import (
    START_S,
    Background,
    Kind,
    Load,
    Measured,
    Work,
    await_both,
    connect,
    cores,
    generate,
    serve,
)
from bench._report import Summary, columns, microseconds, percentile, progress, ratios, summary
from bench._simulated_queues import Simulated, simulate
from clockworker.shards.config._schedulers import SCHEDULERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK = Kind(segments=(1, 3), cpu_us=(100, 500), sleep_us=(100, 500))
ALONE, PLAIN, OURS_ALONE, OURS, NICED = SETUPS = (
    "plain alone",
    "plain",
    "clockworker alone",
    "clockworker",
    "two niced processes",
)
WITHOUT_EXTRA = "clockworker, no greenlet"
TIMERS: dict[str, type[LoopTimer | MicrosecondTimer]] = {"loop": LoopTimer, "exact": MicrosecondTimer}
PERCENTS = (50, 90, 99)
EXTRA_TARGETS = {
    "foreground p99 total, with the extra / without": 1.01,
    "background work, with the extra / without": 0.99,
}
CURVE = (*range(1, 100), 99.5, 99.9)
P99, WORK, DELAY = (
    "foreground p99 total, clockworker / plain alone",
    "background work, clockworker / plain",
    "foreground p50 queue delay, clockworker, us",
)
TARGETS = {P99: 1.10, WORK: 0.97, DELAY: float(TASK.cpu_us[1])}  # one background step
LAS = "las"
LAS_TARGETS = TARGETS | {P99: 1.05, WORK: 0.99}


class Result(msgspec.Struct, frozen=True):
    """Of one set-up. Microseconds; a figure a round."""

    setup: str
    queue_delay_us: dict[str, list[float]]  # by percentile: p50, p90, p99
    total_us: dict[str, list[float]]
    background: list[float]  # work, of one core
    cpu: list[float]  # of the foreground's thread, all that it does, of one core
    curve_us: list[float]  # of the total: its percentiles CURVE over all rounds


class Priority(msgspec.Struct, frozen=True):
    load: float  # the foreground's, of one core
    nice: list[int]  # of the foreground's process and the background's
    timer: str
    scheduler: str
    late_us: float  # 1 % of the arrivals were sent later than planned by this, at the median of all measurements
    percents: list[float]  # of curve_us
    simulated: list[Simulated]
    results: list[Result]
    verdicts: dict[str, Summary]
    targets: dict[str, float]

    def table(self) -> str:
        return "\n\n".join([self._exact(), *([self._measured()] if self.results else [])])

    def _exact(self) -> str:
        rows = [["simulated, us", *(f"p{p} total" for p in PERCENTS), f"p99 / {ALONE}", "background work"]]
        for each in self.simulated:
            figures = [each.p50_us, each.p90_us, each.p99_us]
            rows.append([each.setup, *(f"{figure:,.0f}" for figure in figures)])
            rows[-1] += [f"{each.p99_us / self.simulated[0].p99_us:.2f}", f"{each.background:.1%}"]
        return columns(rows)

    def _measured(self) -> str:
        rows = [["us: median (least-most) of the rounds", *(f"p{p} delay" for p in PERCENTS)]]
        rows[0] += [*(f"p{p} total" for p in PERCENTS), "background work", "CPU"]
        for result in self.results:
            cells = [*result.queue_delay_us.values(), *result.total_us.values()]
            work = summary([100 * share for share in result.background])
            background = f"{work.median:.1f} ({work.least:.1f}-{work.most:.1f}) %" if work.most else "-"
            rows.append([result.setup, *map(microseconds, cells), background, f"{statistics.median(result.cpu):.0%}"])
        verdicts = [["", "median (least-most)", "target"]]
        verdicts += [[name, str(verdict), f"{self.targets[name]:.2f}"] for name, verdict in self.verdicts.items()]
        facts = f"foreground load {self.load:.0%}; niced to {self.nice[0]} and {self.nice[1]}; timer: {self.timer}; "
        facts += f"scheduler: {self.scheduler}; "
        facts += f"1 % of arrivals sent more than {self.late_us:,.0f} us late"
        return f"{columns(rows)}\n\n{columns(verdicts)}\n\n{facts}"

    def plot(self, figure: Figure) -> None:
        """The percentiles of each set-up."""
        axes = figure.add_subplot(xlabel="percentile", ylabel="foreground latency, ms", yscale="log", xscale="logit")
        for result in self.results:
            work = statistics.median(result.background)
            label = result.setup + (f" (background {work:.0%} of the core)" if work else "")
            axes.plot(
                [percent / 100 for percent in self.percents],
                [latency / 1e3 for latency in result.curve_us],
                "--" if result.setup in (ALONE, OURS_ALONE) else "-",
                label=label,
            )
        ticks = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each set-up in each round, after --warm-up")
    parser.add_argument("--simulated-seconds", type=float, default=50.0, help="of arrivals, by the simulation's clock")
    parser.add_argument("--warm-up", type=float, default=0.3, help="seconds that are not counted")
    parser.add_argument("--rate", type=float, default=1_000, help="foreground tasks a second")
    parser.add_argument("--background", type=int, default=8, help="tasks")
    parser.add_argument("--timer", choices=list(TIMERS), default="loop", help="what the sleeps are made of")
    parser.add_argument("--preempt", action="store_true", help="once more without the extra `preempt`")
    parser.add_argument("--shares", type=int, nargs=2, default=[99, 1], metavar=("FOREGROUND", "BACKGROUND"))
    parser.add_argument("--scheduler", choices=list(SCHEDULERS), default="fifo", help="of both of our queues")


def run(options: argparse.Namespace) -> Priority:
    simulated = exact(options)
    scheduler = options.scheduler
    targets = LAS_TARGETS if scheduler == LAS else TARGETS
    load = load_of(options, 0)
    if options.rounds == 0:
        return Priority(load.utilisation(), [0, 0], options.timer, scheduler, 0.0, [*CURVE], simulated, [], {}, targets)
    setups = [*SETUPS, WITHOUT_EXTRA] if options.preempt else [*SETUPS]
    measured: dict[str, list[Measured]] = {setup: [] for setup in setups}
    late_us = []
    server_core, generator_core = cores()
    context = multiprocessing.get_context("spawn")
    # A process for each part, which all rounds share: they take turns, so nothing runs beside what is measured.
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        generator, server, niced, background = (stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(4))
        without = stack.enter_context(ProcessPoolExecutor(1, context, _hidden.hide, ("greenlet",)))
        nice = [niced.submit(renice, -20).result(), background.submit(renice, 19).result()]
        for number in range(options.rounds):
            load = load_of(options, number)
            for setup in setups:
                progress(f"{setup}, round {number + 1} of {options.rounds}")
                path = str(directory / f"{number} {setup}")
                job = functools.partial(serve_foreground, setup, path, load, server_core, options)
                work = background.submit(serve_background, path, server_core, options) if setup == NICED else None
                result = {NICED: niced, WITHOUT_EXTRA: without}.get(setup, server).submit(job)
                late_us.append(await_both(generator.submit(generate, path, load, generator_core), result))
                share = work.result(START_S) if work else result.result().background
                measured[setup].append(msgspec.structs.replace(result.result(), background=share))
    results = [sum_up(setup, rounds) for setup, rounds in measured.items()]
    by_setup = {result.setup: result for result in results}
    figures = (
        ratios(by_setup[OURS].total_us["p99"], by_setup[ALONE].total_us["p99"]),
        ratios(by_setup[OURS].background, by_setup[PLAIN].background),
        summary(by_setup[OURS].queue_delay_us["p50"]),
    )
    verdicts = dict(zip(targets, figures, strict=True))
    if options.preempt:
        ours, other = by_setup[OURS], by_setup[WITHOUT_EXTRA]
        cost = ratios(ours.total_us["p99"], other.total_us["p99"]), ratios(ours.background, other.background)
        verdicts |= dict(zip(EXTRA_TARGETS, cost, strict=True))
        targets = targets | EXTRA_TARGETS
    return Priority(
        load.utilisation(),
        nice,
        options.timer,
        scheduler,
        statistics.median(late_us),
        [*CURVE],
        simulated,
        results,
        verdicts,
        targets,
    )


def load_of(options: argparse.Namespace, seed: int) -> Load:
    return Load({"foreground": TASK}, {"foreground": 1}, options.rate, options.warm_up, options.seconds, seed)


def exact(options: argparse.Namespace) -> list[Simulated]:
    load = msgspec.structs.replace(load_of(options, 0), duration_s=options.simulated_seconds)
    first, second = options.shares
    make, tasks = SCHEDULERS[options.scheduler], options.background
    return [
        simulate(ALONE, load, TASK, 0),
        simulate(PLAIN, load, TASK, tasks),
        simulate(OURS_ALONE, load, TASK, 0, (first, second), make),
        simulate(OURS, load, TASK, tasks, (first, second), make),
    ]


def renice(value: int) -> int:
    """This process. Returns what it is then: raising the priority may not be permitted."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, value)
    return os.getpriority(os.PRIO_PROCESS, 0)


def serve_foreground(setup: str, path: str, load: Load, core: int, options: argparse.Namespace) -> Measured:
    os.sched_setaffinity(0, [core])
    queues = []
    if setup in (OURS_ALONE, OURS, WITHOUT_EXTRA):
        queues = [
            cw.Queue(name, share, scheduler=SCHEDULERS[options.scheduler]())
            for name, share in zip(("foreground", "background"), options.shares, strict=True)
        ]
    tasks = options.background if setup in (PLAIN, OURS, WITHOUT_EXTRA) else 0

    async def main(spawns: list[Spawn]) -> Measured:
        timer: Timer = TIMERS[options.timer]()
        work: Work = Elsewhere(path) if setup == NICED else Background(TASK, tasks, spawns[-1], timer)
        measured = await serve(path, load, spawns[0], timer, work)
        timer.close()
        return measured

    return on_loop(queues, main)


class Elsewhere:
    """Background work in the process of `serve_background`."""

    def __init__(self, path: str) -> None:
        self._sock = connect(background_path(path))

    def count(self) -> None:
        self._sock.send(b"c")

    async def stop(self) -> float:
        self._sock.close()
        return 0.0  # the other process knows


def serve_background(path: str, core: int, options: argparse.Namespace) -> float:
    """Background work alone, counted from the first byte that comes through a Unix socket to the end of the connection."""
    os.sched_setaffinity(0, [core])

    async def main(spawns: list[Spawn]) -> float:
        timer: Timer = TIMERS[options.timer]()
        work = Background(TASK, options.background, spawns[0], timer)
        counted = asyncio.get_running_loop().create_future()

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            work.count()
            await reader.read()
            counted.set_result(await work.stop())
            writer.close()

        server = await asyncio.start_unix_server(count, background_path(path))
        share: float = await counted
        server.close()
        timer.close()
        return share

    return on_loop([], main)


def background_path(path: str) -> str:
    return f"{path} background"


def sum_up(setup: str, rounds: list[Measured]) -> Result:
    delays = [sorted(measured.latencies["foreground"].queue_delay_us) for measured in rounds]
    totals = [sorted(measured.latencies["foreground"].total_us) for measured in rounds]
    pooled = sorted(value for total in totals for value in total)
    return Result(
        setup,
        {f"p{percent}": [percentile(values, percent) for values in delays] for percent in PERCENTS},
        {f"p{percent}": [percentile(values, percent) for values in totals] for percent in PERCENTS},
        [measured.background for measured in rounds],
        [measured.cpu for measured in rounds],
        [percentile(pooled, percent) for percent in CURVE],
    )
