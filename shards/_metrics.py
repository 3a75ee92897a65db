"""The books as Prometheus metrics: a collector that makes them anew for each scrape. Needs the extra `metrics`.

Names follow Prometheus's conventions: base units, `_total` for counters. What belongs to a shard has the label `shard`,
what belongs to a queue has `queue` too. Histograms are given by queue over all shards, since a series for each shard and
bucket would be most of the page; nothing has a series for each pair of shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from clockworker._version import __version__
from clockworker.executor import DurationStats, compiled
from clockworker.shards._ledger import Totals
from clockworker.shards._reading import QueueReading, Reading
from clockworker.shards._view import Presence

# Bounds of the buckets that are shown: each fourth power of two of nanoseconds, 1 us to 17 s. They fall on bounds of ours:
# the durations below 2**k are in the first 8 * (k - 2) buckets.
_BOUNDS = [(str(2**k / 1e9), 8 * (k - 2)) for k in range(10, 35, 2)]


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


def _s(ns: int) -> float:
    return ns / 1e9


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
    _Figure(
        "connections_accepted", "Connections accepted by Shard.start_server.", lambda r: (r.loop.connections_accepted,)
    ),
    _Figure(
        "connections_open",
        "Connections of Shard.start_server that are open.",
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
    _Figure("doorbell_wakeups", "Times that a peer woke the sleeping shard.", lambda r: (r.calls.wakeups,)),
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


class Metrics:
    """snapshot: asked at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # the supervisor's own

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that is accepted, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        readings = [(str(shard), totals.reading) for shard, totals in enumerate(snapshot.totals)]
        yield from _of_server(snapshot)
        for figure in _OF_SHARD:
            yield _family(figure, ["shard"], (([shard], reading) for shard, reading in readings))
        for figure in _OF_QUEUE:
            yield _family(
                figure,
                ["shard", "queue"],
                (([shard, name], queue) for shard, reading in readings for name, queue in reading.queues.items()),
            )
        lag = SummaryMetricFamily("clockworker_loop_lag_seconds", "How late a timer was.", labels=["shard"])
        for shard, reading in readings:
            lag.add_metric([shard], reading.loop.lag.count, _s(reading.loop.lag.total_ns))
        yield lag
        yield from _histograms([reading for _, reading in readings])


def _of_server(snapshot: Snapshot) -> Iterator[Metric]:
    info = {"version": __version__, "compiled": str(compiled).lower()}
    yield InfoMetricFamily("clockworker", "The server's version, and whether it is compiled.", value=info)
    yield GaugeMetricFamily(
        "clockworker_start_time_seconds", "When the supervisor started, since the epoch.", value=snapshot.started
    )
    ready = GaugeMetricFamily("clockworker_shard_ready", "1 while the shard is ready, else 0.", labels=["shard"])
    restarts = CounterMetricFamily(
        "clockworker_shard_restarts", "Incarnations of the shard after the first.", labels=["shard"]
    )
    stalls = CounterMetricFamily("clockworker_shard_stalls", "Stalls of the shard's loop reported.", labels=["shard"])
    age = GaugeMetricFamily(
        "clockworker_shard_reading_age_seconds",
        "Age of the shard's figures; over two seconds, its loop does not turn.",
        labels=["shard"],
    )
    for presence, totals in zip(snapshot.presences, snapshot.totals, strict=True):
        shard = [str(presence.id)]
        ready.add_metric(shard, presence.state == "ready")
        restarts.add_metric(shard, totals.restarts)
        stalls.add_metric(shard, totals.stalls)
        written = totals.reading.written_ns
        age.add_metric(shard, max(0, snapshot.now_ns - written) / 1e9 if written else 0.0)
    yield from (ready, restarts, stalls, age)


def _family(
    figure: _Figure,
    labels: list[str],
    parts: Iterator[tuple[list[str], Reading]] | Iterator[tuple[list[str], QueueReading]],
) -> Metric:
    kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
    if not figure.label:
        family = kind(f"clockworker_{figure.name}", figure.help, labels=labels)
        for values, part in parts:
            family.add_metric(values, figure.values(part)[0])
        return family
    family = kind(f"clockworker_{figure.name}", figure.help, labels=[*labels, figure.label])
    for values, part in parts:
        for value, figure_value in zip(figure.label_values, figure.values(part), strict=True):
            family.add_metric([*values, value], figure_value)
    return family


def _histograms(readings: list[Reading]) -> Iterator[Metric]:
    wait = HistogramMetricFamily(
        "clockworker_queue_wait_seconds",
        "Waits of runnable tasks for their step; one in 13 is measured.",
        labels=["queue"],
    )
    poll = HistogramMetricFamily("clockworker_queue_poll_seconds", "How long steps took.", labels=["queue"])
    names = dict.fromkeys(name for reading in readings for name in reading.queues)
    for name in names:
        queues = [reading.queues[name] for reading in readings if name in reading.queues]
        _add(wait, name, DurationStats.sum(queue.wait for queue in queues))
        _add(poll, name, DurationStats.sum(queue.poll_time for queue in queues))
    yield wait
    yield poll


def _add(family: HistogramMetricFamily, name: str, durations: DurationStats) -> None:
    buckets = [(bound, float(sum(durations.buckets[:below]))) for bound, below in _BOUNDS]
    buckets.append(("+Inf", float(durations.count)))
    family.add_metric([name], buckets, _s(durations.total_ns))
