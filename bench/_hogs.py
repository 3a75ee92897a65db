"""A timer and a foreground beside hogs, which compute and never await: how late both are. And what the hogs lose by it.

Late is counted at every time that was planned: a timer that comes 100 ms late has missed 49 others of 2 ms, and each of them
counts, as each request does that came meanwhile. So a loop that stands still has many late ones, as it has for whoever waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

import clockworker as cw
from bench._loops import on_loop
from bench._microsleep import Alarm
from bench._open_loop import burn

TIMER_MS = 2.0
REQUEST_EVERY_NS = 5_000_000
STEPS, STEP_US = 2, 100
HOG_MS = 200  # of computing, without an await
GAP_NS = 3_000  # between two looks of a hog at the clock: more is not its own
_SPAN_MS = 100  # of a hog, cut or not, in turn with the other

Spawn = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


class Kind(msgspec.Struct, frozen=True):
    """How hogs run: in which queues (none: plain uvloop), of one of which is "hogs" their own; in threads beside the loop, with
    this switch interval; or in a queue each."""

    name: str
    queues: tuple[str, ...] = ("foreground", "hogs")
    preemptive: bool = False
    slice_ms: float | None = None
    switch_interval_ms: float | None = None
    queue_each: bool = False

    def declared(self, hogs: int) -> list[cw.Queue]:
        if not self.queues:
            return []
        names = [f"hogs {number}" for number in range(hogs)] if self.queue_each else ["hogs"]
        options: dict[str, Any] = {"preemptive": True} if self.preemptive else {}
        if self.slice_ms is not None:
            options["slice"] = self.slice_ms / 1e3
        return [cw.Queue("foreground", 8), *(cw.Queue(name, 1, **options) for name in names)]


class Late(msgspec.Struct, frozen=True):
    """Milliseconds, in ascending order; own_: without what others had of the core meanwhile. taken: that, of all the time, in
    ms a second. hogs: work that they have done, of what the core could do."""

    timer_ms: list[float]
    foreground_ms: list[float]
    own_timer_ms: list[float]
    own_foreground_ms: list[float]
    hogs: float
    taken: float


def measure_late(kind: Kind, hogs: int, seconds: float) -> Late:
    async def main(spawns: list[Spawn]) -> Late:
        foreground, *rest = spawns
        if not rest:
            rest = [foreground]
        async with beside(kind, hogs, rest) as worked_ms:
            await asyncio.sleep(0.05)
            taking = Taking()
            before, since, taken = worked_ms(), time.perf_counter(), taking.ns()
            timer, requests = Ticks(taking), Requests(foreground, taking)
            await requests.run(seconds)
            elapsed = time.perf_counter() - since
            worked, taken = worked_ms() - before, taking.ns() - taken
            timer.stop()
            await requests.finish()
        return Late(
            sorted(timer.late_ms),
            sorted(requests.late_ms),
            sorted(timer.own_ms),
            sorted(requests.own_ms),
            worked / 1e3 / elapsed,
            taken / 1e6 / elapsed,
        )

    take_core()
    if kind.switch_interval_ms is not None:
        sys.setswitchinterval(kind.switch_interval_ms / 1e3)
    return on_loop(kind.declared(hogs), main)


class Ticks:
    """The loop's own timer, set again each time that it comes."""

    def __init__(self, taking: Taking) -> None:
        self.late_ms: list[float] = []
        self.own_ms: list[float] = []
        self._taking = taking
        self._loop = asyncio.get_running_loop()
        self._set()

    def stop(self) -> None:
        self._timer.cancel()

    def _set(self) -> None:
        self._taken_ns = self._taking.ns()
        self._due = time.perf_counter() + TIMER_MS / 1e3
        self._timer = self._loop.call_later(TIMER_MS / 1e3, self._tick)

    def _tick(self) -> None:
        late = max(0.0, (time.perf_counter() - self._due) * 1e3)
        taken = (self._taking.ns() - self._taken_ns) / 1e6
        while late >= 0:
            self.late_ms.append(late)
            self.own_ms.append(max(0.0, late - taken))
            late -= TIMER_MS
        self._set()


class Requests(Alarm):
    """Planned every 5 ms; of two steps. Each is started by the loop's callback, as a protocol starts one when data has come."""

    def __init__(self, spawn: Spawn, taking: Taking) -> None:
        super().__init__()
        self.late_ms: list[float] = []
        self.own_ms: list[float] = []
        self._taking = taking
        self._taken_ns = taking.ns()  # when the last one was done
        self._spawn = spawn
        self._due_ns = self._last_ns = 0
        self._over = asyncio.Event()
        self._running: list[Awaitable[Any]] = []

    async def run(self, seconds: float) -> None:
        now = time.monotonic_ns()
        self._due_ns, self._last_ns = now + REQUEST_EVERY_NS, now + int(seconds * 1e9)
        self.set(self._due_ns)
        await self._over.wait()

    async def finish(self) -> None:
        for request in self._running:
            await request
        self.close()

    def rings(self) -> None:
        while self._due_ns <= time.monotonic_ns() and self._due_ns <= self._last_ns:
            self._running.append(self._spawn(self._request(self._due_ns)))
            self._due_ns += REQUEST_EVERY_NS
        if self._due_ns <= self._last_ns:
            self.set(self._due_ns)
        else:
            self.silence()
            self._over.set()

    async def _request(self, due_ns: int) -> None:
        for step in range(STEPS):
            if step:
                await asyncio.sleep(0)
            burn(STEP_US)
        late_ms = (time.monotonic_ns() - due_ns) / 1e6
        taken_ns = self._taking.ns()
        self.late_ms.append(late_ms)
        self.own_ms.append(max(0.0, late_ms - (taken_ns - self._taken_ns) / 1e6))
        self._taken_ns = taken_ns


@contextlib.asynccontextmanager
async def beside(kind: Kind, hogs: int, spawns: Sequence[Spawn]) -> AsyncIterator[Callable[[], int]]:
    """So many hogs in flight all the time: one that has computed is followed by another. Yields what says how many
    milliseconds of work they have done. That is counted by what is done: a thread's CPU clock goes on in what cuts them."""
    done = [0] * hogs
    stopping = False
    unit = a_millisecond()

    def compute(number: int) -> None:
        for _ in range(HOG_MS):
            if stopping:
                break
            for _ in range(unit):
                pass
            done[number] += 1

    async def hog(number: int) -> None:
        compute(number)

    async def keep(number: int) -> None:
        while not stopping:
            await spawns[number % len(spawns)](hog(number))

    def in_thread(number: int) -> None:
        while not stopping:
            compute(number)

    if kind.switch_interval_ms is None:
        tasks = [asyncio.get_running_loop().create_task(keep(number)) for number in range(hogs)]
        threads = []
    else:
        tasks = []
        threads = [threading.Thread(target=in_thread, args=(number,), daemon=True) for number in range(hogs)]
        for thread in threads:
            thread.start()
    try:
        yield lambda: sum(done)
    finally:
        stopping = True
        for thread in threads:
            thread.join()
        for task in tasks:
            await task


def a_millisecond() -> int:
    """Turns of an empty loop in a millisecond of CPU time, at best."""
    turns = 20_000
    best = float("inf")
    for _ in range(20):
        began = time.thread_time_ns()
        for _ in range(turns):
            pass
        best = min(best, time.thread_time_ns() - began)
    return round(turns * 1e6 / best)


def take_core() -> None:
    """From other processes, if that is permitted: they are not what is measured. Where each session has its part of a core
    (autogroup), a session of its own as well."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        os.setsid()
        Path("/proc/self/autogroup").write_text("-20")


class Taking:
    """What others have of the core while this thread could have run."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except FileNotFoundError:  # a kernel without CONFIG_SCHED_INFO
            self._file = None

    def ns(self) -> int:
        """So far."""
        return 0 if self._file is None else int(os.pread(self._file, 128, 0).split()[1])


class Span(msgspec.Struct, frozen=True):
    """What a hog has seen in a span of its time. looks: at the clock, each of which is its work. gaps: time between two looks
    that was longer than a look takes."""

    wall_ns: int = 0
    cpu_ns: int = 0
    gaps_ns: int = 0
    cuts: int = 0
    looks: int = 0

    def and_also(self, other: Span) -> Span:
        return Span(*[getattr(self, field) + getattr(other, field) for field in self.__struct_fields__])


class Loss(msgspec.Struct, frozen=True):
    """Of a hog's time, 0 to 1, beyond what it loses where nothing cuts it. By two clocks, and by each of them in two ways: as
    gaps in its own time, and as work not done in as much time. The wall's clock goes on in interrupts, in the hypervisor
    and in other processes, and the thread's CPU clock does not: so each way agrees with the other of its clock.

    cut_us: a gap's length. cuts: a second. uncounted: of the wall's time, what the thread's clock has not counted, beyond what
    it does not count where nothing cuts it.
    """

    gaps_wall: float
    work_wall: float
    gaps_cpu: float
    work_cpu: float
    cuts: float
    cut_us: float
    uncounted: float


def measure_loss(slice_ms: float | None, with_timer: bool, seconds: float) -> list[Loss]:
    """Of span after span. with_timer: the loop has a timer of 2 ms, and a foreground that waits; else there is nothing but the
    hog. Cut and uncut spans take turns, and each that is cut is compared with the two beside it: how fast a core is changes by
    some per cent from one tenth of a second to the next, and work not done is as little."""
    kind = Kind("", ("foreground", "hogs"), True, slice_ms)
    queues = [*kind.declared(1), cw.Queue("uncut", 1)]

    async def main(spawns: list[Spawn]) -> list[Loss]:
        _, cut, uncut = spawns
        timer = Ticks(Taking()) if with_timer else None
        losses: list[Loss] = []
        before = await uncut(look(_SPAN_MS * 1_000_000))
        until = time.perf_counter() + seconds
        while not losses or time.perf_counter() < until:
            span = await cut(look(_SPAN_MS * 1_000_000))
            after = await uncut(look(_SPAN_MS * 1_000_000))
            losses.append(loss_of(span, before.and_also(after)))
            before = after
        if timer is not None:
            timer.stop()
        return losses

    take_core()
    return on_loop(queues, main)


def middle(losses: Sequence[Loss]) -> Loss:
    """Of each figure the mean of the middle half."""
    values = [sorted(getattr(loss, field) for loss in losses) for field in Loss.__struct_fields__]
    aside = len(losses) // 4
    return Loss(*[statistics.mean(each[aside : len(each) - aside]) for each in values])


async def look(wall_ns: int) -> Span:
    """Never awaits."""
    clock = time.perf_counter_ns
    gaps = cuts = looks = 0
    cpu = time.thread_time_ns()
    began = before = clock()
    end = began + wall_ns
    while before < end:
        now = clock()
        if now - before > GAP_NS:
            gaps += now - before
            cuts += 1
        looks += 1
        before = now
    return Span(before - began, time.thread_time_ns() - cpu, gaps, cuts, looks)


def loss_of(cut: Span, uncut: Span) -> Loss:
    def in_gaps(span: Span) -> float:
        return span.gaps_ns / span.wall_ns

    def cpu_in_gaps(span: Span) -> float:
        """What the thread's clock has counted in gaps: outside of them it counts all."""
        return (span.cpu_ns - (span.wall_ns - span.gaps_ns)) / span.cpu_ns

    def uncounted(span: Span) -> float:
        return 1 - span.cpu_ns / span.wall_ns

    cuts = cut.cuts / cut.wall_ns - uncut.cuts / uncut.wall_ns
    gaps = in_gaps(cut) - in_gaps(uncut)
    return Loss(
        gaps,
        1 - cut.looks / cut.wall_ns * uncut.wall_ns / uncut.looks,
        cpu_in_gaps(cut) - cpu_in_gaps(uncut),
        1 - cut.looks / cut.cpu_ns * uncut.cpu_ns / uncut.looks,
        cuts * 1e9,
        gaps / cuts / 1e3 if cuts > 0 else 0.0,
        uncounted(cut) - uncounted(uncut),
    )
