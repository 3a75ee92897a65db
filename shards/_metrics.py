"""The books as Prometheus metrics: a collector, and the page that it makes anew for each scrape. Needs the extra `metrics`.

Names follow Prometheus's conventions: base units, `_total` for counters. What belongs to a shard has the label `shard`,
what belongs to a queue has `queue` too. Histograms are given by queue over all shards, since a series for each shard and
bucket would be most of the page; nothing has a series for each pair of shards.

The numbers are listed apart from the families that name them, in the same order, so that a page needs no object for each
series (`_page`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from clockworker._version import __version__
from clockworker.executor import DurationStats, compiled
from clockworker.shards._ledger import Totals
from clockworker.shards._page import Page
from clockworker.shards._reading import QueueReading
from clockworker.shards._view import Presence

# Buckets that are shown: up to each fourth power of two of nanoseconds, 1 us to 17 s. They end where buckets of ours do: the
# durations below 2**k are in the first 8 * (k - 2).
_BUCKETS = [(str(2**k / 1e9), 8 * (k - 2)) for k in range(10, 35, 2)]


class Snapshot(msgspec.Struct, frozen=True):
    """What is known now. Sequences are by shard."""

    presences: Sequence[Presence]
    totals: Sequence[Totals]
    started: float  # seconds since the epoch
    now_ns: int  # monotonic


class _Figure(msgspec.Struct, frozen=True):
    """One family. `labels` beside shard and queue, with the values of each series in `values`' order."""

    name: str
    help: str
    values: Callable[..., tuple[float, ...]]
    counter: bool = True
    label: str = ""
    label_values: tuple[str, ...] = ()


class _Standing(msgspec.Struct, frozen=True):
    """How a shard stands, as the supervisor knows."""

    presence: Presence
    totals: Totals
    age_ns: int


def _s(ns: int) -> float:
    return ns / 1e9


_OF_SUPERVISOR: tuple[_Figure, ...] = (
    _Figure(
        "shard_ready",
        "1 while the shard is ready, else 0.",
        lambda s: (int(s.presence.state == "ready"),),
        counter=False,
    ),
    _Figure("shard_restarts", "Incarnations of the shard after the first.", lambda s: (s.totals.restarts,)),
    _Figure("shard_stalls", "Stalls of the shard's loop reported.", lambda s: (s.totals.stalls,)),
    _Figure(
        "shard_reading_age_seconds",
        "Age of the shard's figures; over two seconds, its loop does not turn.",
        lambda s: (_s(s.age_ns),),
        counter=False,
    ),
)

_OF_SHARD: tuple[_Figure, ...] = (
    _Figure(
        "process_cpu_seconds",
        "CPU time of the shard's process, as the kernel counts it.",
        lambda r: (_s(r.process.cpu_user_ns), _s(r.process.cpu_system_ns)),
        label="mode",
        label_values=("user", "system"),
    ),
    _Figure(
        "process_run_delay_seconds",
        "Time in which the shard could have run and something else had its CPU.",
        lambda r: (_s(r.process.run_delay_ns),),
    ),
    _Figure(
        "process_resident_memory_bytes",
        "Resident memory of the shard's process.",
        lambda r: (r.process.rss_bytes,),
        counter=False,
    ),
    _Figure(
        "process_page_faults",
        "Page faults of the shard's process; major ones had to read from a device.",
        lambda r: (r.process.minor_faults, r.process.major_faults),
        label="kind",
        label_values=("minor", "major"),
    ),
    _Figure(
        "process_context_switches",
        "Context switches of the shard's process; involuntary ones took the CPU from it.",
        lambda r: (r.process.voluntary_switches, r.process.involuntary_switches),
        label="kind",
        label_values=("voluntary", "involuntary"),
    ),
    _Figure("executor_turns", "Turns that the executor took on the event loop.", lambda r: (r.loop.turns,)),
    _Figure(
        "loop_driver_seconds",
        "The event loop's own time (sockets, timers, callbacks) while tasks were runnable.",
        lambda r: (_s(r.loop.driver_ns),),
    ),
    _Figure("loop_idle_seconds", "Time in which no task was runnable.", lambda r: (_s(r.loop.idle_ns),)),
    _Figure("connections_accepted", "Connections accepted.", lambda r: (r.loop.connections_accepted,)),
    _Figure(
        "connections_open",
        "Connections that are open: whose last byte has not gone to the kernel.",
        lambda r: (r.loop.connections_open,),
        counter=False,
    ),
    _Figure("handler_errors", "Connection handlers that raised.", lambda r: (r.loop.handler_errors,)),
    _Figure(
        "calls",
        "Calls of services: run on the shard itself, sent to other shards, received from them.",
        lambda r: (r.calls.local, r.calls.sent, r.calls.received),
        label="direction",
        label_values=("local", "sent", "received"),
    ),
    _Figure(
        "one_way_calls",
        "Calls for which nobody waits.",
        lambda r: (r.calls.one_ways_sent, r.calls.one_ways_received),
        label="direction",
        label_values=("sent", "received"),
    ),
    _Figure("calls_timed_out", "Calls that their caller's deadline has ended.", lambda r: (r.calls.timed_out,)),
    _Figure("calls_in_flight", "Calls sent and not answered.", lambda r: (r.calls.in_flight,), counter=False),
    _Figure(
        "ring_frames",
        "Frames in the rings to and from all peers.",
        lambda r: (r.calls.frames_sent, r.calls.frames_received),
        label="direction",
        label_values=("sent", "received"),
    ),
    _Figure(
        "ring_bytes",
        "Bytes of the bodies of those frames.",
        lambda r: (r.calls.bytes_sent, r.calls.bytes_received),
        label="direction",
        label_values=("sent", "received"),
    ),
    _Figure(
        "ring_fill_ratio",
        "Unread part of the fullest ring to a peer.",
        lambda r: (r.calls.ring_used_bytes / r.calls.ring_bytes if r.calls.ring_bytes else 0.0,),
        counter=False,
    ),
    _Figure("credit_waits", "Calls that had to wait for credit.", lambda r: (r.calls.credit_waits,)),
    _Figure(
        "calls_waiting",
        "Calls that wait for credit, for room in a ring, or for a shard that is being replaced.",
        lambda r: (r.calls.waiting,),
        counter=False,
    ),
    _Figure(
        "calls_longest_wait_seconds",
        "How long the first of them has waited.",
        lambda r: (_s(r.calls.longest_wait_ns),),
        counter=False,
    ),
    _Figure("doorbell_wakeups", "Times that a peer woke the sleeping shard.", lambda r: (r.calls.wakeups,)),
    _Figure(
        "doorbell_wakeups_in_vain",
        "Of these, by a bell rung ahead of what did not follow in time; where they are a large part, what peers send is large, "
        "or something else has their CPU.",
        lambda r: (r.calls.wakeups_in_vain,),
    ),
    _Figure(
        "doorbell_rings_ahead",
        "Times that the shard rang a sleeping peer before what it woke it for was ready; 0 where shards are not pinned.",
        lambda r: (r.calls.rings_ahead,),
    ),
    _Figure(
        "doorbell_missed_wakeups",
        "Wake-ups that the fallback found to be lost; 0 unless something is wrong.",
        lambda r: (r.calls.missed_wakeups,),
    ),
)

_OF_QUEUE: tuple[_Figure, ...] = (
    _Figure("queue_share", "The queue's share.", lambda q: (q.share,), counter=False),
    _Figure("queue_runnable", "Tasks that wait for their step.", lambda q: (q.runnable,), counter=False),
    _Figure("queue_tasks", "Tasks that are not done.", lambda q: (q.tasks,), counter=False),
    _Figure("queue_busy_seconds", "Time taken by steps of the queue's tasks.", lambda q: (_s(q.busy_ns),)),
    _Figure("queue_polls", "Steps of the queue's tasks.", lambda q: (q.polls,)),
    _Figure("queue_tasks_spawned", "Tasks spawned into the queue.", lambda q: (q.spawned,)),
    _Figure("queue_tasks_finished", "Tasks of the queue that are done.", lambda q: (q.finished,)),
    _Figure("queue_panics", "Spawned tasks that raised.", lambda q: (q.panics,)),
    _Figure("queue_slice_overruns", "Steps longer than the queue's slice.", lambda q: (q.slice_overruns,)),
    _Figure(
        "queue_preemptions", "Steps during which a queue with an earlier deadline woke.", lambda q: (q.preemptions,)
    ),
    _Figure("queue_slow_polls", "Steps longer than the limit of the slow-poll log.", lambda q: (q.slow_polls,)),
)


_HISTOGRAMS: tuple[tuple[str, str, Callable[[QueueReading], DurationStats]], ...] = (
    ("queue_wait_seconds", "Waits of runnable tasks for their step; one in 13 is measured.", lambda q: q.wait),
    ("queue_poll_seconds", "How long steps took.", lambda q: q.poll_time),
)


class Metrics:
    """snapshot: asked at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._page = Page()
        self._supervisor = ProcessCollector(registry=None)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that is accepted, and its content type. The supervisor's own process is on it, too."""
        snapshot = self._snapshot()
        process = list(self._supervisor.collect())
        values = [*_values(snapshot), *[sample.value for metric in process for sample in metric.samples]]
        queues = tuple(tuple(totals.reading.queues) for totals in snapshot.totals)
        shape = queues, tuple(_counters(snapshot)), len(process)
        return self._page.render(accept, shape, values, lambda: iter([*_families(snapshot), *process]))

    def collect(self) -> Iterator[Metric]:
        """For a registry of prometheus-client."""
        return _families(self._snapshot())


def _values(snapshot: Snapshot) -> list[float]:
    """Each number of each of `_families`, in their order."""
    readings = [totals.reading for totals in snapshot.totals]
    queues = [queue for reading in readings for queue in reading.queues.values()]
    values: list[float] = [1, snapshot.started]
    parts: tuple[tuple[tuple[_Figure, ...], Sequence[object]], ...] = (
        (_OF_SUPERVISOR, _standings(snapshot)),
        (_OF_SHARD, readings),
        (_OF_QUEUE, queues),
    )
    for figures, of in parts:
        for figure in figures:
            for part in of:
                values += figure.values(part)
    for reading in readings:
        values += (reading.loop.lag.count, _s(reading.loop.lag.total_ns))
    for name in _counters(snapshot):
        values += [reading.counters.values.get(name, 0) for reading in readings]
    for _, _, durations_of in _HISTOGRAMS:
        for name in _queues(snapshot):
            values += _cumulated(
                DurationStats.sum(durations_of(reading.queues[name]) for reading in readings if name in reading.queues)
            )
    return values


def _families(snapshot: Snapshot) -> Iterator[Metric]:
    values = iter(_values(snapshot))
    shards = [[str(shard)] for shard in range(len(snapshot.totals))]
    queues = [[str(shard), name] for shard, totals in enumerate(snapshot.totals) for name in totals.reading.queues]
    info = {"version": __version__, "compiled": str(compiled).lower()}
    next(values)  # an info is always 1
    yield InfoMetricFamily("clockworker", "The server's version, and whether it is compiled.", value=info)
    yield GaugeMetricFamily(
        "clockworker_start_time_seconds", "When the supervisor started, since the epoch.", value=next(values)
    )
    for figure in (*_OF_SUPERVISOR, *_OF_SHARD):
        yield _family(figure, ["shard"], shards, values)
    for figure in _OF_QUEUE:
        yield _family(figure, ["shard", "queue"], queues, values)
    lag = SummaryMetricFamily("clockworker_loop_lag_seconds", "How late a timer was.", labels=["shard"])
    for shard in shards:
        lag.add_metric(shard, count_value=int(next(values)), sum_value=next(values))
    yield lag
    for name in _counters(snapshot):
        counter = CounterMetricFamily(name, "Counted by the application.", labels=["shard"])
        for shard in shards:
            counter.add_metric(shard, next(values))
        yield counter
    for name, help, _ in _HISTOGRAMS:
        histogram = HistogramMetricFamily(f"clockworker_{name}", help, labels=["queue"])
        for queue in _queues(snapshot):
            buckets = [(bound, next(values)) for bound in (*[bound for bound, _ in _BUCKETS], "+Inf")]
            next(values)  # the count, once more
            histogram.add_metric([queue], buckets, next(values))
        yield histogram


def _family(figure: _Figure, labels: list[str], series: list[list[str]], values: Iterator[float]) -> Metric:
    kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
    name = f"clockworker_{figure.name}"
    family = kind(name, figure.help, labels=[*labels, figure.label] if figure.label else labels)
    for of in series:
        for more in [[value] for value in figure.label_values] if figure.label else [[]]:
            family.add_metric([*of, *more], next(values))
    return family


def _standings(snapshot: Snapshot) -> list[_Standing]:
    return [
        _Standing(presence, totals, max(0, snapshot.now_ns - written) if (written := totals.reading.written_ns) else 0)
        for presence, totals in zip(snapshot.presences, snapshot.totals, strict=True)
    ]


def _queues(snapshot: Snapshot) -> dict[str, None]:
    """The names of the queues of any shard."""
    return dict.fromkeys(name for totals in snapshot.totals for name in totals.reading.queues)


def _counters(snapshot: Snapshot) -> dict[str, None]:
    """The names of the application's counters on any shard."""
    return dict.fromkeys(name for totals in snapshot.totals for name in totals.reading.counters.values)


def _cumulated(durations: DurationStats) -> list[float]:
    """What a histogram's series are: how many within each bound, how many in all, twice, and their sum."""
    counts: list[float] = []
    count = begin = 0
    for _, end in _BUCKETS:
        count += sum(durations.buckets[begin:end])
        counts.append(count)
        begin = end
    count += sum(durations.buckets[begin:])
    return [*counts, count, count, _s(durations.total_ns)]
