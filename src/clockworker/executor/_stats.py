"""Statistics: what `executor.stats()` and `executor.queue_stats()` return. Counters run since the executor was made."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterable
from itertools import zip_longest
from operator import add, sub
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from clockworker.executor._histogram_cy import BUCKETS, Histogram, bucket_bound_ns

if TYPE_CHECKING:
    from clockworker.executor._running_queue_cy import RunningQueue


class DurationStats(msgspec.Struct, frozen=True):
    """Durations, counted in buckets that add up.

    buckets: bucket i < 16 counts those of i ns; from there on each power of two has 8 buckets of equal width
        (`_histogram_cy.bucket_bound_ns`). The last, 279, also has those over 137 s. Trailing zeros are left out.
    max_ns, total_ns: the longest, and all of them together.
    """

    buckets: tuple[int, ...] = ()
    max_ns: int = 0
    total_ns: int = 0

    @classmethod
    def of(cls, histogram: Histogram) -> DurationStats:
        """What the histogram has counted so far."""
        return cls(histogram.buckets(), histogram.max_ns, histogram.total_ns)

    @classmethod
    def sum(cls, parts: Iterable[DurationStats]) -> DurationStats:
        """Of several queues, shards or times, together. parts: one for each."""
        parts = list(parts)
        if len(parts) == 2:  # the most frequent case, five times as quickly
            less, more = sorted((part.buckets for part in parts), key=len)
            buckets = (*map(add, less, more), *more[len(less) :])
        else:
            buckets = tuple(map(sum, zip_longest(*(part.buckets for part in parts), fillvalue=0)))
        return cls(
            buckets,
            max((part.max_ns for part in parts), default=0),
            sum(part.total_ns for part in parts),
        )

    def since(self, earlier: DurationStats) -> DurationStats:
        """Those that have come since `earlier` was taken of the same histogram. Their longest is not known better than by
        its bucket."""
        buckets = [*map(sub, self.buckets, earlier.buckets), *self.buckets[len(earlier.buckets) :]]
        while buckets and buckets[-1] == 0:
            buckets.pop()
        longest = self.max_ns if buckets else 0
        if 0 < len(buckets) < BUCKETS:
            longest = min(longest, bucket_bound_ns(len(buckets) - 1))
        return DurationStats(tuple(buckets), longest, self.total_ns - earlier.total_ns)

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.buckets)

    def quantile_ns(self, fraction: float) -> int:
        """A bound, at most an eighth too high, that this fraction of the durations does not exceed; 0 if there are none."""
        wanted = fraction * self.count
        seen = 0
        for bucket, count in enumerate(self.buckets):
            seen += count
            if seen >= wanted and seen:
                return min(bucket_bound_ns(bucket), self.max_ns) if bucket < BUCKETS - 1 else self.max_ns
        return self.max_ns


class QueueStats(msgspec.Struct, frozen=True):
    """One queue. Times are nanoseconds, steps of tasks only. Those of steps (`busy_ns`, `poll_time`, `top_groups`) are what the
    steps had of the core, blocked time included; what others had meanwhile is `stolen_ns`. Waits are the wall clock's.

    key, share: as the queue was declared.
    runnable, tasks: how many there are now; a task is one that was spawned or inherited and is not done.
    polls, busy_ns: steps, and what they took together.
    stolen_ns: by other processes, a quota or other guests while its steps ran, in pieces of 50 us or more.
    spawned, finished, panics: tasks that began by `spawn`, that ended (inherited ones too), and that raised.
    slice_overruns: steps that took longer than the queue's slice.
    preemptions: steps during which a queue with an earlier deadline became runnable.
    poll_time: of each step. first_poll_wait: from a task's start to its first step.
    wait: of runnable tasks for their step; one in 13 is measured.
    slow_polls: steps that took as long as `report_slow_polls` says, or longer.
    top_groups: those of now with the most CPU time, and how much, in ns.
    preemptive: steps are cut; then poll_time is of their slices, and slow_polls counts slices too.
    cuts: of steps. refusals: of cuts, by reason: "lock", "guarded", "no_preempt", ...
    whole_step: of each step, all slices together; poll_time where nothing is cut.
    part: what the share is worth while all queues are busy, in millionths of the core; on trio 0.
    """

    key: Hashable
    share: int
    runnable: int
    tasks: int
    polls: int
    busy_ns: int
    stolen_ns: int
    spawned: int
    finished: int
    panics: int
    slice_overruns: int
    preemptions: int
    poll_time: DurationStats
    first_poll_wait: DurationStats
    wait: DurationStats
    slow_polls: int
    top_groups: tuple[tuple[Hashable, int], ...]
    preemptive: bool = False
    cuts: int = 0
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    whole_step: DurationStats = DurationStats()
    part: int = 0


class QueueGroupStats(msgspec.Struct, frozen=True):
    """One group of queues: what its queues have, those in groups within it too.

    key, share: as it was declared, or set since. queues: the keys of its queues. outer: the key of the group around it; None:
    none. got: its part of what all have had that stand beside it, itself included: of `busy_ns`, since the executor was made.
    wanted: its part of the shares there. runnable, tasks, polls, busy_ns, stolen_ns: see `QueueStats`.
    """

    key: Hashable
    share: int
    queues: tuple[Hashable, ...]
    outer: Hashable
    wanted: float
    got: float
    runnable: int
    tasks: int
    polls: int
    busy_ns: int
    stolen_ns: int


class ExecutorStats(msgspec.Struct, frozen=True):
    """The executor: its queues added up, and the turns that it took on the loop.

    runnable, tasks, polls, busy_ns, stolen_ns, spawned, finished, panics, cuts: see `QueueStats`.
    turns: of the executor on the loop.
    driver_ns: the loop's own time while tasks were runnable: sockets, timers, other callbacks.
    idle_ns: while nothing was runnable.
    decision_time: to choose queue and task; one choice in 16 is measured.
    """

    runnable: int
    tasks: int
    polls: int
    busy_ns: int
    stolen_ns: int
    spawned: int
    finished: int
    panics: int
    turns: int
    driver_ns: int
    idle_ns: int
    decision_time: DurationStats
    cuts: int = 0


class Turns(Protocol):
    """What has run the steps: the core of an executor on asyncio, the gate of one on trio."""

    @property
    def turns(self) -> int: ...
    @property
    def driver_ns(self) -> int: ...
    @property
    def idle_ns(self) -> int: ...
    @property
    def decision_time(self) -> Histogram: ...


def executor_stats(turns: Turns, queues: Collection[RunningQueue], *, cuts: int = 0) -> ExecutorStats:
    """Counters over all queues, and gauges of now."""
    return ExecutorStats(
        runnable=sum(queue.runnable for queue in queues),
        tasks=sum(queue.live for queue in queues),
        polls=sum(queue.polls for queue in queues),
        busy_ns=sum(queue.busy_ns for queue in queues),
        stolen_ns=sum(queue.stolen_ns for queue in queues),
        spawned=sum(queue.spawned for queue in queues),
        finished=sum(queue.finished for queue in queues),
        panics=sum(queue.panics for queue in queues),
        turns=turns.turns,
        driver_ns=turns.driver_ns,
        idle_ns=turns.idle_ns,
        decision_time=DurationStats.of(turns.decision_time),
        cuts=cuts,
    )


def queue_stats(
    queue: RunningQueue, top_groups: int, *, whole_step: DurationStats | None = None, **own: Any
) -> QueueStats:
    """Counters and gauges of one queue. whole_step: as `QueueStats` has it; None: nothing is cut. own: its other fields, of a
    queue on asyncio."""
    poll_time = DurationStats.of(queue.poll_time)
    return QueueStats(
        key=queue.key,
        share=queue.entity.share,
        runnable=queue.runnable,
        tasks=queue.live,
        polls=queue.polls,
        busy_ns=queue.busy_ns,
        stolen_ns=queue.stolen_ns,
        spawned=queue.spawned,
        finished=queue.finished,
        panics=queue.panics,
        slice_overruns=queue.slice_overruns,
        preemptions=queue.preemptions,
        poll_time=poll_time,
        first_poll_wait=DurationStats.of(queue.first_poll_wait),
        wait=DurationStats.of(queue.wait),
        slow_polls=queue.slow_polls,
        top_groups=_top_groups(queue, top_groups),
        whole_step=poll_time if whole_step is None else whole_step,
        **own,
    )


def _top_groups(queue: RunningQueue, count: int) -> tuple[tuple[Hashable, int], ...]:
    groups = list(queue.groups.values())  # at once: another thread may ask
    top = heapq.nlargest(count, groups, key=lambda membership: membership.service_ns)
    return tuple((membership.group, membership.service_ns) for membership in top)
