"""Statistics: what `executor.stats()` and `executor.queue_stats()` return. Counters run since the executor was made."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from clockworker.executor._histogram_cy import Histogram


class DurationStats(msgspec.Struct, frozen=True):
    """Durations, counted by powers of two of nanoseconds.

    buckets: bucket i counts those of 2**(i-1) to 2**i - 1 ns, bucket 0 those of 0; trailing zeros are left out.
    """

    buckets: tuple[int, ...]
    max_ns: int

    @classmethod
    def of(cls, histogram: Histogram) -> DurationStats:
        """What the histogram has counted so far."""
        return cls(histogram.buckets(), histogram.max_ns)

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.buckets)

    def quantile_ns(self, fraction: float) -> int:
        """A bound, at most twice too high, that this fraction of the durations does not exceed; 0 if there are none."""
        wanted = fraction * self.count
        seen = 0
        for length, count in enumerate(self.buckets):
            seen += count
            if seen >= wanted and seen:
                return min((1 << length) - 1, self.max_ns)
        return self.max_ns


class QueueStats(msgspec.Struct, frozen=True):
    """One queue. Times are nanoseconds of the thread's wall clock, steps of tasks only."""

    key: Hashable
    share: int
    runnable: int  # now
    tasks: int  # now: spawned or inherited, and not done
    polls: int
    busy_ns: int
    spawned: int
    finished: int  # those that were inherited included
    panics: int
    slice_overruns: int  # steps that took longer than the queue's slice
    preemptions: int  # steps during which a queue with an earlier deadline became runnable
    poll_time: DurationStats  # of each step
    first_poll_wait: DurationStats  # from a task's start to its first step
    top_groups: tuple[tuple[Hashable, int], ...]  # those of now with the most CPU time, and how much, in ns


class ExecutorStats(msgspec.Struct, frozen=True):
    """The executor: its queues added up, and the turns that it took on the loop."""

    runnable: int
    tasks: int
    polls: int
    busy_ns: int
    spawned: int
    finished: int
    panics: int
    turns: int
    driver_ns: int  # the loop's own time while tasks were runnable: sockets, timers, other callbacks
    idle_ns: int  # while nothing was runnable
    decision_time: DurationStats  # to choose queue and task; one choice in 16 is measured
