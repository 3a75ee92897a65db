"""Does a controlled job end on time and no earlier, and what do others notice of it?

A job of a known size, in steps of 50 us in a queue of its own, beside a foreground of requests of 500 us that come at random (a
Poisson process): even load, bursts, and a load that rises until most of the core is used. `Controlled` is given a goal and the
job's progress. For each: when the job ended, of the goal; the foreground's p99 until the last tenth of that time, over what it
is for the same requests with no job there; and the shares that the job's queue had.

- wound: by a clock wound by hand, on which nothing but this takes time: the figures are the same on every machine.
- measured: by the wall clock, on a core of its own if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
import clockworker.testing as testing
from bench._open_loop import burn
from bench._report import columns, percentile, progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUEST_S, STEP_S = 0.0005, 0.00005
JOB = 0.15  # of the core, over the whole time

# Part of the time that is over -> of the core.
LOADS: dict[str, Callable[[float], float]] = {
    "even": lambda part: 0.5,
    "bursts": lambda part: 0.7 if part * 10 % 2 < 1 else 0.1,
    "rising": lambda part: min(0.7, 0.7 * part),
}
TARGET_END, TARGET_P99 = 0.05, 1.1


class Run(msgspec.Struct, frozen=True):
    load: str
    clock: str
    ended: float  # of the goal
    p99_us: float
    alone_us: float
    least_share: int
    most_share: int


class Control(msgspec.Struct, frozen=True):
    runs: list[Run]

    def table(self) -> str:
        rows = [["load", "clock", "ended, of the goal", "foreground p99 us", "alone", "ratio", "shares", ""]]
        for run in self.runs:
            row = [run.load, run.clock, f"{run.ended:.3f}", f"{run.p99_us:,.0f}", f"{run.alone_us:,.0f}"]
            row += [f"{run.p99_us / run.alone_us:.3f}", f"{run.least_share}-{run.most_share}"]
            holds = abs(run.ended - 1) <= TARGET_END and run.p99_us <= TARGET_P99 * run.alone_us
            rows.append([*row, "" if holds else "MISSED"])
        return columns(rows)

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(ylabel="end of the job, of the goal")
        names = [f"{run.load}, {run.clock}" for run in self.runs]
        axes.bar(names, [run.ended for run in self.runs])
        axes.axhline(1, color="black", linewidth=0.8)
        axes.tick_params(axis="x", rotation=30)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="the goal")
    parser.add_argument("--clocks", nargs="+", choices=("wound", "measured"), default=["wound", "measured"])


def run(options: argparse.Namespace) -> Control:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    runs = []
    for clock in options.clocks:
        for name, load in LOADS.items():
            progress(f"{name}, {clock}")
            alone = Scene(load, options.seconds, clock == "wound").play(controlled=False)
            scene = Scene(load, options.seconds, clock == "wound").play(controlled=True)
            ended = scene.ended_s / options.seconds
            runs.append(Run(name, clock, ended, scene.p99_us(), alone.p99_us(), min(scene.shares), max(scene.shares)))
    return Control(runs)


class Scene:
    def __init__(self, load: Callable[[float], float], goal_s: float, wound: bool) -> None:
        self.clock = testing.Clock(autojump=True, step=1e-6) if wound else None
        self.load = load
        self.goal_s = goal_s
        self.steps = round(JOB * goal_s / STEP_S)
        self.done = 0
        self.over = False
        self.ended_s = 0.0
        self.began_s = 0.0
        self.waits: list[tuple[float, float]] = []
        self.shares: list[int] = []

    def now(self) -> float:
        return (time.monotonic() if self.clock is None else self.clock.now) - self.began_s

    def compute(self, seconds: float) -> None:
        if self.clock is None:
            burn(seconds * 1e6)
        else:
            self.clock.jump(seconds)

    async def job(self) -> None:
        while self.done < self.steps:
            self.compute(STEP_S)
            self.done += 1
            await asyncio.sleep(0)
        self.ended_s = self.now()

    async def request(self, came: float) -> None:
        self.compute(REQUEST_S)
        self.waits.append((came, self.now() - came))

    async def foreground(self, queue: cw.QueueHandle) -> None:
        due = 0.0
        chance = random.Random(1)
        while not self.over:
            load = max(0.01, self.load(min(1.0, due / self.goal_s)))
            due += chance.expovariate(load / REQUEST_S)
            await asyncio.sleep(max(0.0, due - self.now()))
            queue.spawn(self.request(due))

    async def main(self, controlled: bool) -> None:
        self.began_s = self.now() if self.clock is None else self.clock.now
        executor = cw.current_executor()
        job = executor.queue("job")
        ticks = executor.queue("main").spawn(self.foreground(executor.queue("foreground")))
        if controlled:
            with cw.Controlled(job, finish=self.goal_s, progress=lambda: self.done / self.steps):
                handle = job.spawn(self.job())
                while not handle.done():
                    self.shares.append(job.share)
                    await asyncio.sleep(self.goal_s / 200)
        else:
            await asyncio.sleep(self.goal_s)
        self.over = True
        await ticks

    def play(self, controlled: bool) -> Scene:
        queues = [cw.Queue("main", share=100), cw.Queue("foreground", share=100), cw.Queue("job")]
        if self.clock is None:
            cw.run(self.main(controlled), queues=queues)
        else:
            testing.run(self.main(controlled), queues=queues, clock=self.clock)
        return self

    def p99_us(self) -> float:
        waits = sorted(wait for came, wait in self.waits if came < 0.9 * self.goal_s)
        return percentile(waits, 99) * 1e6
