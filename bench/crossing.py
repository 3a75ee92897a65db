"""Does a flood of calls from another shard into its `background` queue spoil a shard's `foreground`?

Foreground: the tasks of `priority`, 1,000 a second, 60 % of a core, sent by a process on another core; shares are 99 to 1. On
that core there is a second shard too, which runs when the sender does not (SCHED_IDLE), and has `--in-flight` calls
under way at any time to methods that run in `background`. Four set-ups take turns, round after round, with the same arrivals:

- quiet: the second shard does nothing;
- work: calls of 100-500 us of CPU time;
- empty: calls that do nothing, as many as go through: what they cost is the taking in and the answering;
- one way: the same without answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

import clockworker as cw
from bench._microsleep import MicrosecondTimer
from bench._open_loop import Load, Measured, await_both, burn, cores, generate, serve
from bench._report import Summary, columns, microseconds, percentile, progress, ratios, summary
from bench.priority import TASK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUIET, WORK, EMPTY, ONE_WAY = SETUPS = ("quiet", "work", "empty", "one way")
PERCENTS = (50, 90, 99)
TARGET = 1.2  # of the foreground's 99th percentile, to quiet
RING_CAPACITY = 1 << 20


class Result(msgspec.Struct, frozen=True):
    """Of one set-up; a figure a round."""

    setup: str
    total_us: dict[str, list[float]]  # foreground latencies from sending, by percentile
    calls_per_second: list[float]
    p99_ratio: Summary  # to quiet, within each round


class Crossing(msgspec.Struct, frozen=True):
    load: float  # the foreground's, of one core
    late_us: float  # 1 % of the arrivals were sent later than planned by this, at the median of all measurements
    target: float
    results: list[Result]

    def table(self) -> str:
        rows = [
            ["us: median (least-most) of the rounds", *(f"p{p}" for p in PERCENTS), "p99 / quiet", "target", "calls/s"]
        ]
        for result in self.results:
            target = "" if result.setup == QUIET else f"{self.target:.2f}"
            rate = f"{statistics.median(result.calls_per_second):,.0f}"
            rows.append(
                [result.setup, *map(microseconds, result.total_us.values()), str(result.p99_ratio), target, rate]
            )
        facts = f"foreground load {self.load:.0%}; 1 % of arrivals sent more than {self.late_us:,.0f} us late"
        return f"{columns(rows)}\n\n{facts}"

    def plot(self, figure: Figure) -> None:
        """The 99th percentiles with their spread."""
        axes = figure.add_subplot(ylabel="foreground p99, ms")
        found = [summary(result.total_us["p99"]) for result in self.results]
        medians = [each.median / 1e3 for each in found]
        errors = [
            [(each.median - each.least) / 1e3 for each in found],
            [(each.most - each.median) / 1e3 for each in found],
        ]
        axes.bar([result.setup for result in self.results], medians, yerr=errors)


class Calm(msgspec.Struct, frozen=True):
    """What one measurement brings."""

    foreground: Measured
    calls_per_second: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each set-up in each round, after --warm-up")
    parser.add_argument("--warm-up", type=float, default=0.3, help="seconds that are not counted")
    parser.add_argument("--rate", type=float, default=1_000, help="foreground tasks a second")
    parser.add_argument("--in-flight", type=int, default=64, help="calls")


def run(options: argparse.Namespace) -> Crossing:
    measured: dict[str, list[Calm]] = {setup: [] for setup in SETUPS}
    late_us = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        generator = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        for number in range(options.rounds):
            load = Load({"foreground": TASK}, {"foreground": 1}, options.rate, options.warm_up, options.seconds, number)
            for setup in SETUPS:
                progress(f"{setup}, round {number + 1} of {options.rounds}")
                late, calm = measure(generator, setup, str(directory / f"{number} {setup}"), load, options.in_flight)
                late_us.append(late)
                measured[setup].append(calm)
    p99 = {
        setup: [percentile(sorted(calm.foreground.latencies["foreground"].total_us), 99) for calm in rounds]
        for setup, rounds in measured.items()
    }
    results = [
        Result(
            setup,
            {
                f"p{percent}": [
                    percentile(sorted(calm.foreground.latencies["foreground"].total_us), percent) for calm in rounds
                ]
                for percent in PERCENTS
            },
            [calm.calls_per_second for calm in rounds],
            ratios(p99[setup], p99[QUIET]),
        )
        for setup, rounds in measured.items()
    ]
    return Crossing(load.utilisation(), statistics.median(late_us), TARGET, results)


def measure(generator: ProcessPoolExecutor, setup: str, path: str, load: Load, in_flight: int) -> tuple[float, Calm]:
    """One set-up once. How late the sender was, and the rest."""
    server_core, other_core = cores()
    bells = [cw.create_doorbell(2) for _ in range(2)]
    rings = [cw.create_ring(RING_CAPACITY) for _ in range(2)]  # from 0, from 1
    # Forked after the descriptors are there; with nothing but this in the parent.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(1, context) as server, ProcessPoolExecutor(1, context) as caller:
            flood = functools.partial(call_all_the_time, setup, in_flight)
            served = server.submit(
                on_shard, 0, server_core, bells, rings, functools.partial(serve_foreground, setup, path, load)
            )
            called = caller.submit(on_shard, 1, other_core, bells, rings, flood)
            late = await_both(generator.submit(generate, path, load, other_core), served)
            called.result()
            return late, served.result()
    finally:
        for descriptor in (*rings, *bells[0], *bells[1]):
            os.close(descriptor)


Main = Callable[["Target"], Coroutine[Any, Any, Any]]


def on_shard(shard: int, core: int, bells: list[tuple[int, int]], rings: list[int], main: Main) -> Any:
    """Be one of two shards until `main` is done."""
    os.sched_setaffinity(0, [core])
    gc.collect()
    gc.freeze()  # what benchmark and packages have imported; going through it would be the longest step of all

    async def body() -> Any:
        async with cw.Executor([cw.Queue("foreground", 99), cw.Queue("background", 1)]) as executor:
            memory, event = map(os.dup, bells[shard])
            mesh = cw.Mesh(shard, 2, executor, (memory, event))
            memory, event = map(os.dup, bells[1 - shard])
            incoming, outgoing = os.dup(rings[1 - shard]), os.dup(rings[shard])
            mesh.connect(1 - shard, 1, incoming=incoming, outgoing=outgoing, doorbell=(memory, event))
            target = Target()
            target.service = mesh.start(Target, target)
            try:
                return await executor.queue("background").spawn(main(target))
            finally:
                mesh.close()

    return uvloop.run(body())


class Target:
    """The service of both shards."""

    def __init__(self) -> None:
        self.service: cw.Sharded[Target]
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.served = 0
        self._chance = random.Random(5)

    @cw.remote(queue="background")
    async def work(self) -> None:
        burn(self._chance.randint(*TASK.cpu_us))
        self._count()

    @cw.remote(queue="background")
    async def nothing(self) -> None:
        self._count()

    @cw.remote(queue="foreground")
    async def stop(self) -> None:
        self.stopped.set()

    def _count(self) -> None:
        self.served += 1
        self.begun.set()


async def serve_foreground(setup: str, path: str, load: Load, target: Target) -> Calm:
    if setup != QUIET:
        await target.begun.wait()
    timer = MicrosecondTimer()
    since = served = 0.0

    class Calls:
        def count(self) -> None:
            nonlocal since
            since, target.served = time.monotonic(), 0

        async def stop(self) -> float:
            nonlocal served
            served = target.served / (time.monotonic() - since)
            await target.service.on(1).stop()
            return 0.0

    measured = await serve(path, load, cw.current_executor().queue("foreground").spawn, timer, Calls())
    timer.close()
    return Calm(measured, served)


async def call_all_the_time(setup: str, in_flight: int, target: Target) -> None:
    # A process that never sleeps keeps others waiting for milliseconds even at nice 19: the generator's arrivals then came in
    # bursts, and what the foreground suffered from those was counted as the flood's doing.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    service = target.service
    there = service.on(0)

    async def call() -> None:
        while not target.stopped.is_set():
            if setup == WORK:
                await there.work()
            elif setup == EMPTY:
                await there.nothing()
            else:
                await service.send(0, Target.nothing)
                await asyncio.sleep(0)

    if setup == QUIET:
        await target.stopped.wait()
    else:
        with contextlib.suppress(cw.CallError):  # the other has left
            await asyncio.gather(*(call() for _ in range(in_flight)))
