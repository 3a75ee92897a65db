"""How far does any queue get from its entitlement within a second?

Queues saturate the core with steps of 20-200 us, and each step is noted by the task itself. A fluid machine that runs all
active queues at once (_fluid.py) says afterwards what each was entitled to after every step, of the service that was given to
all. A step is as long as the executor has booked for it: on a busy machine much can happen between the task's last look
at the clock and the executor's. How much of what was booked the tasks have not seen is in the table ("unseen").

Shares: equal; 8 to 1 and 99 to 1, the first half of the queues having the more; or random.

- saturated: two tasks a queue, always runnable.
- sleepers: every second queue has one task, which runs 1-10 steps and sleeps 1-20 ms.
- changed: after half of the time the shares are dealt out anew, in reverse, or at random if they were equal.

EEVDF's bound is one slice and one poll: the longest seen, which on a busy machine is longer than any that was asked for. At the
end nobody should be further away than 1 % of the core. A second in which the kernel took the core away for long (a poll of
more than 2 ms) is tried again, and of all attempts the least disturbed counts. Beside these, between two queues of equal share:

- burst: one queue sleeps 50 ms at a time and wakes with 8 tasks at once, while the other is always runnable. Its longest run at
  a stretch should be one slice and one poll at most.
- overrun, overrun and sleep: one queue takes 50 ms in one poll, and goes on, or sleeps 10 ms before. By the time of its next
  step the other should have had as much, after the sleep if there was one, to within one slice and one poll.

Where queues are in groups, and between the groups of one queue under `FairGroups`, each level is compared with an ideal machine
of its own (_levels.py).

And between two queues of 8 to 1 on a core that is shared (_shared_core.py): work done, to within a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import inspect
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

import clockworker as cw
from bench._fluid import FluidModel
from bench._levels import Crowd, Level, NestedQueues, TaskGroups
from bench._report import columns, progress
from bench._shared_core import SharedCore, measure_shared_core
from clockworker.executor._tasks_cy import QueueState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_US = (20, 200)
# The executor's defaults: the bound depends on them.
SCHED_LATENCY_US, MIN_SLICE_US = (
    inspect.signature(cw.Executor).parameters[name].default * 1e6 for name in ("sched_latency", "min_slice")
)
OVERRUN_US = 50_000.0
DISTURBED_US = 2_000.0
END_BOUND = 1.0  # % of the core


def halves(more: int, less: int) -> Callable[[int, random.Random], list[int]]:
    return lambda count, chance: [more] * (count // 2) + [less] * (count - count // 2)


SHARES: dict[str, Callable[[int, random.Random], list[int]]] = {
    "equal": halves(1, 1),
    "8:1": halves(8, 1),
    "99:1": halves(99, 1),
    "random": lambda count, chance: [chance.randint(1, 100) for _ in range(count)],
}
KINDS = ("saturated", "sleepers", "changed")


class Fairness(msgspec.Struct, frozen=True):
    """One scenario. `distance_us`: the greatest of any queue at any time, to either side."""

    queues: int
    shares: str
    kind: str
    steps: int
    slice_us: float
    longest_poll_us: float
    owed_us: float
    ahead_us: float
    bound_us: float
    end_percent: float  # the greatest distance of any queue at the end, of the core
    unseen_percent: float  # booked by the executor, and not seen by the tasks

    def holds(self) -> bool:
        return max(self.owed_us, self.ahead_us) <= self.bound_us and self.end_percent <= END_BOUND


class Case(msgspec.Struct, frozen=True):
    """burst: the longest run at a stretch. Overruns: by how much the other has had too little, at worst."""

    name: str
    value_us: float
    least_us: float
    most_us: float
    repeats: int

    def holds(self) -> bool:
        return self.least_us <= self.value_us <= self.most_us


class FairnessReport(msgspec.Struct, frozen=True):
    scenarios: list[Fairness]
    levels: list[Level]
    cases: list[Case]
    shared: list[SharedCore]

    def table(self) -> str:
        rows = [["queues", "shares", "", "steps", "slice us", "longest poll", "most owed", "most ahead", "of bound"]]
        rows[0] += ["at the end, % of core", "unseen", ""]
        for s in self.scenarios:
            figures = [s.slice_us, s.longest_poll_us, s.owed_us, s.ahead_us]
            row = [str(s.queues), s.shares, s.kind, f"{s.steps:,}", *(f"{figure:,.0f}" for figure in figures)]
            row += [
                f"{max(s.owed_us, s.ahead_us) / s.bound_us:.2f}",
                f"{s.end_percent:.3f}",
                f"{s.unseen_percent:.1f} %",
                verdict(s.holds()),
            ]
            rows.append(row)
        levels = [["levels", "", "members", "steps", "longest poll us", "most owed", "most ahead", "of bound", ""]]
        for one in self.levels:
            figures = [one.longest_poll_us, one.owed_us, one.ahead_us]
            row = [f"{one.what}: {one.level}", one.kind, str(one.members), f"{one.steps:,}"]
            row += [*(f"{figure:,.0f}" for figure in figures), f"{max(figures[1:]) / one.bound_us:.2f}"]
            levels.append([*row, verdict(one.holds())])
        cases = [["between two queues", "us", "at least", "at most", "times", ""]]
        for c in self.cases:
            figures = [c.value_us, c.least_us, c.most_us]
            cases.append([c.name, *(f"{figure:,.0f}" for figure in figures), str(c.repeats), verdict(c.holds())])
        shared = [["8 to 1, on a core", "of the core", "work done", "booked", ""]]
        for each in self.shared:
            if each.skipped:
                shared.append([each.name, "", "", "", f"skipped: {each.skipped}"])
            else:
                figures = [each.core, each.work, each.booked]
                shared.append([each.name, *(f"{figure:.2f}" for figure in figures), verdict(each.holds())])
        held = sum(scenario.holds() for scenario in self.scenarios)
        tables = "\n\n".join(columns(table) for table in (rows, levels, cases, shared))
        return f"{tables}\n\nwithin bounds: {held} of {len(self.scenarios)} scenarios"

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(ylabel="greatest distance from entitlement, of the bound")
        for kind in KINDS:
            found = [(n, s) for n, s in enumerate(self.scenarios) if s.kind == kind]
            axes.plot(
                [n for n, _ in found], [max(s.owed_us, s.ahead_us) / s.bound_us for _, s in found], "o", label=kind
            )
        names = [f"{scenario.queues} queues, {scenario.shares}" for scenario in self.scenarios]
        places = range(0, len(names), len(KINDS))
        axes.set_xticks([n + 1 for n in places], [names[n] for n in places], rotation=60, ha="right")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queues", type=int, nargs="+", default=[2, 16, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each scenario")
    parser.add_argument("--attempts", type=int, default=2, help="at a scenario that is disturbed")
    parser.add_argument("--repeats", type=int, default=10, help="of the burst and the overruns")
    parser.add_argument("--shared-seconds", type=float, default=10.0, help="of each case on a shared core")
    parser.add_argument("--seed", type=int, default=1)


def run(options: argparse.Namespace) -> FairnessReport:
    scenarios = []
    for count in options.queues:
        for name, shares in SHARES.items():
            for kind in KINDS:
                progress(f"{count} queues, {name}, {kind}")
                attempts: list[Fairness] = []
                while len(attempts) < options.attempts and not (
                    attempts and attempts[-1].longest_poll_us <= DISTURBED_US
                ):
                    chance = random.Random(options.seed)
                    attempts.append(Scenario(name, shares(count, chance), kind, options.seconds, chance).run())
                scenarios.append(min(attempts, key=lambda attempt: attempt.longest_poll_us))
    levels: list[Level] = []
    crowds: tuple[type[Crowd], ...] = (NestedQueues, TaskGroups)
    for make in crowds:
        for kind in KINDS:
            progress(f"{make.__name__}, {kind}")
            with no_collection():
                levels += make(kind, options.seconds, random.Random(options.seed)).run()
    progress("burst and overruns")
    cases = [Burst(options.repeats).run(), *(Overrun(options.repeats, sleep_s).run() for sleep_s in (0, 0.01))]
    progress("shared cores")
    return FairnessReport(scenarios, levels, cases, measure_shared_core(options.shared_seconds))


class Scenario:
    """One second. What happens is noted down in order, for the model to follow afterwards."""

    def __init__(self, name: str, shares: list[int], kind: str, seconds: float, chance: random.Random) -> None:
        self._name = name
        self._shares = shares
        self._kind = kind
        self._seconds = seconds
        self._chance = chance
        self._slice_us = max(SCHED_LATENCY_US / len(shares), MIN_SLICE_US)
        self._model = FluidModel(shares, self._slice_us * 1e3)
        self._log: list[tuple[Callable[..., None], list[int]]] = []
        self._steps: list[list[int]] = []  # what `run` is told of each: the queue, and how long it took
        self._last_steps: list[list[int] | None] = [None for _ in shares]
        self._queues: list[QueueState] = []
        self._seen_ns = 0  # by the tasks, with what others had meanwhile
        self._stolen_ns = 0
        self._ends_ns = 0

    def run(self) -> Fairness:
        queues = [cw.Queue(number, share) for number, share in enumerate(self._shares)]
        with no_collection():
            cw.run(self._main(), queues=queues)
        self._stolen_ns = sum(queue.stolen_ns for queue in self._queues)
        for event, arguments in self._log:
            event(*arguments)
        self._model.end()
        longest_us = max(elapsed for _, elapsed in self._steps) / 1e3
        total_ns = sum(elapsed for _, elapsed in self._steps)
        return Fairness(
            len(self._shares),
            self._name,
            self._kind,
            len(self._steps),
            self._slice_us,
            longest_us,
            max(queue.most_owed_ns for queue in self._model.queues) / 1e3,
            max(queue.most_ahead_ns for queue in self._model.queues) / 1e3,
            self._slice_us + longest_us,
            100 * max(abs(queue.lag_ns) for queue in self._model.queues) / total_ns,
            100 * (1 - (self._seen_ns - self._stolen_ns) / total_ns),
        )

    async def _main(self) -> None:
        executor = cw.current_executor()
        self._queues = [queue._queue for queue in executor.queues()]
        running = []
        for number in range(len(self._shares)):
            self._log.append((self._model.wake, [number]))
            queue = executor.queue(number)
            if self._kind == "sleepers" and number % 2:
                running.append(queue.spawn(self._sleeper(number)))
            else:
                running += [queue.spawn(self._busy(number)) for _ in range(2)]
        self._ends_ns = time.monotonic_ns() + int(self._seconds * 1e9)
        if self._kind == "changed":
            asyncio.get_running_loop().call_later(self._seconds / 2, self._change, executor)
        for task in running:
            await task

    async def _busy(self, number: int) -> None:
        while self._step(number):  # noqa: ASYNC110 (it is the work itself, not a wait)
            await asyncio.sleep(0)

    async def _sleeper(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while self._step(number):
            if self._chance.random() < 0.8:
                await asyncio.sleep(0)
            else:
                woken = loop.create_future()
                loop.call_later(self._chance.uniform(0.001, 0.020), self._wake, number, woken)
                self._log.append((self._model.sleep, [number]))
                await woken

    def _wake(self, number: int, woken: asyncio.Future[None]) -> None:
        self._log.append((self._model.wake, [number]))
        woken.set_result(None)

    def _change(self, executor: cw.Executor) -> None:
        shares = self._shares[::-1] if self._name != "equal" else SHARES["random"](len(self._shares), self._chance)
        for number, share in enumerate(shares):
            executor.queue(number).share = share
            self._log.append((self._model.set_share, [number, share]))

    def _step(self, number: int) -> bool:
        """Use the core for a while, unless the time is over: then False."""
        started = time.monotonic_ns()
        booked_ns = self._queues[number].busy_ns
        last_step = self._last_steps[number]
        if last_step is not None:
            last_step[1] += booked_ns
        self._last_steps[number] = None
        if started >= self._ends_ns and self._steps:  # one at least, however late a busy machine comes to it
            return False
        step = self._last_steps[number] = [number, -booked_ns]  # to be completed when what was booked for it is known
        self._steps.append(step)
        self._log.append((self._model.run, step))
        self._seen_ns += spin(started, self._chance.uniform(*STEP_US))
        return True


class Burst:
    """Of queue 0, beside queue 1, which always has something to run."""

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._chance = random.Random(1)
        self._longest_poll_ns = 0
        self._stretch_ns = 0  # what queue 0 has run since queue 1 has
        self._longest_stretch_ns = 0
        self._over = False

    def run(self) -> Case:
        with no_collection():
            cw.run(self._main(), queues=[cw.Queue(0), cw.Queue(1)])
        bound_us = SCHED_LATENCY_US / 2 + self._longest_poll_ns / 1e3
        return Case("burst: longest run at a stretch", self._longest_stretch_ns / 1e3, 0, bound_us, self._repeats)

    async def _main(self) -> None:
        executor = cw.current_executor()
        busy = executor.queue(1).spawn(self._busy())
        for _ in range(self._repeats):
            await asyncio.sleep(0.05)
            for woken in [executor.queue(0).spawn(self._woken()) for _ in range(8)]:
                await woken
        self._over = True
        await busy

    async def _busy(self) -> None:
        while not self._over:
            self._stretch_ns = 0
            self._longest_poll_ns = max(
                self._longest_poll_ns, spin(time.monotonic_ns(), self._chance.uniform(*STEP_US))
            )
            await asyncio.sleep(0)

    async def _woken(self) -> None:
        for _ in range(20):
            elapsed = spin(time.monotonic_ns(), self._chance.uniform(*STEP_US))
            self._longest_poll_ns = max(self._longest_poll_ns, elapsed)
            self._stretch_ns += elapsed
            self._longest_stretch_ns = max(self._longest_stretch_ns, self._stretch_ns)
            await asyncio.sleep(0)


class Overrun:
    """Of queue 0, which takes OVERRUN_US in one poll, beside queue 1, which always has something to run."""

    def __init__(self, repeats: int, sleep_s: float) -> None:
        self._repeats = repeats
        self._sleep_s = sleep_s
        self._chance = random.Random(1)
        self._longest_poll_ns = 0
        self._other_since_ns = 0  # what queue 1 had been given when queue 0 last became runnable
        self._off_by_us: list[float] = []
        self._over = False

    def run(self) -> Case:
        with no_collection():
            cw.run(self._main(), queues=[cw.Queue(0), cw.Queue(1)])
        bound_us = SCHED_LATENCY_US / 2 + self._longest_poll_ns / 1e3
        name = f"overrun{' and sleep' if self._sleep_s else ''}: the other's arrears, at worst"
        return Case(name, max(self._off_by_us, key=abs), -bound_us, bound_us, self._repeats)

    async def _main(self) -> None:
        executor = cw.current_executor()
        own, other = (queue._queue for queue in executor.queues())
        busy = executor.queue(1).spawn(self._busy(other))
        await executor.queue(0).spawn(self._overrunning(own, other))
        self._over = True
        await busy

    async def _busy(self, own: QueueState) -> None:
        while not self._over:
            before_ns = own.busy_ns
            spin(time.monotonic_ns(), self._chance.uniform(*STEP_US))
            await asyncio.sleep(0)
            self._longest_poll_ns = max(self._longest_poll_ns, own.busy_ns - before_ns)

    async def _overrunning(self, own: QueueState, other: QueueState) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self._repeats):
            for _ in range(50):  # until both are even
                spin(time.monotonic_ns(), self._chance.uniform(*STEP_US))
                await asyncio.sleep(0)
            own_before_ns = own.busy_ns
            spin(time.monotonic_ns(), OVERRUN_US)
            self._other_since_ns = other.busy_ns
            if self._sleep_s:
                woken = loop.create_future()
                loop.call_later(self._sleep_s, self._wake, woken, other)
                await woken
            else:
                await asyncio.sleep(0)
            self._off_by_us.append((own.busy_ns - own_before_ns - (other.busy_ns - self._other_since_ns)) / 1e3)

    def _wake(self, woken: asyncio.Future[None], other: QueueState) -> None:
        self._other_since_ns = other.busy_ns
        woken.set_result(None)


def spin(started: int, duration_us: float) -> int:
    """Returns the nanoseconds that it took since `started`, the time taken away by others included."""
    ends = started + duration_us * 1e3
    while (now := time.monotonic_ns()) < ends:
        pass
    return now - started


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """The notes pile up; collecting garbage would look like long polls."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def verdict(holds: bool) -> str:
    return "" if holds else "MISSED"
