"""What is shown: the statistics of a server as frozen numbers that mean something to a person. Pure.

/stats, the control socket and `Supervisor.stats()` give a `ServerStats`; `clockworker-top` draws one. Fractions of time
(`cpu`, `busy`, `driver`, `steal`) are of one core's: 1.0 is a whole core; of several shards together they add up. Rates
are per second, and both are over the last `window_s` seconds. `since_start` counts from the start of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from clockworker.executor import DurationStats
from clockworker.shards.observe._ledger import Totals
from clockworker.shards.protocol._reading import Groups, QueueReading, Reading
from clockworker.shards.protocol._request_readings import RouteReading
from clockworker.shards.protocol._topic_readings import TopicReading, TopicReadings


class Durations(msgspec.Struct, frozen=True):
    """Of the last seconds. Bounds that are at most an eighth too high; 0 if there were none."""

    count: int
    p50_ns: int
    p99_ns: int
    max_ns: int

    @classmethod
    def of(cls, stats: DurationStats) -> Durations:
        return cls(stats.count, stats.quantile_ns(0.5), stats.quantile_ns(0.99), stats.max_ns)


class QueueView(msgspec.Struct, frozen=True):
    """A queue, of one shard or over all.

    wanted: what its share is worth while all queues are busy, of the core. got: its part of the time that all queues have used.
    Less than wanted means that it had less to do; more, that others left it theirs.
    wait: of runnable tasks for their step. poll_time: of steps, or slices of them. groups: the part of a core that each has
    used.
    preemptive: whether steps are cut. Then whole_step is of steps, all slices together, refusals_per_s of cuts that were due,
    by reason, and hogs the part of a core that tasks have used whose steps took long, by their names.
    """

    name: str
    share: int
    wanted: float
    got: float
    busy: float
    runnable: int
    tasks: int
    polls_per_s: float
    slow_polls: int  # since the start
    panics: int  # since the start
    wait: Durations
    poll_time: Durations
    groups: dict[str, float]
    preemptive: bool
    cuts_per_s: float
    refusals_per_s: dict[str, float]
    whole_step: Durations
    hogs: dict[str, float]


class RequestView(msgspec.Struct, frozen=True):
    """HTTP requests, per second: all that are done, and by the first digit of their status, from 0 (the client had left) to 5.

    refused: with 503, because as many waited as may. running, waiting: now. websockets: open now. time: from the last byte of
    the request to the last of the response.
    """

    per_s: float
    statuses_per_s: tuple[float, ...]
    refused_per_s: float
    running: int
    waiting: int
    websockets: int
    time: Durations


class RouteView(msgspec.Struct, frozen=True):
    """Of one route in one queue, over all shards. route: the path of its rule; "other" for what matches none, and for routes
    beyond the first 64."""

    queue: str
    route: str
    requests: RequestView


class TopicView(msgspec.Struct, frozen=True):
    """The messages of one topic, over all shards: per second, and since the start. "(others)": of topics beyond the first 64.

    subscribers: now. dropped: what subscribers with a full queue, and shards that were too slow or died, did not get.
    """

    topic: str
    subscribers: int
    published_per_s: float
    delivered_per_s: float
    dropped_per_s: float
    published: int
    delivered: int
    dropped: int


class Rates(msgspec.Struct, frozen=True):
    """cpu: used, as the kernel counts it. busy: steps of tasks; driver: the loop's own work. steal: the time in which the
    shard could have run and another process had its CPU."""

    cpu: float
    busy: float
    driver: float
    steal: float
    polls_per_s: float
    calls_per_s: float  # sent to other shards
    calls_received_per_s: float
    calls_local_per_s: float
    bytes_sent_per_s: float
    connections_per_s: float
    requests_per_s: float  # HTTP's
    processes_done_per_s: float  # functions of run_process that have ended


class ShardView(msgspec.Struct, frozen=True):
    """state: of the life cycle. age_s: of the reading; over two seconds, the shard's loop does not turn. ring_fill: of the
    fullest ring to a peer, from 0 to 1."""

    id: int
    state: str
    pid: int | None
    cpu: int | None
    uptime_s: float
    restarts: int
    stalls: int
    age_s: float
    rss_bytes: int
    connections_open: int
    runnable: int
    ring_fill: float
    lag: Durations
    rates: Rates
    queues: list[QueueView]
    since_start: Reading


class TotalView(msgspec.Struct, frozen=True):
    """All shards together. requests: None where nothing serves HTTP."""

    shards_ready: int
    restarts: int
    stalls: int
    rss_bytes: int
    connections_open: int
    rates: Rates
    requests: RequestView | None
    since_start: Reading


class Event(msgspec.Struct, frozen=True):
    """What has happened to a shard. number: counts from 1. at: seconds since the epoch. what: its loop stood still, or it was
    started again, after its end (crash) or as a successor (roll). detail: in words."""

    number: int
    at: float
    shard: int
    what: Literal["stall", "crash", "roll"]
    detail: str


class NodeView(msgspec.Struct, frozen=True):
    """A node of the cluster. silent: this one has not heard it, or was not heard by it, for node_timeout. since: when it
    joined, in seconds of Unix time."""

    name: str
    slot: int
    shards: int
    silent: bool
    since: float


class ClusterStanding(msgspec.Struct, frozen=True):
    """How this node stands in its cluster. joined: it is in the view of this epoch. owns: enough of the others have confirmed
    it of late, so that it serves keys. settled: what this epoch has moved to it, too. connected: to the broker, or else what
    the `problem` is. reconnects: after the first."""

    name: str
    node: str
    epoch: int
    joined: bool
    owns: bool
    settled: bool
    connected: bool
    problem: str
    reconnects: int
    nodes: list[NodeView]


class ClusterStats(ClusterStanding, frozen=True):
    """With what its shards have done: calls to other nodes, per second and since the start; sessions with shards of theirs,
    now, and those that have ended, by reason; how often as much was under way to one as may be."""

    calls_per_s: float
    calls: int
    sessions: int
    sessions_ended: dict[str, int]
    window_waits: int


class ServerStats(msgspec.Struct, frozen=True):
    """addresses: what users connect to, `127.0.0.1:80` or `admin=unix:PATH`. serving: whether all shards have been ready, and
    it is not told to stop. events: the last ones, the newest at the end. cluster: None where this machine is alone."""

    version: str
    compiled: bool
    app: str
    addresses: list[str]
    serving: bool
    pid: int
    uptime_s: float
    window_s: float
    shards: list[ShardView]
    queues: list[QueueView]
    routes: list[RouteView]
    topics: list[TopicView]
    total: TotalView
    events: list[Event] = []  # a server of an older version tells of none
    cluster: ClusterStats | None = None


class Presence(msgspec.Struct, frozen=True):
    """What the supervisor knows of a shard without its slots."""

    id: int
    state: str
    pid: int | None
    cpu: int | None
    uptime_s: float


def view_shard(presence: Presence, totals: Totals, lately: Reading, window_s: float, now_ns: int) -> ShardView:
    reading = totals.reading
    return ShardView(
        id=presence.id,
        state=presence.state,
        pid=presence.pid,
        cpu=presence.cpu,
        uptime_s=presence.uptime_s,
        restarts=totals.restarts,
        stalls=totals.stalls,
        age_s=max(0.0, (now_ns - reading.written_ns) / 1e9) if reading.written_ns else 0.0,
        rss_bytes=reading.process.rss_bytes,
        connections_open=reading.loop.connections_open,
        runnable=sum(queue.runnable for queue in reading.queues.values()),
        ring_fill=reading.calls.ring_used_bytes / reading.calls.ring_bytes if reading.calls.ring_bytes else 0.0,
        lag=Durations.of(lately.loop.lag),
        rates=_rates(lately, window_s),
        queues=_queues(reading, lately, window_s),
        since_start=reading,
    )


def view_all(
    presences: Sequence[Presence], totals: Sequence[Totals], lately: Sequence[Reading], window_s: float
) -> tuple[list[QueueView], list[RouteView], TotalView]:
    """The queues and HTTP's routes over all shards, and the shards together."""
    reading, recent = Reading.total(one.reading for one in totals), Reading.total(lately)
    rows = [(queue, route, now, recent.http.get(queue, route)) for queue, route, now in reading.http.rows()]
    routes = [RouteView(queue, route, _requests(now, lately, window_s)) for queue, route, now, lately in rows]
    requests = None
    if rows:
        _, _, present, recently = zip(*rows, strict=True)
        requests = _requests(RouteReading.total(present), RouteReading.total(recently), window_s)
    return (
        _queues(reading, recent, window_s),
        routes,
        TotalView(
            shards_ready=sum(presence.state == "ready" for presence in presences),
            restarts=sum(one.restarts for one in totals),
            stalls=sum(one.stalls for one in totals),
            rss_bytes=reading.process.rss_bytes,
            connections_open=reading.loop.connections_open,
            rates=_rates(recent, window_s),
            requests=requests,
            since_start=reading,
        ),
    )


def _requests(now: RouteReading, lately: RouteReading, window_s: float) -> RequestView:
    per_s = [count / window_s if window_s else 0.0 for count in (*lately.statuses, lately.refused)]
    return RequestView(
        per_s=sum(per_s[:-1]),
        statuses_per_s=tuple(per_s[:-1]),
        refused_per_s=per_s[-1],
        running=now.running,
        waiting=now.waiting,
        websockets=now.websockets,
        time=Durations.of(lately.time),
    )


def view_cluster(standing: ClusterStanding, total: Reading, lately: Sequence[Reading], window_s: float) -> ClusterStats:
    calls = sum(each.calls.far_calls for each in lately)
    return ClusterStats(
        **{field: getattr(standing, field) for field in ClusterStanding.__struct_fields__},
        calls_per_s=calls / window_s if window_s else 0.0,
        calls=total.calls.far_calls,
        sessions=total.calls.far_sessions,
        sessions_ended=total.calls.sessions_ended,
        window_waits=total.calls.far_window_waits,
    )


def view_topics(total: Reading, lately: Sequence[Reading], window_s: float) -> list[TopicView]:
    """Over all shards, of which `total` has all that was counted."""
    recent = TopicReadings.total(each.topics for each in lately)
    return [
        _topic(name, now, recent.values.get(name, TopicReading()), window_s)
        for name, now in total.topics.values.items()
    ]


def _topic(name: str, now: TopicReading, lately: TopicReading, window_s: float) -> TopicView:
    return TopicView(
        topic=name,
        subscribers=now.subscribers,
        published_per_s=lately.published / window_s if window_s else 0.0,
        delivered_per_s=lately.delivered / window_s if window_s else 0.0,
        dropped_per_s=lately.dropped / window_s if window_s else 0.0,
        published=now.published,
        delivered=now.delivered,
        dropped=now.dropped,
    )


def _rates(lately: Reading, window_s: float) -> Rates:
    def per_s(count: float) -> float:
        return round(count / window_s, 6) if window_s else 0.0

    return Rates(
        cpu=per_s(lately.process.cpu_ns / 1e9),
        busy=per_s(sum(queue.busy_ns for queue in lately.queues.values()) / 1e9),
        driver=per_s(lately.loop.driver_ns / 1e9),
        steal=per_s(lately.process.run_delay_ns / 1e9),
        polls_per_s=per_s(sum(queue.polls for queue in lately.queues.values())),
        calls_per_s=per_s(lately.calls.sent),
        calls_received_per_s=per_s(lately.calls.received),
        calls_local_per_s=per_s(lately.calls.local),
        bytes_sent_per_s=per_s(lately.calls.bytes_sent),
        connections_per_s=per_s(lately.loop.connections_accepted),
        requests_per_s=per_s(sum(sum(row.statuses) for _, _, row in lately.http.rows())),
        processes_done_per_s=per_s(lately.loop.processes_done),
    )


def _queues(reading: Reading, lately: Reading, window_s: float) -> list[QueueView]:
    """One that only an earlier version of the application had is counted for (metrics show it), and has no share."""
    there = {name: queue for name, queue in reading.queues.items() if queue.share} or reading.queues
    shares = sum(queue.share for queue in reading.queues.values())
    used = sum(queue.busy_ns for queue in lately.queues.values())
    return [
        _queue(name, queue, lately.queues.get(name, QueueReading()), shares, used, window_s)
        for name, queue in there.items()
    ]


def _queue(name: str, queue: QueueReading, lately: QueueReading, shares: int, used: int, window_s: float) -> QueueView:
    return QueueView(
        name=name,
        share=queue.share,
        wanted=queue.part / 1e6 if queue.part else queue.share / shares if shares else 0.0,
        got=lately.busy_ns / used if used else 0.0,
        busy=lately.busy_ns / 1e9 / window_s if window_s else 0.0,
        runnable=queue.runnable,
        tasks=queue.tasks,
        polls_per_s=lately.polls / window_s if window_s else 0.0,
        slow_polls=queue.slow_polls,
        panics=queue.panics,
        wait=Durations.of(lately.wait),
        poll_time=Durations.of(lately.poll_time),
        groups=_groups(lately.groups, window_s),
        preemptive=bool(queue.preemptive),
        cuts_per_s=lately.cuts / window_s if window_s else 0.0,
        refusals_per_s={reason: count / window_s for reason, count in lately.refusals.items() if count and window_s},
        whole_step=Durations.of(lately.whole_step),
        hogs=_groups(lately.hogs, window_s),
    )


def _groups(groups: Groups, window_s: float) -> dict[str, float]:
    return {name: ns / 1e9 / window_s for name, ns in groups.service_ns.items() if ns} if window_s else {}
