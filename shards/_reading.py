"""What is known of a shard at one moment, as frozen numbers, and how readings are added and subtracted. Pure.

Most fields are counters: they only grow while the shard lives. Each section names the fields that are not: `GAUGES` are of
the moment (over several shards they are added up), and `PEAKS` too, but of them the largest counts. So one rule does for
all the sums there are:

    a.then(b)        a shard's dead incarnations, and its present one: counters a + b, the rest is b's
    b.since(a)       what has come since an earlier reading: counters b - a, the rest is b's
    total([a, b])    several shards or queues together

Histograms are counters of many buckets and obey the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import msgspec

from clockworker.executor import DurationStats

MAX_GROUPS = 8
MAX_COUNTERS = 32
MAX_COUNTER = 2**63 - 1
COUNTER_NAME_BYTES = 56
RESERVED_NAMES = ("clockworker_", "process_")

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def is_counter_name(name: str) -> bool:
    """Whether Prometheus would take it, and the slots have room for it."""
    return len(name) <= COUNTER_NAME_BYTES and _NAME.fullmatch(name) is not None


class Section(msgspec.Struct, frozen=True):
    GAUGES: ClassVar[frozenset[str]] = frozenset()
    PEAKS: ClassVar[frozenset[str]] = frozenset()

    def then(self, later: Self) -> Self:
        return type(self)(
            *[
                new if name in self.GAUGES or name in self.PEAKS else _plus(old, new)
                for name, old, new in zip(self.__struct_fields__, _values(self), _values(later), strict=True)
            ]
        )

    def since(self, earlier: Self) -> Self:
        return type(self)(
            *[
                new if name in self.GAUGES or name in self.PEAKS else _minus(new, old)
                for name, old, new in zip(self.__struct_fields__, _values(earlier), _values(self), strict=True)
            ]
        )

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        rows = [_values(part) for part in parts]
        if not rows:
            return cls()
        return cls(
            *[
                max(column) if name in cls.PEAKS else _sum(column)
                for name, column in zip(cls.__struct_fields__, zip(*rows, strict=True), strict=True)
            ]
        )


class Groups(msgspec.Struct, frozen=True):
    """CPU time by group: of the groups that have tasks now, those that have used the most. In ns, the largest first."""

    service_ns: dict[str, int] = {}

    def since(self, earlier: Groups) -> Groups:
        """What each has used since. One that was not seen before, or ended and came back, has used it all since."""
        used = {
            name: ns - before if (before := earlier.service_ns.get(name, 0)) <= ns else ns
            for name, ns in self.service_ns.items()
        }
        return Groups.largest(used)

    @classmethod
    def sum(cls, parts: Iterable[Groups]) -> Groups:
        used: dict[str, int] = {}
        for part in parts:
            for name, ns in part.service_ns.items():
                used[name] = used.get(name, 0) + ns
        return cls.largest(used)

    @classmethod
    def largest(cls, used: dict[str, int]) -> Groups:
        return cls(dict(sorted(used.items(), key=lambda item: item[1], reverse=True)[:MAX_GROUPS]))


class Counters(msgspec.Struct, frozen=True):
    """The application's own (`Shard.counter`), by name."""

    values: dict[str, int] = {}

    def then(self, later: Counters) -> Counters:
        """A counter that the later incarnation has not come to yet is what it was."""
        return Counters.total((self, later))

    def since(self, earlier: Counters) -> Counters:
        return Counters({name: value - earlier.values.get(name, 0) for name, value in self.values.items()})

    @classmethod
    def total(cls, parts: Iterable[Counters]) -> Counters:
        values: dict[str, int] = {}
        for part in parts:
            for name, value in part.values.items():
                values[name] = values.get(name, 0) + value
        return cls(values)


class ProcessReading(Section, frozen=True):
    """What the kernel counts of the process. run_delay_ns: in which its thread could have run, but another had the CPU."""

    GAUGES = frozenset({"rss_bytes"})

    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    run_delay_ns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0
    rss_bytes: int = 0

    @property
    def cpu_ns(self) -> int:
        return self.cpu_user_ns + self.cpu_system_ns


class LoopReading(Section, frozen=True):
    """The event loop and the connections.

    driver_ns: the loop's own time, for sockets, timers and callbacks, while tasks were runnable. idle_ns: while none was.
    blocking: functions of `Shard.run_blocking` that run, and calls that wait for a thread.
    lag: how late a timer was, four times a second. decision_time: to choose queue and task, one choice in 16.
    """

    GAUGES = frozenset({"connections_open", "blocking_running", "blocking_waiting"})

    turns: int = 0
    driver_ns: int = 0
    idle_ns: int = 0
    connections_accepted: int = 0
    connections_open: int = 0
    handler_errors: int = 0
    blocking_running: int = 0
    blocking_waiting: int = 0
    lag: DurationStats = DurationStats()
    decision_time: DurationStats = DurationStats()


class CallReading(Section, frozen=True):
    """Calls between shards, over all peers.

    wakeups: by the doorbell, of this shard. wakeups_in_vain: of them, by a bell rung ahead of what did not follow soon enough.
    rings_ahead: sleeping peers that it rang before what they were woken for was ready. missed_wakeups: those that the fallback
    found; 0 unless something is wrong. waiting: for credit, for room in a ring, or for a peer that is being replaced;
    longest_wait_ns: the first of these. ring_used_bytes: unread in the fullest ring to a peer, of ring_bytes.
    """

    GAUGES = frozenset({"in_flight", "waiting"})
    PEAKS = frozenset({"longest_wait_ns", "ring_used_bytes", "ring_bytes"})

    local: int = 0
    sent: int = 0
    received: int = 0
    in_flight: int = 0
    timed_out: int = 0
    one_ways_sent: int = 0
    one_ways_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    credit_waits: int = 0
    waiting: int = 0
    longest_wait_ns: int = 0
    wakeups: int = 0
    wakeups_in_vain: int = 0
    rings_ahead: int = 0
    missed_wakeups: int = 0
    ring_used_bytes: int = 0
    ring_bytes: int = 0


class QueueReading(Section, frozen=True):
    """One queue. wait: from runnable to running; poll_time: of each step."""

    GAUGES = frozenset({"runnable", "tasks", "groups"})
    PEAKS = frozenset({"share"})

    share: int = 0
    runnable: int = 0
    tasks: int = 0
    polls: int = 0
    busy_ns: int = 0
    spawned: int = 0
    finished: int = 0
    panics: int = 0
    slice_overruns: int = 0
    preemptions: int = 0
    slow_polls: int = 0
    poll_time: DurationStats = DurationStats()
    wait: DurationStats = DurationStats()
    groups: Groups = Groups()


class RingReading(Section, frozen=True):
    """The traffic with one peer. wakeups: how often it was asleep and was rung; wakeups_ahead: of them, before what it was
    woken for was ready."""

    GAUGES = frozenset({"calls_in_flight", "used_bytes"})

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    credit_waits: int = 0
    wakeups: int = 0
    wakeups_ahead: int = 0
    calls_in_flight: int = 0
    used_bytes: int = 0


class Reading(msgspec.Struct, frozen=True):
    """One shard. written_ns: the monotonic clock's time; 0 if the shard has not come to it yet."""

    written_ns: int
    process: ProcessReading
    loop: LoopReading
    calls: CallReading
    queues: dict[str, QueueReading]
    counters: Counters = Counters()

    @classmethod
    def nothing(cls, queues: Iterable[str] = ()) -> Reading:
        return cls(0, ProcessReading(), LoopReading(), CallReading(), {queue: QueueReading() for queue in queues})

    def then(self, later: Reading) -> Reading:
        """A queue that a later version of the application does not have keeps what it has counted."""
        names = dict.fromkeys((*later.queues, *self.queues))
        return Reading(
            later.written_ns,
            self.process.then(later.process),
            self.loop.then(later.loop),
            self.calls.then(later.calls),
            {name: self.queues.get(name, _NO_QUEUE).then(later.queues.get(name, _NO_QUEUE)) for name in names},
            self.counters.then(later.counters),
        )

    def since(self, earlier: Reading) -> Reading:
        return Reading(
            self.written_ns,
            self.process.since(earlier.process),
            self.loop.since(earlier.loop),
            self.calls.since(earlier.calls),
            {
                name: msgspec.structs.replace(
                    queue.since(before := earlier.queues.get(name, _NO_QUEUE)), groups=queue.groups.since(before.groups)
                )
                for name, queue in self.queues.items()
            },
            self.counters.since(earlier.counters),
        )

    @classmethod
    def total(cls, parts: Iterable[Reading]) -> Reading:
        parts = list(parts)
        names = dict.fromkeys(name for part in parts for name in part.queues)
        return cls(
            min((part.written_ns for part in parts), default=0),
            ProcessReading.total(part.process for part in parts),
            LoopReading.total(part.loop for part in parts),
            CallReading.total(part.calls for part in parts),
            {name: QueueReading.total(part.queues[name] for part in parts if name in part.queues) for name in names},
            Counters.total(part.counters for part in parts),
        )

    def summary(self) -> str:
        """One line, for the log."""
        polls, busy_ns = (sum(getattr(queue, name) for queue in self.queues.values()) for name in ("polls", "busy_ns"))
        return (
            f"{self.loop.connections_accepted} connections ({self.loop.connections_open} open), {polls} polls, "
            f"{busy_ns / 1e9:.1f} s busy, calls: {self.calls.local} local, {self.calls.sent} sent, "
            f"{self.calls.received} received, missed wake-ups: {self.calls.missed_wakeups}"
        )


_NO_QUEUE = QueueReading()


def _values(section: Section) -> tuple[Any, ...]:
    return msgspec.structs.astuple(section)


def _plus(old: Any, new: Any) -> Any:
    return DurationStats.sum((old, new)) if type(old) is DurationStats else old + new


def _minus(new: Any, old: Any) -> Any:
    return new.since(old) if type(old) is DurationStats else new - old


def _sum(column: tuple[Any, ...]) -> Any:
    kind = type(column[0])
    return kind.sum(column) if kind is DurationStats or kind is Groups else sum(column)
