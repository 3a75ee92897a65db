"""What is known of a shard at one moment, as frozen numbers, and how readings are added and subtracted. Pure.

A figure is one field of one of the sections below, and says itself how it is summed and what it is on the page of metrics
(`_figures`): the slots, the books, the page and the JSON follow. To add one, add its field, and count it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from clockworker.executor import DurationStats
from clockworker.shards.protocol._figures import Family, Section, counter, gauge, peak
from clockworker.shards.protocol._request_readings import Requests
from clockworker.shards.protocol._topic_readings import TopicReadings

MAX_GROUPS = 8
MAX_COUNTERS = 32
MAX_COUNTER = 2**63 - 1
COUNTER_NAME_BYTES = 56
RESERVED_NAMES = ("clockworker_", "process_")

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def is_counter_name(name: str) -> bool:
    """Whether Prometheus would take it, and the slots have room for it."""
    return len(name) <= COUNTER_NAME_BYTES and _NAME.fullmatch(name) is not None


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
        """Of several shards or queues: groups of one name are added up."""
        used: dict[str, int] = {}
        for part in parts:
            for name, ns in part.service_ns.items():
                used[name] = used.get(name, 0) + ns
        return cls.largest(used)

    @classmethod
    def largest(cls, used: dict[str, int]) -> Groups:
        """The `MAX_GROUPS` that have used the most."""
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
        """Of several shards: those of one name are added up."""
        values: dict[str, int] = {}
        for part in parts:
            for name, value in part.values.items():
                values[name] = values.get(name, 0) + value
        return cls(values)


_CPU = Family("process_cpu_seconds", "CPU time of the shard's process, as the kernel counts it.", "mode")
_FAULTS = Family(
    "process_page_faults", "Page faults of the shard's process; major ones had to read from a device.", "kind"
)
_SWITCHES = Family(
    "process_context_switches",
    "Context switches of the shard's process; involuntary ones took the CPU from it.",
    "kind",
)


class ProcessReading(Section, frozen=True):
    """What the kernel counts of the process. The run delay is of its main thread."""

    cpu_user_ns: Annotated[int, counter(_CPU, "user")] = 0
    cpu_system_ns: Annotated[int, counter(_CPU, "system")] = 0
    run_delay_ns: Annotated[
        int,
        counter("process_run_delay_seconds", "Time in which the shard could have run and something else had its CPU."),
    ] = 0
    minor_faults: Annotated[int, counter(_FAULTS, "minor")] = 0
    major_faults: Annotated[int, counter(_FAULTS, "major")] = 0
    voluntary_switches: Annotated[int, counter(_SWITCHES, "voluntary")] = 0
    involuntary_switches: Annotated[int, counter(_SWITCHES, "involuntary")] = 0
    rss_bytes: Annotated[int, gauge("process_resident_memory_bytes", "Resident memory of the shard's process.")] = 0

    @property
    def cpu_ns(self) -> int:
        return self.cpu_user_ns + self.cpu_system_ns


_BLOCKING = Family(
    "blocking_functions",
    "Functions of Shard.run_blocking and requests of WSGI that run in threads, and those that wait for one.",
    "state",
)


_PROCESSES = Family(
    "process_pool_functions",
    "Functions of Shard.run_process that run in processes, and those that wait for one.",
    "state",
)


class LoopReading(Section, frozen=True):
    """The event loop and the connections.

    lag: measured four times a second. decision_time: to choose queue and task, one choice in 16.
    """

    turns: Annotated[int, counter("executor_turns", "Turns that the executor took on the event loop.")] = 0
    driver_ns: Annotated[
        int,
        counter(
            "loop_driver_seconds", "The event loop's own time (sockets, timers, callbacks) while tasks were runnable."
        ),
    ] = 0
    idle_ns: Annotated[int, counter("loop_idle_seconds", "Time in which no task was runnable.")] = 0
    connections_accepted: Annotated[int, counter("connections_accepted", "Connections accepted.")] = 0
    connections_open: Annotated[
        int,
        gauge("connections_open", "Connections that are open: whose last byte has not gone to the kernel."),
    ] = 0
    handler_errors: Annotated[int, counter("handler_errors", "Connection handlers that raised.")] = 0
    blocking_running: Annotated[int, gauge(_BLOCKING, "running")] = 0
    blocking_waiting: Annotated[int, gauge(_BLOCKING, "waiting")] = 0
    processes_running: Annotated[int, gauge(_PROCESSES, "running")] = 0
    processes_waiting: Annotated[int, gauge(_PROCESSES, "waiting")] = 0
    processes_done: Annotated[
        int,
        counter("process_pool_functions_done", "Functions of Shard.run_process that have ended, however they did."),
    ] = 0
    lag: Annotated[DurationStats, counter("loop_lag_seconds", "How late a timer was.")] = DurationStats()
    decision_time: Annotated[DurationStats, counter()] = DurationStats()


_CALLS = Family(
    "calls",
    "Calls of services: run on the shard itself, sent to other shards, received from them.",
    "direction",
)
_ONE_WAYS = Family("one_way_calls", "Calls for which nobody waits.", "direction")
_FRAMES = Family("ring_frames", "Frames in the rings to and from all peers.", "direction")
_BYTES = Family("ring_bytes", "Bytes of the bodies of those frames.", "direction")


_SESSIONS_ENDED = Family(
    "cluster_sessions_ended",
    "Sessions with shards of other nodes that have ended, by reason; idle and bye are of peace.",
    "reason",
)

# Why a session ends (`cluster._session`).
SESSION_ENDS = ("gap", "silence", "anew", "bye", "idle", "rules", "version", "lost", "left")


class CallReading(Section, frozen=True):
    """Calls between shards, over all peers.

    ring_used_bytes: unread in the fullest ring to a peer, of ring_bytes; the page has their ratio.
    far_..., ended_...: of a node in a cluster.
    """

    local: Annotated[int, counter(_CALLS, "local", of="calls_local")] = 0
    sent: Annotated[int, counter(_CALLS, "sent", of="calls_sent")] = 0
    received: Annotated[int, counter(_CALLS, "received", of="calls_received")] = 0
    in_flight: Annotated[int, gauge("calls_in_flight", "Calls sent and not answered.", of="calls_in_flight")] = 0
    timed_out: Annotated[
        int,
        counter("calls_timed_out", "Calls that their caller's deadline has ended.", of="calls_timed_out"),
    ] = 0
    one_ways_sent: Annotated[int, counter(_ONE_WAYS, "sent")] = 0
    one_ways_received: Annotated[int, counter(_ONE_WAYS, "received")] = 0
    frames_sent: Annotated[int, counter(_FRAMES, "sent")] = 0
    frames_received: Annotated[int, counter(_FRAMES, "received")] = 0
    bytes_sent: Annotated[int, counter(_BYTES, "sent")] = 0
    bytes_received: Annotated[int, counter(_BYTES, "received")] = 0
    credit_waits: Annotated[int, counter("credit_waits", "Calls that had to wait for credit.")] = 0
    waiting: Annotated[
        int,
        gauge(
            "calls_waiting",
            "Calls that wait for credit, for room in a ring, or for a shard that is being replaced.",
            of="calls_waiting",
        ),
    ] = 0
    longest_wait_ns: Annotated[int, peak("calls_longest_wait_seconds", "How long the first of them has waited.")] = 0
    wakeups: Annotated[int, counter("doorbell_wakeups", "Times that a peer woke the sleeping shard.")] = 0
    wakeups_in_vain: Annotated[
        int,
        counter(
            "doorbell_wakeups_in_vain",
            "Of these, by a bell rung ahead of what did not follow in time; where they are a large part, what peers send "
            "is large, or something else has their CPU.",
        ),
    ] = 0
    rings_ahead: Annotated[
        int,
        counter(
            "doorbell_rings_ahead",
            "Times that the shard rang a sleeping peer before what it woke it for was ready; 0 where shards are not "
            "pinned.",
        ),
    ] = 0
    missed_wakeups: Annotated[
        int,
        counter("doorbell_missed_wakeups", "Wake-ups that the fallback found to be lost; 0 unless something is wrong."),
    ] = 0
    ring_used_bytes: Annotated[int, peak()] = 0
    ring_bytes: Annotated[int, peak()] = 0
    far_calls: Annotated[int, counter("cluster_calls_sent", "Calls to shards of other nodes.")] = 0
    far_sessions: Annotated[int, gauge("cluster_sessions", "Sessions with shards of other nodes.")] = 0
    far_window_waits: Annotated[
        int,
        counter("cluster_window_waits", "Times that as much was under way to a shard of another node as may be."),
    ] = 0
    ended_gap: Annotated[int, counter(_SESSIONS_ENDED, "gap")] = 0
    ended_silence: Annotated[int, counter(_SESSIONS_ENDED, "silence")] = 0
    ended_anew: Annotated[int, counter(_SESSIONS_ENDED, "anew")] = 0
    ended_bye: Annotated[int, counter(_SESSIONS_ENDED, "bye")] = 0
    ended_idle: Annotated[int, counter(_SESSIONS_ENDED, "idle")] = 0
    ended_rules: Annotated[int, counter(_SESSIONS_ENDED, "rules")] = 0
    ended_version: Annotated[int, counter(_SESSIONS_ENDED, "version")] = 0
    ended_lost: Annotated[int, counter(_SESSIONS_ENDED, "lost")] = 0
    ended_left: Annotated[int, counter(_SESSIONS_ENDED, "left")] = 0

    @property
    def sessions_ended(self) -> dict[str, int]:
        """By reason, those that there were."""
        return {reason: count for reason in SESSION_ENDS if (count := getattr(self, f"ended_{reason}"))}


# Of a shard in no cluster.
NOTHING_FAR = {
    **dict.fromkeys(("far_calls", "far_sessions", "far_window_waits"), 0),
    **{f"ended_{reason}": 0 for reason in SESSION_ENDS},
}

_REFUSALS = Family(
    "queue_cut_refusals",
    "Cuts of the queue's steps that were due and could not be made then: a lock was held, or it was code that is never cut.",
    "reason",
)


class QueueReading(Section, frozen=True):
    """One queue.

    part: what the share is worth while all queues are busy, in millionths of the core.
    preemptive, cuts, refusals_...: of a queue whose steps are cut. Then poll_time is of slices, and whole_step of steps; of an
    ordinary queue whole_step is left empty. hogs: CPU time by the names of tasks whose steps were cut and took long, of those
    that did last.
    """

    share: Annotated[int, peak("queue_share", "The queue's share.")] = 0
    part: Annotated[int, peak()] = 0
    runnable: Annotated[int, gauge("queue_runnable", "Tasks that wait for their step.")] = 0
    tasks: Annotated[int, gauge("queue_tasks", "Tasks that are not done.")] = 0
    polls: Annotated[int, counter("queue_polls", "Steps of the queue's tasks.")] = 0
    busy_ns: Annotated[int, counter("queue_busy_seconds", "Time that steps of the queue's tasks had.")] = 0
    spawned: Annotated[int, counter("queue_tasks_spawned", "Tasks spawned into the queue.")] = 0
    finished: Annotated[int, counter("queue_tasks_finished", "Tasks of the queue that are done.")] = 0
    panics: Annotated[int, counter("queue_panics", "Spawned tasks that raised.")] = 0
    slice_overruns: Annotated[int, counter("queue_slice_overruns", "Steps longer than the queue's slice.")] = 0
    preemptions: Annotated[
        int,
        counter("queue_preemptions", "Steps during which a queue with an earlier deadline woke."),
    ] = 0
    slow_polls: Annotated[int, counter("queue_slow_polls", "Steps longer than the limit of the slow-poll log.")] = 0
    poll_time: Annotated[DurationStats, counter("queue_poll_seconds", "How long steps took.")] = DurationStats()
    wait: Annotated[
        DurationStats,
        counter("queue_wait_seconds", "Waits of runnable tasks for their step; one in 13 is measured."),
    ] = DurationStats()
    groups: Annotated[Groups, gauge()] = Groups()
    preemptive: Annotated[int, peak()] = 0
    cuts: Annotated[int, counter("queue_cuts", "Times that a step of the queue was cut.")] = 0
    refusals_lock: Annotated[int, counter(_REFUSALS, "lock")] = 0
    refusals_guarded: Annotated[int, counter(_REFUSALS, "guarded")] = 0
    refusals_no_preempt: Annotated[int, counter(_REFUSALS, "no_preempt")] = 0
    refusals_other: Annotated[int, counter(_REFUSALS, "other")] = 0
    whole_step: Annotated[
        DurationStats,
        counter("queue_whole_step_seconds", "How long steps of preemptive queues took, all slices together."),
    ] = DurationStats()
    hogs: Annotated[Groups, gauge()] = Groups()

    @property
    def refusals(self) -> dict[str, int]:
        """Cuts that were due and not made, by reason."""
        return {reason: getattr(self, f"refusals_{reason}") for reason in REASONS}


# Of cuts that are refused, as labels; "other" has those that pass by themselves: within the executor, a collection of garbage,
# a debugger's trace.
REASONS = ("lock", "guarded", "no_preempt", "other")


class RingReading(Section, frozen=True):
    """The traffic with one peer. None of it is on the page, whose series would then grow with the square of the shards.

    wakeups: how often it was asleep and was rung; wakeups_ahead: of them, before what it was woken for was ready.
    """

    frames_sent: Annotated[int, counter()] = 0
    frames_received: Annotated[int, counter()] = 0
    bytes_sent: Annotated[int, counter()] = 0
    bytes_received: Annotated[int, counter()] = 0
    credit_waits: Annotated[int, counter()] = 0
    wakeups: Annotated[int, counter()] = 0
    wakeups_ahead: Annotated[int, counter()] = 0
    calls_in_flight: Annotated[int, gauge()] = 0
    used_bytes: Annotated[int, gauge(of="ring_used_bytes")] = 0


class Reading(msgspec.Struct, frozen=True):
    """One shard. written_ns: the monotonic clock's time; 0 if the shard has not come to it yet."""

    written_ns: int
    process: ProcessReading
    loop: LoopReading
    calls: CallReading
    queues: dict[str, QueueReading]
    counters: Counters = Counters()
    http: Requests = Requests()
    topics: TopicReadings = TopicReadings()

    @classmethod
    def nothing(cls, queues: Iterable[str] = ()) -> Reading:
        """What a shard says that has done nothing yet."""
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
            self.http.then(later.http),
            self.topics.then(later.topics),
        )

    def since(self, earlier: Reading) -> Reading:
        """What has come since, see `Section`. A queue that was not there before has had it all since."""
        return Reading(
            self.written_ns,
            self.process.since(earlier.process),
            self.loop.since(earlier.loop),
            self.calls.since(earlier.calls),
            {
                name: msgspec.structs.replace(
                    queue.since(before := earlier.queues.get(name, _NO_QUEUE)),
                    groups=queue.groups.since(before.groups),
                    hogs=queue.hogs.since(before.hogs),
                )
                for name, queue in self.queues.items()
            },
            self.counters.since(earlier.counters),
            self.http.since(earlier.http),
            self.topics.since(earlier.topics),
        )

    @classmethod
    def total(cls, parts: Iterable[Reading]) -> Reading:
        """Of several shards together. written_ns: the oldest."""
        parts = list(parts)
        names = dict.fromkeys(name for part in parts for name in part.queues)
        return cls(
            min((part.written_ns for part in parts), default=0),
            ProcessReading.total(part.process for part in parts),
            LoopReading.total(part.loop for part in parts),
            CallReading.total(part.calls for part in parts),
            {name: QueueReading.total(part.queues[name] for part in parts if name in part.queues) for name in names},
            Counters.total(part.counters for part in parts),
            Requests.total(part.http for part in parts),
            TopicReadings.total(part.topics for part in parts),
        )

    def summary(self) -> str:
        """One line, for the log."""
        polls, busy_ns = (sum(getattr(queue, name) for queue in self.queues.values()) for name in ("polls", "busy_ns"))
        requests = (
            f"{sum(sum(row.statuses) for _, _, row in self.http.rows())} requests, " if self.http.by_queue else ""
        )
        return (
            f"{self.loop.connections_accepted} connections ({self.loop.connections_open} open), {requests}{polls} polls, "
            f"{busy_ns / 1e9:.1f} s busy, calls: {self.calls.local} local, {self.calls.sent} sent, "
            f"{self.calls.received} received, missed wake-ups: {self.calls.missed_wakeups}"
        )


_NO_QUEUE = QueueReading()
