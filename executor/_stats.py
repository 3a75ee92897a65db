"""Statistics: what `executor.stats()` and `executor.queue_stats()` return. Counters run since the executor was made."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec


class QueueStats(msgspec.Struct, frozen=True):
    """One queue. Times are nanoseconds of the thread's wall clock, steps of tasks only."""

    key: Hashable
    share: int
    runnable: int  # now
    tasks: int  # now: spawned or inherited, and not done
    polls: int
    busy_ns: int
    spawned: int
    panics: int


class ExecutorStats(msgspec.Struct, frozen=True):
    """The executor: its queues added up, and the turns that it took on the loop."""

    runnable: int
    tasks: int
    polls: int
    busy_ns: int
    spawned: int
    panics: int
    turns: int
