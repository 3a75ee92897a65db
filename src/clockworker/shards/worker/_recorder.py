"""Writes a shard's slots, four times a second, and once while it rests, from its own event loop.

What a reading costs must not show: about 0.1 ms, and next to nothing where nothing has happened since the one before. One
thing can cost more, finding the groups that have used the most among very many; it is done as often as it takes no more
than one part in `GROUPS_DUTY` of the time.

A reading asks the application's own objects (schedulers, keys, counters) and the system, and any of them may raise. Then the
section that could not be made stays as it was, the others go on, and the log says so once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from clockworker.executor import DurationStats, Executor, QueueStats
from clockworker.executor._histogram_cy import Histogram
from clockworker.ipc import LinkStats, Mesh, TopicStats
from clockworker.shards.protocol._reading import (
    MAX_GROUPS,
    NOTHING_FAR,
    REASONS,
    CallReading,
    Counters,
    Groups,
    LoopReading,
    ProcessReading,
    QueueReading,
    Reading,
    RingReading,
)
from clockworker.shards.protocol._request_readings import Requests
from clockworker.shards.protocol._rest import next_tick
from clockworker.shards.protocol._slots import SlotWriter
from clockworker.shards.protocol._topic_readings import TopicReading, TopicReadings
from clockworker.shards.worker._hogs import HogWatch
from clockworker.shards.worker._usage import Usage

EVERY_S = 0.25
REST_EVERY_S = 1.0
REST_WRITE_S = 10.0  # the little that a shard at rest uses is told so often
GROUPS_DUTY = 200
SOON_S = 0.05

T = TypeVar("T")

log = logging.getLogger("clockworker.shard")


class Recorder:
    """connections: how many were accepted and are open, and how many handlers have raised. counters: the application's.
    blocking: how many functions run in threads, and wait for one. requests: what has been counted of HTTP; the same object as
    long as that is nothing new. processes: how many functions run in processes, wait for one, and are done. watch: on the steps
    of preemptive queues. Owns the writer."""

    def __init__(
        self,
        writer: SlotWriter,
        executor: Executor,
        mesh: Mesh,
        connections: Callable[[], tuple[int, int, int]],
        counters: Callable[[], Counters],
        blocking: Callable[[], tuple[int, int]] = lambda: (0, 0),
        requests: Callable[[], Requests] = Requests,
        processes: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0),
        watch: HogWatch | None = None,
        far: Callable[[], Mapping[str, int]] = lambda: NOTHING_FAR,
    ) -> None:
        self._writer = writer
        self._executor = executor
        self._mesh = mesh
        self._connections = connections
        self._counters = counters
        self._blocking = blocking
        self._requests = requests
        self._watch = watch
        self._far = far
        self._processes = processes
        self._usage = Usage()
        self._lag = Histogram()
        self._groups: dict[str, Groups] = {}
        self._groups_due_ns = 0
        self._last: dict[str, object] = {}  # sections, as they could be made last
        self._told: set[str] = set()  # what could not be made, and has been logged
        self._next_soon = 0.0
        self._topic_stats: dict[str, TopicStats] = {}
        self._topic_readings: dict[str, TopicReading] = {}

    def start(self) -> None:
        """On the running loop."""
        self._loop = asyncio.get_running_loop()
        self._resting = False
        self._done: object = None  # when it was written last
        self._written = 0.0
        self._due = self._loop.time()
        self._tick()

    def rest(self, resting: bool) -> None:
        """The shard has nothing to do, or has again."""
        self._resting = resting
        self._next.cancel()
        self._plan()

    def write_soon(self) -> None:
        """What nobody should have to wait for has happened. At once, unless that was done a moment ago."""
        now = self._loop.time()
        if now >= self._next_soon:
            self._next_soon = now + SOON_S
            try:
                self.write()
            except Exception:
                self._tell("statistics")

    def stop(self) -> None:
        """Write a last time. The executor and the mesh must still be there."""
        self._next_soon = math.inf
        self._next.cancel()
        self.write()
        self._writer.close()
        self._usage.close()

    def _tick(self) -> None:
        now = self._loop.time()
        self._lag.record(round((now - self._due) * 1e9))
        self._plan()  # before anything that may raise
        if self._watch is not None:
            self._made("steps", partial(self._watch.look, now), None)
        try:
            self._write_or_touch(now)
        except Exception:
            self._tell("statistics")

    def _write_or_touch(self, now: float) -> None:
        done = self._made("state", self._what_was_done, None)
        if self._resting and done == self._done and now - self._written < REST_WRITE_S:
            self._writer.touch(time.monotonic_ns())
        else:
            self._done, self._written = done, now
            self.write()

    def _what_was_done(self) -> object:
        return self._executor.turns, self._connections(), self._counters(), self._requests(), self._processes()

    def _plan(self) -> None:
        now = self._loop.time()
        self._due = next_tick(now, REST_EVERY_S) if self._resting else now + EVERY_S
        self._next = self._loop.call_at(self._due, self._tick)

    def write(self) -> None:
        nothing: list[LinkStats] = []
        links = self._made("links", self._mesh.link_stats, nothing)
        self._writer.write(self.reading(links), {link.peer: RingReading.of(link) for link in links})

    def reading(self, links: list[LinkStats]) -> Reading:
        queues = {str(queue.key): QueueReading() for queue in self._executor.queues()}
        return Reading(
            time.monotonic_ns(),
            self._made("process", self._usage.read, ProcessReading()),
            self._made("loop", self._loop_reading, LoopReading()),
            self._made("calls", lambda: self._call_reading(links), CallReading()),
            self._made("queues", self._queues, queues),
            self._made("counters", self._counters, Counters()),
            self._made("requests", self._requests, Requests()),
            self._made("topics", self._topics, TopicReadings()),
        )

    def _made(self, section: str, make: Callable[[], T], nothing: T) -> T:
        """The section, or what it was when it could be made last."""
        try:
            made = self._last[section] = make()
        except Exception:
            self._tell(section)
            return self._last.get(section, nothing)  # type: ignore[return-value]
        return made

    def _tell(self, section: str) -> None:
        if section not in self._told:
            self._told.add(section)
            log.exception("the %s of this shard cannot be read, and stand still until they can be", section)

    def _loop_reading(self) -> LoopReading:
        accepted, opened, errors = self._connections()
        running, waiting = self._blocking()
        in_processes, for_processes, done = self._processes()
        return LoopReading.of(
            self._executor.stats(),
            connections_accepted=accepted,
            connections_open=opened,
            handler_errors=errors,
            blocking_running=running,
            blocking_waiting=waiting,
            processes_running=in_processes,
            processes_waiting=for_processes,
            processes_done=done,
            lag=DurationStats.of(self._lag),
        )

    def _call_reading(self, links: list[LinkStats]) -> CallReading:
        return CallReading.of(
            self._mesh.stats(),
            self._mesh,
            rings_ahead=sum(link.wakeups_ahead for link in links),
            ring_used_bytes=max((link.ring_used_bytes for link in links), default=0),
            ring_bytes=max((link.ring_bytes for link in links), default=0),
            **self._far(),
        )

    def _topics(self) -> TopicReadings:
        """With the figures that nothing has happened to since as the same objects."""
        stats = self._mesh.topic_stats()
        if stats != self._topic_stats:
            before, self._topic_stats = self._topic_stats, stats
            self._topic_readings = {
                name: self._topic_readings[name] if before.get(name) == each else TopicReading.of(each)
                for name, each in stats.items()
            }
        return TopicReadings.of(self._topic_readings.items())

    def _queues(self) -> dict[str, QueueReading]:
        began = time.monotonic_ns()
        look = began >= self._groups_due_ns
        stats = self._executor.queue_stats(top_groups=MAX_GROUPS if look else 0)
        if look:
            self._groups_due_ns = began + GROUPS_DUTY * (time.monotonic_ns() - began)
            self._groups = {str(key): _groups(queue.top_groups) for key, queue in stats.items()}
        return {str(key): self._queue(str(key), queue) for key, queue in stats.items()}

    def _queue(self, name: str, stats: QueueStats) -> QueueReading:
        refusals = dict(stats.refusals)
        known = {f"refusals_{reason}": refusals.pop(reason, 0) for reason in REASONS[:-1]}
        return QueueReading.of(
            stats,
            groups=self._groups[name],
            **known,
            refusals_other=sum(refusals.values()),
            whole_step=stats.whole_step if stats.preemptive else DurationStats(),
            hogs=Groups() if self._watch is None else self._watch.hogs(name),
        )


def text_of(key: object) -> str:
    """Of the application's own objects, whose `__str__` may do what it likes."""
    try:
        return str(key)
    except Exception:
        return f"<{type(key).__name__}>"


def _groups(top: tuple[tuple[object, int], ...]) -> Groups:
    # Keys may be anything, and two of them may have one text.
    return Groups.sum(Groups({text_of(key): service_ns}) for key, service_ns in top)
