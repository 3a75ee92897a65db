"""Who computes without an await: the eye on the steps of preemptive queues.

Such a step holds up nobody but its own queue, so that no stall tells of it. But its queue does wait, and whoever looks for what
uses the core wants a name. A step that has ended is known by its slices (`was_long`). One that goes on is seen at each look,
four times a second, as what its queue has suspended; that it is still the same step is known by the queue's number of steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from clockworker.executor import QueueHandle
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.protocol._reading import MAX_GROUPS, Groups

log = logging.getLogger("clockworker.shard")

LONG_S = 1.0  # of CPU time, in which others ran: said in the log
NAME_BYTES = 32  # of a task, in figures
AGAIN = 8  # times as long, before it is said of the same step again


def warn_of_queue(queue: str, text: str, *values: object) -> None:
    """A line of this queue, to be said outside of its steps, where the record would not find it by itself."""
    record = log.makeRecord(log.name, logging.WARNING, __file__, 0, text, values, None)
    record.queue = queue
    if shown := getattr(record, "where", None):
        record.where = f"{shown} {queue}"
    log.handle(record)


class _Going:
    """A step that goes on, as it was when it was first seen. counted_ns: how much of it its task has been given."""

    __slots__ = ("busy_ns", "counted_ns", "cuts", "polls", "say_after_s")

    def __init__(self, polls: int, busy_ns: int, cuts: int) -> None:
        self.polls = polls
        self.busy_ns = busy_ns
        self.cuts = cuts
        self.counted_ns = 0
        self.say_after_s = LONG_S


class HogWatch:
    """Of the preemptive queues among these."""

    def __init__(self, queues: Sequence[QueueHandle]) -> None:
        self._queues = {str(queue.key): queue._queue for queue in queues if queue._queue.preemptive}
        self._going: dict[str, _Going] = {}
        self._hogs: dict[str, dict[str, int]] = {name: {} for name in self._queues}  # the last of each is the latest
        self._limiters = {name: Limiter() for name in self._queues}

    def hogs(self, queue: str) -> Groups:
        return Groups(dict(self._hogs.get(queue, {})))

    def look(self, now: float) -> None:
        """At the steps that go on. now: seconds."""
        for name, queue in self._queues.items():
            state = queue.suspended
            if state is None:
                self._going.pop(name, None)
                continue
            going = self._going.get(name)
            if going is None or going.polls != queue.polls:
                self._going[name] = _Going(queue.polls, queue.busy_ns, queue.cuts)
                continue
            elapsed_ns = queue.busy_ns - going.busy_ns
            self._count(name, state.task, elapsed_ns - going.counted_ns)
            going.counted_ns = elapsed_ns
            if elapsed_ns >= going.say_after_s * 1e9:
                going.say_after_s = AGAIN * elapsed_ns / 1e9
                self._say(name, state.task, elapsed_ns, queue.cuts - going.cuts, queue.runnable - 1, now)

    def was_long(self, queue: str, task: asyncio.Task[Any], elapsed_ns: int) -> None:
        """A step of the queue has ended."""
        going = self._going.pop(queue, None)
        is_it = going is not None and going.polls == self._queues[queue].polls - 1
        self._count(queue, task, elapsed_ns - (going.counted_ns if going is not None and is_it else 0))

    def _count(self, queue: str, task: asyncio.Task[Any], ns: int) -> None:
        # As long as there is room for: others that begin alike would take its place in the slots.
        hogs, name = self._hogs[queue], task.get_name().encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
        hogs[name] = hogs.pop(name, 0) + max(0, ns)
        if len(hogs) > MAX_GROUPS:
            del hogs[next(iter(hogs))]

    def _say(self, queue: str, task: asyncio.Task[Any], elapsed_ns: int, slices: int, waiting: int, now: float) -> None:
        unsaid = self._limiters[queue].may_say(now)
        if unsaid is not None:
            warn_of_queue(
                queue,
                "task %r in queue %r has computed for %.1f s without an await, in %d slices so far: others run in between, "
                "but none of its own queue, where %d wait%s",
                task.get_name(),
                queue,
                elapsed_ns / 1e9,
                slices,
                waiting,
                more(unsaid),
            )
