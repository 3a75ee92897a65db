"""One core and one queue without noise: the schedulers themselves, driven by a simulation instead of an executor.

Arrivals and segments are those of `_open_loop.Load`. A segment runs to its end, as a step does; what arrives or wakes
meanwhile is pushed at its time. Nothing else takes time, and the schedulers' clock is wound by the simulation: so the same
seed gives the same figures on every machine, to the nanosecond.

Beside the schedulers are two orders that know what nobody does: `Remaining`, SRPT by the true rest of each task, and `Ideal`,
EDF on a core that can be taken from a segment at any time, the bound for who has deadlines.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

import clockworker as cw
from bench._open_loop import Arrival, Load
from clockworker.executor import _clock_cy as clock

US = 1_000


class Job:
    """One arrival on its way. Times in nanoseconds from the beginning."""

    def __init__(self, number: int, arrival: Arrival, grouped: bool = False) -> None:
        self.arrival = arrival
        self.came_ns = round(arrival.at_s * 1e9)
        self.segment = 0  # that is next
        self.left_ns = sum(arrival.cpu_us) * US
        unused: Any = None
        self.task = cw.ScheduledTask(unused, arrival.kind if grouped else None, number)


class Served(msgspec.Struct, frozen=True):
    """Of one kind, of the counted: how long each took from its arrival to its end."""

    total_ns: list[int]

    def mean_us(self) -> float:
        """NaN if there were none, as of percentiles."""
        return sum(self.total_ns) / len(self.total_ns) / 1e3 if self.total_ns else float("nan")

    def percentile_us(self, percent: float) -> float:
        if not self.total_ns:
            return float("nan")
        ordered = sorted(self.total_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] / 1e3

    def within(self, seconds: float) -> float:
        """The part that was done in that time."""
        return sum(total <= seconds * 1e9 for total in self.total_ns) / len(self.total_ns)


class Remaining(cw.Scheduler):
    """The least true rest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, cw.ScheduledTask]] = []
        self._pushes = itertools.count()
        self.left_ns: dict[cw.ScheduledTask, int] = {}

    def push(self, task: cw.ScheduledTask) -> None:
        heapq.heappush(self._heap, (self.left_ns[task], next(self._pushes), task))

    def pop(self) -> cw.ScheduledTask:
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:
        return len(self._heap)


@contextmanager
def wound() -> Iterator[None]:
    clock.begin_winding(0, 0)
    try:
        yield
    finally:
        clock.end_winding()


def simulate(load: Load, scheduler: cw.Scheduler, *, grouped: bool) -> dict[str, Served]:
    """All arrivals, to their ends. grouped: each kind is a group, else each task."""
    jobs: dict[cw.ScheduledTask, Job] = {}
    served = {kind: Served([]) for kind in load.kinds}
    # When, in which order, and who becomes runnable then.
    events: list[tuple[int, int, Job]] = []
    order = itertools.count()
    live: dict[str, int] = dict.fromkeys(load.kinds, 0)
    for number, arrival in enumerate(load.arrivals(), 1):
        job = Job(number, arrival, grouped)
        jobs[job.task] = job
        events.append((job.came_ns, next(order), job))
    heapq.heapify(events)
    now = 0

    def advance(to: int) -> None:
        nonlocal now
        clock.wind(to - now)
        now = to

    def push(job: Job) -> None:
        if job.segment == 0:
            live[job.arrival.kind] += 1
        if isinstance(scheduler, Remaining):
            scheduler.left_ns[job.task] = job.left_ns
        scheduler.push(job.task)

    with wound():
        while events or len(scheduler):
            if not len(scheduler):
                advance(max(now, events[0][0]))
            while events and events[0][0] <= now:
                push(heapq.heappop(events)[2])
            if not len(scheduler):
                continue
            job = jobs[scheduler.pop()]
            cpu_ns = job.arrival.cpu_us[job.segment] * US
            ends = now + cpu_ns
            while events and events[0][0] <= ends:
                at, _, other = heapq.heappop(events)
                advance(max(now, at))
                push(other)
            advance(ends)
            job.left_ns -= cpu_ns
            job.segment += 1
            done = job.segment == len(job.arrival.cpu_us)
            if not done:
                sleep_ns = job.arrival.sleeps_us[job.segment - 1] * US
                if sleep_ns:
                    heapq.heappush(events, (now + sleep_ns, next(order), job))
                else:
                    push(job)
            scheduler.observe(job.task, cpu_ns)
            if done:
                kind = job.arrival.kind
                if job.arrival.counted:
                    served[kind].total_ns.append(now - job.came_ns)
                scheduler.forget_task(job.task)
                live[kind] -= 1
                if grouped and live[kind] == 0:
                    scheduler.forget_group(kind)
                del jobs[job.task]
    return served


def ideal(load: Load, within: Mapping[str, float]) -> dict[str, Served]:
    """EDF on a core that can be taken away at any time: no order meets more deadlines while all can be met."""
    served = {kind: Served([]) for kind in load.kinds}
    events = [
        (round(arrival.at_s * 1e9), number, Job(number, arrival)) for number, arrival in enumerate(load.arrivals())
    ]
    heapq.heapify(events)
    order = itertools.count(len(events))
    runnable: list[tuple[int, int, Job, int]] = []  # deadline, order, who, what is left of its segment
    now = 0
    while events or runnable:
        if not runnable:
            now = max(now, events[0][0])
        while events and events[0][0] <= now:
            _, _, job = heapq.heappop(events)
            deadline = job.came_ns + round(within[job.arrival.kind] * 1e9)
            heapq.heappush(runnable, (deadline, next(order), job, job.arrival.cpu_us[job.segment] * US))
        deadline, place, job, left = heapq.heappop(runnable)
        until = min(now + left, events[0][0]) if events else now + left
        left -= until - now
        now = until
        if left:
            heapq.heappush(runnable, (deadline, place, job, left))
            continue
        job.segment += 1
        if job.segment == len(job.arrival.cpu_us):
            if job.arrival.counted:
                served[job.arrival.kind].total_ns.append(now - job.came_ns)
        else:
            heapq.heappush(events, (now + job.arrival.sleeps_us[job.segment - 1] * US, next(order), job))
    return served
