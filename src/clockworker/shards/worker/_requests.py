"""What the HTTP servers of a shard have counted, as one reading.

They count where requests run, in objects of their own; here is what those must have. Several of them may be of one queue and
route: of two rules with the same path, of two servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from clockworker.executor import DurationStats
from clockworker.executor._histogram_cy import Histogram
from clockworker.shards.protocol._request_readings import OTHER, ROUTE_BYTES, Requests, RouteReading


class Target(Protocol):
    """Where requests run, and what has been counted of them. statuses: by the first digit, from 0 (none was sent) to 5."""

    @property
    def queue(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def statuses(self) -> Sequence[int]: ...
    @property
    def refused(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def websockets(self) -> int: ...
    @property
    def seconds(self) -> Histogram: ...


class _Entry:
    """A target, and the reading of it that is still right."""

    __slots__ = ("_counted", "_reading", "queue", "route", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self._counted: object = None
        self._reading = RouteReading()
        self.queue = target.queue
        self.route = _cut(target.route)

    def read(self) -> RouteReading:
        target = self.target
        s0, s1, s2, s3, s4, s5 = target.statuses
        refused, running, waiting, websockets = target.refused, target.running, target.waiting, target.websockets
        counted = s0, s1, s2, s3, s4, s5, refused, running, waiting, websockets, target.seconds.total_ns
        if counted != self._counted:  # a histogram is copied only when it has something new
            time = DurationStats.of(target.seconds)
            self._reading = RouteReading(s0, s1, s2, s3, s4, s5, refused, running, waiting, websockets, time)
            self._counted = counted
        return self._reading


class RequestBook:
    """Of one shard."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._readings: list[RouteReading] = []
        self._requests = Requests()

    def add(self, targets: Iterable[Target]) -> None:
        """Have these read, too, for as long as the shard lives: counters do not go back."""
        self._entries += map(_Entry, targets)

    def answered(self) -> int:
        """How many requests are over."""
        return sum(sum(entry.target.statuses) for entry in self._entries)

    def read(self) -> Requests:
        """The same object as before if nothing has happened since."""
        readings = [entry.read() for entry in self._entries]
        if len(readings) != len(self._readings) or any(map(_differ, readings, self._readings)):
            self._readings = readings
            self._requests = Requests.of(
                (entry.queue, entry.route, reading) for entry, reading in zip(self._entries, readings, strict=True)
            )
        return self._requests


def _differ(one: RouteReading, other: RouteReading) -> bool:
    return one is not other


def _cut(route: str) -> str:
    """As long as there is room for, between two characters."""
    return route.encode(errors="replace")[:ROUTE_BYTES].decode(errors="ignore") or OTHER
