"""The books as Prometheus metrics: a collector, and the page that it makes anew for each scrape. Needs the extra `metrics`.

Names follow Prometheus's conventions: base units, `_total` for counters. What belongs to a shard has the label `shard`,
what belongs to a queue has `queue` too, and what belongs to HTTP's routes `route`. Histograms are given by queue (and route)
over all shards, since a series for each shard and bucket would be most of the page; nothing has a series for each pair of
shards. HTTP's families are there where HTTP is served, and so it is with those of topics, of preemptive queues and of a
cluster.

What of a reading is shown, under which name, its own fields say (`_figures`). Here is the rest: what the supervisor knows, and
what is made of several figures.

The numbers are listed apart from the families that name them, in the same order, so that a page needs no object for each
series (`_page`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import add, attrgetter

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
from clockworker.shards.observe._ledger import Totals
from clockworker.shards.observe._page import Page
from clockworker.shards.observe._view import ClusterStanding, Presence
from clockworker.shards.protocol._figures import Family, Field, Kind, Section, fields
from clockworker.shards.protocol._reading import CallReading, LoopReading, ProcessReading, QueueReading, Reading
from clockworker.shards.protocol._request_readings import Requests, RouteReading
from clockworker.shards.protocol._topic_readings import TopicReading

# Buckets that are shown: up to each second power of two of nanoseconds, 1 us to 17 s. They end where buckets of ours do: the
# durations below 2**k are in the first 8 * (k - 2).
_BUCKETS = [(str(2**k / 1e9), 8 * (k - 2)) for k in range(10, 35, 2)]
_BUCKETS_OF_ROUTE = [(str(2**k / 1e9), 8 * (k - 2)) for k in range(18, 35)]  # each power, from 0.26 ms


class Snapshot(msgspec.Struct, frozen=True):
    """What is known now. Sequences are by shard."""

    presences: Sequence[Presence]
    totals: Sequence[Totals]
    started: float  # seconds since the epoch
    now_ns: int  # monotonic
    cluster: ClusterStanding | None = None


class _Figure(msgspec.Struct, frozen=True):
    """One family, beside shard and queue: a value for each of `labels`, or one."""

    family: Family
    values: Callable[..., tuple[float, ...]]
    counter: bool = True
    labels: tuple[str, ...] = ()


class _Standing(msgspec.Struct, frozen=True):
    """How a shard stands, as the supervisor knows."""

    presence: Presence
    totals: Totals
    age_ns: int


def _s(ns: int) -> float:
    return ns / 1e9


_OF_SUPERVISOR: tuple[_Figure, ...] = (
    _Figure(
        Family("shard_ready", "1 while the shard is ready, else 0."),
        lambda s: (int(s.presence.state == "ready"),),
        counter=False,
    ),
    _Figure(
        Family("shard_restarts", "Incarnations of the shard after the first."),
        lambda s: (s.totals.restarts,),
    ),
    _Figure(Family("shard_stalls", "Stalls of the shard's loop reported."), lambda s: (s.totals.stalls,)),
    _Figure(
        Family("shard_reading_age_seconds", "Age of the shard's figures; over two seconds, its loop does not turn."),
        lambda s: (_s(s.age_ns),),
        counter=False,
    ),
)


def _shown(section: type[Section], durations: bool) -> dict[Family, list[Field]]:
    """Its fields that are on the page, by family: durations, or the rest."""
    found: dict[Family, list[Field]] = {}
    for field in fields(section):
        if field.figure.family is not None and (field.type is DurationStats) is durations:
            found.setdefault(field.figure.family, []).append(field)
    return found


def _figures(section: type[Section], where: str = "") -> tuple[_Figure, ...]:
    """Of a section that is called so in what has it; of itself, unless given."""
    return tuple(
        _Figure(
            family,
            _values_of([where + field.name for field in of], 1e9 if of[0].in_ns else 1),
            counter=of[0].figure.kind is Kind.COUNTER,
            labels=tuple(field.figure.value for field in of) if family.label else (),
        )
        for family, of in _shown(section, durations=False).items()
    )


def _values_of(names: list[str], unit: float) -> Callable[..., tuple[float, ...]]:
    if len(names) == 1:
        get = attrgetter(names[0])
        return (lambda part: (get(part),)) if unit == 1 else (lambda part: (get(part) / unit,))
    get_all = attrgetter(*names)
    return get_all if unit == 1 else lambda part: tuple(value / unit for value in get_all(part))


def _is_clusters(figure: _Figure) -> bool:
    return figure.family.name.startswith("cluster_")


# Of a node in a cluster, and of each of its shards.
_OF_NODE: tuple[_Figure, ...] = tuple(
    _Figure(Family(f"cluster_{name}", help), value, counter=name == "reconnects")
    for name, help, value in (
        ("epoch", "That of the view which this node acts by.", lambda s: (s.epoch,)),
        ("nodes", "Nodes in the view.", lambda s: (len(s.nodes),)),
        ("nodes_silent", "Nodes that this one does not hear.", lambda s: (sum(node.silent for node in s.nodes),)),
        ("joined", "1 while this node is in the view, else 0.", lambda s: (int(s.joined),)),
        ("owns", "1 while this node may serve its keys, else 0.", lambda s: (int(s.owns),)),
        ("connected", "1 while this node is connected to the broker, else 0.", lambda s: (int(s.connected),)),
        ("reconnects", "Connections to the broker after the first.", lambda s: (s.reconnects,)),
    )
)
_OF_SHARD_IN_CLUSTER = tuple(figure for figure in _figures(CallReading, "calls.") if _is_clusters(figure))

_OF_SHARD: tuple[_Figure, ...] = (
    *_figures(ProcessReading, "process."),
    *_figures(LoopReading, "loop."),
    *(figure for figure in _figures(CallReading, "calls.") if not _is_clusters(figure)),
    _Figure(
        Family("ring_fill_ratio", "Unread part of the fullest ring to a peer."),
        lambda r: (r.calls.ring_used_bytes / r.calls.ring_bytes if r.calls.ring_bytes else 0.0,),
        counter=False,
    ),
)

# Of queues that are preemptive, or were.
_PREEMPTIVE = ("queue_cuts", "queue_cut_refusals", "queue_whole_step_seconds")
_OF_QUEUE = tuple(figure for figure in _figures(QueueReading) if figure.family.name not in _PREEMPTIVE)
_OF_PREEMPTIVE = tuple(figure for figure in _figures(QueueReading) if figure.family.name in _PREEMPTIVE)

# What is added up over a queue's routes, or over the queues of a route: their labels, beside the shard.
_LABELS_OF_ROUTE = {"http_refused": ("route",), "http_requests_waiting": ("route",), "websockets_open": ("queue",)}
_OF_ROUTE = tuple(
    (figure, _LABELS_OF_ROUTE.get(figure.family.name, ("queue", "route"))) for figure in _figures(RouteReading)
)

_OF_TOPIC = _figures(TopicReading)

_Durations = tuple[Family, Callable[..., DurationStats]]


def _durations(section: type[Section], where: str = "") -> tuple[_Durations, ...]:
    return tuple(
        (family, attrgetter(where + field.name)) for family, [field] in _shown(section, durations=True).items()
    )


_SUMMARIES: tuple[_Durations, ...] = (
    *_durations(LoopReading, "loop."),
    *_durations(CallReading, "calls."),
)
_HISTOGRAMS = tuple(each for each in _durations(QueueReading) if each[0].name not in _PREEMPTIVE)
_HISTOGRAMS_OF_PREEMPTIVE = tuple(each for each in _durations(QueueReading) if each[0].name in _PREEMPTIVE)
_HISTOGRAMS_OF_ROUTE = _durations(RouteReading)


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
        readings = [totals.reading for totals in snapshot.totals]
        queues = tuple(tuple(reading.queues) for reading in readings)
        routes = tuple(tuple(row[:2] for row in reading.http.rows()) for reading in readings)
        topics = tuple(tuple(reading.topics.values) for reading in readings)
        shape = (
            queues,
            routes,
            topics,
            tuple(_counters(snapshot)),
            len(process),
            tuple(_preemptive(snapshot)),
            snapshot.cluster is None,
        )
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
        (_OF_NODE, [] if snapshot.cluster is None else [snapshot.cluster]),
        (_OF_SHARD_IN_CLUSTER, [] if snapshot.cluster is None else readings),
        (_OF_QUEUE, queues),
        (_OF_PREEMPTIVE, [reading.queues[name] for reading in readings for name in _preemptive_of(reading)]),
    )
    for figures, of in parts:
        for figure in figures:
            for part in of:
                values += figure.values(part)
    for figure, labels in _OF_ROUTE:
        for reading in readings:
            for added_up in _by_labels(reading.http, labels, figure).values():
                values += added_up
    for figure in _OF_TOPIC:
        for reading in readings:
            for topic in reading.topics.values.values():
                values += figure.values(topic)
    for _, durations_of in _SUMMARIES:
        for reading in readings:
            durations = durations_of(reading)
            values += (durations.count, _s(durations.total_ns))
    for name in _counters(snapshot):
        values += [reading.counters.values.get(name, 0) for reading in readings]
    for histograms, names in ((_HISTOGRAMS, _queues(snapshot)), (_HISTOGRAMS_OF_PREEMPTIVE, _preemptive(snapshot))):
        for _, durations_of in histograms:
            for name in names:
                each = (durations_of(reading.queues[name]) for reading in readings if name in reading.queues)
                values += _cumulated(DurationStats.sum(each), _BUCKETS)
    for _, durations_of in _HISTOGRAMS_OF_ROUTE:
        for queue, route in _routes(snapshot):
            durations = DurationStats.sum(durations_of(reading.http.get(queue, route)) for reading in readings)
            values += _cumulated(durations, _BUCKETS_OF_ROUTE)
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
    if snapshot.cluster is not None:
        for figure in _OF_NODE:
            yield _family(figure, [], [[]], values)
        for figure in _OF_SHARD_IN_CLUSTER:
            yield _family(figure, ["shard"], shards, values)
    for figure in _OF_QUEUE:
        yield _family(figure, ["shard", "queue"], queues, values)
    preemptive = [
        [str(shard), name] for shard, totals in enumerate(snapshot.totals) for name in _preemptive_of(totals.reading)
    ]
    for figure in _OF_PREEMPTIVE if preemptive else ():
        yield _family(figure, ["shard", "queue"], preemptive, values)
    for figure, labels in _OF_ROUTE:
        series = [
            [str(shard), *of]
            for shard, totals in enumerate(snapshot.totals)
            for of in _by_labels(totals.reading.http, labels, figure)
        ]
        if series:
            yield _family(figure, ["shard", *labels], series, values)
    topics = [
        [str(shard), name] for shard, totals in enumerate(snapshot.totals) for name in totals.reading.topics.values
    ]
    for figure in _OF_TOPIC if topics else ():
        yield _family(figure, ["shard", "topic"], topics, values)
    for shown, _ in _SUMMARIES:
        summary = SummaryMetricFamily(f"clockworker_{shown.name}", shown.help, labels=["shard"])
        for shard in shards:
            summary.add_metric(shard, count_value=int(next(values)), sum_value=next(values))
        yield summary
    for name in _counters(snapshot):
        counter = CounterMetricFamily(name, "Counted by the application.", labels=["shard"])
        for shard in shards:
            counter.add_metric(shard, next(values))
        yield counter
    for shown, _ in _HISTOGRAMS:
        yield _histogram(shown, ["queue"], [[queue] for queue in _queues(snapshot)], _BUCKETS, values)
    for shown, _ in _HISTOGRAMS_OF_PREEMPTIVE if preemptive else ():
        yield _histogram(shown, ["queue"], [[queue] for queue in _preemptive(snapshot)], _BUCKETS, values)
    if routes := _routes(snapshot):
        for shown, _ in _HISTOGRAMS_OF_ROUTE:
            yield _histogram(shown, ["queue", "route"], [[*of] for of in routes], _BUCKETS_OF_ROUTE, values)


def _histogram(
    shown: Family, labels: list[str], series: list[list[str]], bounds: list[tuple[str, int]], values: Iterator[float]
) -> Metric:
    histogram = HistogramMetricFamily(f"clockworker_{shown.name}", shown.help, labels=labels)
    for of in series:
        buckets = [(bound, next(values)) for bound in (*[bound for bound, _ in bounds], "+Inf")]
        next(values)  # the count, once more
        histogram.add_metric(of, buckets, next(values))
    return histogram


def _family(figure: _Figure, labels: list[str], series: list[list[str]], values: Iterator[float]) -> Metric:
    kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
    shown = figure.family
    labels = [*labels, shown.label] if shown.label else labels
    family = kind(f"clockworker_{shown.name}", shown.help, labels=labels)
    for of in series:
        for more in [[value] for value in figure.labels] if shown.label else [[]]:
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


def _preemptive(snapshot: Snapshot) -> dict[str, None]:
    """Those that are preemptive in any shard."""
    return dict.fromkeys(name for totals in snapshot.totals for name in _preemptive_of(totals.reading))


def _preemptive_of(reading: Reading) -> list[str]:
    return [name for name, queue in reading.queues.items() if queue.preemptive or queue.cuts]


def _routes(snapshot: Snapshot) -> dict[tuple[str, str], None]:
    """The queues and routes of any shard."""
    return dict.fromkeys(row[:2] for totals in snapshot.totals for row in totals.reading.http.rows())


def _by_labels(requests: Requests, labels: Sequence[str], figure: _Figure) -> dict[tuple[str, ...], tuple[float, ...]]:
    """The figure's values for each combination of the labels, added up."""
    found: dict[tuple[str, ...], tuple[float, ...]] = {}
    for queue, route, reading in requests.rows():
        key = tuple(queue if label == "queue" else route for label in labels)
        values = figure.values(reading)
        found[key] = tuple(map(add, found[key], values)) if key in found else values
    return found


def _counters(snapshot: Snapshot) -> dict[str, None]:
    """The names of the application's counters on any shard."""
    return dict.fromkeys(name for totals in snapshot.totals for name in totals.reading.counters.values)


def _cumulated(durations: DurationStats, bounds: list[tuple[str, int]]) -> list[float]:
    """What a histogram's series are: how many within each bound, how many in all, twice, and their sum."""
    counts: list[float] = []
    count = begin = 0
    for _, end in bounds:
        count += sum(durations.buckets[begin:end])
        counts.append(count)
        begin = end
    count += sum(durations.buckets[begin:])
    return [*counts, count, count, _s(durations.total_ns)]
