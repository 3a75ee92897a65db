"""Two queues on one core without noise: EEVDF and the schedulers themselves, driven by a simulation instead of an executor.

Foreground tasks arrive as in `bench priority`; background tasks burn and sleep without end. A step runs to its end, sleeps end
at whole milliseconds, as libuv's do, and nothing else takes time. So what is seen is what the policy costs, and what no
executor can undo: whoever wakes up waits for the step that runs.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import clockworker as cw
from bench._open_loop import Kind, Load
from bench._report import percentile
from clockworker.executor._eevdf_cy import Eevdf, Entity

US, MS = 1_000, 1_000_000
SLICE_NS = 1 * MS  # an executor's own, of two queues
GRANULARITY_NS = 20 * US


class Simulated(msgspec.Struct, frozen=True):
    """Microseconds; of the foreground, from arrival to end."""

    setup: str
    tasks: int
    p50_us: float
    p90_us: float
    p99_us: float
    background: float  # work, of one core


class _Job:
    """A task on its way, in nanoseconds. segments: CPU time of each step."""

    def __init__(self, number: int, queue: int, came_ns: int, segments: Iterator[int], counted: bool) -> None:
        self.queue = queue
        self.came_ns = came_ns
        self.segments = segments
        self.next_ns: int | None = next(segments)
        self.counted = counted
        unused: Any = None
        self.task = cw.ScheduledTask(unused, None, number)


class _OneLine:
    """No queues: who became runnable first is next, as on a plain loop."""

    def __init__(self) -> None:
        self._line: deque[_Job] = deque()

    def push(self, job: _Job) -> None:
        self._line.append(job)

    def pop(self) -> _Job | None:
        return self._line.popleft() if self._line else None

    def charge(self, job: _Job, elapsed_ns: int) -> None:
        pass


class _Queues:
    """An executor's choices: EEVDF between the queues, a scheduler in each."""

    def __init__(self, shares: tuple[int, int], make: Callable[[], cw.Scheduler]) -> None:
        self._eevdf = Eevdf(GRANULARITY_NS)
        self._schedulers = [make() for _ in shares]
        self._entities: list[Entity] = [self._eevdf.add(number, share, SLICE_NS) for number, share in enumerate(shares)]
        self._jobs: dict[cw.ScheduledTask, _Job] = {}

    def push(self, job: _Job) -> None:
        self._jobs[job.task] = job
        self._schedulers[job.queue].push(job.task)
        if not self._entities[job.queue].active:
            self._eevdf.activate(self._entities[job.queue])

    def pop(self) -> _Job | None:
        entity = self._eevdf.pick()
        return None if entity is None else self._jobs[self._schedulers[entity.item].pop()]  # type: ignore[call-overload]

    def charge(self, job: _Job, elapsed_ns: int) -> None:
        """A step. The job may be done."""
        scheduler, entity = self._schedulers[job.queue], self._entities[job.queue]
        self._eevdf.charge(entity, elapsed_ns)
        scheduler.observe(job.task, elapsed_ns)
        if job.next_ns is None:
            scheduler.forget_task(job.task)
            del self._jobs[job.task]
        if len(scheduler) == 0:
            self._eevdf.deactivate(entity)


def simulate(
    setup: str,
    load: Load,
    kind: Kind,
    background: int,
    shares: tuple[int, int] | None = None,
    make: Callable[[], cw.Scheduler] = cw.RunnableFifo,
) -> Simulated:
    """All arrivals, to their ends, beside so many background tasks of the kind. shares: None for a plain loop."""
    core = _OneLine() if shares is None else _Queues(shares, make)
    numbers = itertools.count(1)
    events: list[tuple[int, int, _Job]] = []
    for arrival in load.arrivals():
        came_ns = round(arrival.at_s * 1e9)
        segments = iter([cpu_us * US for cpu_us in arrival.cpu_us])
        number = next(numbers)
        events.append((came_ns, number, _Job(number, 0, came_ns, segments, arrival.counted)))
    ends_ns = events[-1][0]
    for seed in range(background):
        number = next(numbers)
        events.append((0, number, _Job(number, 1, 0, _endless(kind, seed), False)))
    heapq.heapify(events)
    order = itertools.count(next(numbers))
    totals: list[int] = []
    work_ns = 0
    now = 0
    while True:
        while events and events[0][0] <= now:
            core.push(heapq.heappop(events)[2])
        job = core.pop()
        if job is None:
            if not events:
                break
            now = events[0][0]
            continue
        cpu_ns: int = job.next_ns  # type: ignore[assignment]
        job.next_ns = next(job.segments, None)
        if job.queue == 1 and now >= ends_ns:
            job.next_ns = None
        now += cpu_ns
        while events and events[0][0] <= now:  # they come while it runs
            core.push(heapq.heappop(events)[2])
        core.charge(job, cpu_ns)
        if job.queue == 1:
            work_ns += cpu_ns if now <= ends_ns else 0
        elif job.next_ns is None and job.counted:
            totals.append(now - job.came_ns)
        if job.next_ns is not None:
            heapq.heappush(events, ((now // MS + 1) * MS, next(order), job))
    ordered = sorted(total / US for total in totals)
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Simulated(setup, len(totals), p50, p90, p99, work_ns / ends_ns)


def _endless(kind: Kind, seed: int) -> Iterator[int]:
    chance = random.Random(seed)
    while True:
        yield chance.randint(*kind.cpu_us) * US
