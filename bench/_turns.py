"""What the turns of a shard's loop are made of: how much of the CPU's time each takes of the thread, what the collector of
cycles and the kernel take of that. What else the machine does is not seen.

A callback in each turn looks at the clock, so the loop never sleeps while it is watched.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from typing import Any

import msgspec

_PASSES = 3  # generations
_EMPTY_NS = 20_000  # a turn in which nothing is done takes less


class Watched(msgspec.Struct, frozen=True):
    """Since the last look. ms of the thread's CPU time. Of turns in which something was done, the percentiles are by time: so
    long is the turn, at least, in which one of so many events comes that come at any time.

    user_share, kernel_share: of the time that went by. collections: passes, by generation. collector_ms: all of them; longest.
    garbage: objects that were found.
    """

    turns: int
    busy_share: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    user_share: float
    kernel_share: float
    collections: list[int]
    collector_ms: float
    longest_collection_ms: float
    garbage: int

    def __str__(self) -> str:
        passes = "/".join(map(str, self.collections))
        return (
            f"busy {self.busy_share:.0%}, turn p50 {self.p50_ms:.2f}, p99 {self.p99_ms:.2f}, longest {self.longest_ms:.1f} ms; "
            f"user {self.user_share:.0%}, kernel {self.kernel_share:.0%}; collections {passes}, {self.collector_ms:.1f} ms, "
            f"longest {self.longest_collection_ms:.1f}, {self.garbage:,} objects"
        )


class Turns:
    """Of this thread's loop, from now on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        gc.callbacks.append(self._collection)
        self._begin()
        self._loop.call_soon(self._turn)

    def look(self) -> Watched:
        turns, total = sorted(self._turns), sum(self._turns)
        usage, now = resource.getrusage(resource.RUSAGE_THREAD), time.monotonic()
        elapsed = now - self._since
        found = Watched(
            len(turns),
            total / 1e9 / elapsed,
            by_time(turns, 0.5 * total) / 1e6,
            by_time(turns, 0.99 * total) / 1e6,
            by_time(turns, total) / 1e6,
            (usage.ru_utime - self._usage.ru_utime) / elapsed,
            (usage.ru_stime - self._usage.ru_stime) / elapsed,
            self._collections,
            self._collector_ns / 1e6,
            self._longest_ns / 1e6,
            self._garbage,
        )
        self._begin()
        return found

    def _begin(self) -> None:
        self._turns: list[int] = []
        self._collections = [0] * _PASSES
        self._collector_ns = self._longest_ns = self._garbage = self._collecting_since = 0
        self._usage, self._since = resource.getrusage(resource.RUSAGE_THREAD), time.monotonic()
        self._last = time.thread_time_ns()

    def _turn(self) -> None:
        now = time.thread_time_ns()
        if now - self._last >= _EMPTY_NS:
            self._turns.append(now - self._last)
        self._last = now
        self._loop.call_soon(self._turn)

    def _collection(self, phase: str, info: dict[str, Any]) -> None:
        now = time.thread_time_ns()
        if phase == "start":
            self._collecting_since = now
            return
        self._collections[info["generation"]] += 1
        self._garbage += info["collected"]
        self._collector_ns += now - self._collecting_since
        self._longest_ns = max(self._longest_ns, now - self._collecting_since)


def by_time(turns: list[int], total: float) -> int:
    """The turn by which so much time has gone by, of turns in order of their length."""
    for turn in turns:
        total -= turn
        if total <= 0:
            return turn
    return turns[-1] if turns else 0
