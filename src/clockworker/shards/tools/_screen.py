"""The view of `clockworker-top` as lines of text. Pure: the statistics in, lines of at most `width` characters out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clockworker.shards.observe._view import (
    ClusterStats,
    QueueView,
    RequestView,
    RouteView,
    ServerStats,
    ShardView,
    TopicView,
    TotalView,
)

# What the shards may be sorted by: the largest first, but the number.
_BY: dict[str, Callable[[ShardView], float]] = {
    "shard": lambda shard: shard.id,
    "cpu": lambda shard: -shard.rates.cpu,
    "busy": lambda shard: -shard.rates.busy,
    "steal": lambda shard: -shard.rates.steal,
    "calls": lambda shard: -shard.rates.calls_per_s,
    "runnable": lambda shard: -shard.runnable,
    "restarts": lambda shard: -shard.restarts,
}
SORTS = tuple(_BY)

_SHARD = " {:>5} {:<8} {:>4} {:>5} {:>5} {:>6} {:>6} {:>4} {:>5} {:>7} {:>4} {:>5} {:>3}"
_QUEUE = " {:<11.11} {:>5} {:>5} {:>4} {:>5} {:>4} {:>5} {:>7} {:>6} {:>6} {:>6} {:>4}"
_PREEMPTIVE = " {:<11.11} {:>6} {:>9} {:>6} {:>6} {:>6} {}"
_HOG = 27  # characters of a name
_ROUTE = " {:<23.23} {:<11.11} {:>6} {:>5} {:>5} {:>4} {:>4} {:>6} {:>6}"
_TOPIC = " {:<35.35} {:>6} {:>7} {:>7} {:>7} {:>7}"
_NODE = " {:<24.24} {:>5} {:>6} {:<8} {:>12}"
_GROUP = " {:<32} {:<20.20} {:>5}"
_SHARD_HEAD = _SHARD.format(
    "SHARD", "STATE", "PIN", "CPU%", "BUSY%", "STEAL%", "LAG", "RUN", "CONNS", "CALLS/S", "RING", "RSS", "RST"
)
_QUEUE_HEAD = _QUEUE.format(
    "QUEUE", "SHARE", "WANT%", "GOT%", "BUSY%", "RUN", "TASKS", "STEPS/S", "WAIT50", "WAIT99", "STEP99", "SLOW"
)
_GROUP_HEAD = _GROUP.format("GROUP", "QUEUE", "CPU%")
_PREEMPTIVE_HEAD = _PREEMPTIVE.format("PREEMPTIVE", "CUTS/S", "REFUSED/S", "STEP50", "STEP99", "MAX", "HOG")
_ROUTE_HEAD = _ROUTE.format("ROUTE", "QUEUE", "REQ/S", "4XX/S", "5XX/S", "RUN", "WAIT", "TIME50", "TIME99")
_TOPIC_HEAD = _TOPIC.format("TOPIC", "SUBS", "PUB/S", "DELIV/S", "DROP/S", "DROPPED")
_NODE_HEAD = _NODE.format("NODE", "SLOT", "SHARDS", "STATE", "IN FOR")
HEADS = (_NODE_HEAD, _SHARD_HEAD, _QUEUE_HEAD, _PREEMPTIVE_HEAD, _ROUTE_HEAD, _TOPIC_HEAD, _GROUP_HEAD)
_MAX_GROUPS = 8
_MAX_ROUTES = 8
_MAX_TOPICS = 8
_MAX_HOGS = 3  # of a queue
_STALLED_S = 2.0  # a ready shard whose figures are older does not turn its loop


def cluster_screen(stats: ServerStats, now: float, width: int) -> list[str]:
    """The nodes, as this one sees them. now: Unix time, in seconds."""
    cluster = stats.cluster
    if cluster is None:
        return [f" {stats.app}  pid {stats.pid}  is in no cluster"]
    state = "serves its keys" if cluster.owns else "serves no keys: most of the cluster has not confirmed it of late"
    if not cluster.joined:
        state = "is not in the cluster"
    elif cluster.owns and not cluster.settled:
        state = "serves the keys that it had, and waits for those that it is to get"
    ended = ", ".join(f"{reason} {count}" for reason, count in cluster.sessions_ended.items()) or "none"
    return [
        line[:width].rstrip()
        for line in (
            f" cluster {cluster.name}  node {cluster.node}  epoch {cluster.epoch}  {len(cluster.nodes)} nodes",
            f" this node {state}",
            f" broker: {'connected' if cluster.connected else cluster.problem or 'not connected'}"
            f"   reconnects {cluster.reconnects}",
            f" calls/s to other nodes: {_rate(cluster.calls_per_s)}   in all {_count(cluster.calls)}"
            f"   waits for windows {_count(cluster.window_waits)}",
            f" sessions {cluster.sessions}   ended: {ended}",
            "",
            _NODE_HEAD,
            *(
                _NODE.format(
                    node.name,
                    node.slot,
                    node.shards,
                    "here" if node.name == cluster.node else "SILENT" if node.silent else "heard",
                    _uptime(max(0.0, now - node.since)),
                )
                for node in cluster.nodes
            ),
        )
    ]


def screen(stats: ServerStats, sort: str, width: int) -> list[str]:
    total = stats.total
    lines = [
        f" {stats.app}  pid {stats.pid}  up {_uptime(stats.uptime_s)}  clockworker {stats.version}"
        + ("" if stats.compiled else " (pure)"),
        f" {total.shards_ready} of {len(stats.shards)} shards ready   cpu {_cores(total.rates.cpu)}"
        f"   busy {_cores(total.rates.busy)}   steal {_cores(total.rates.steal)}   conns {total.connections_open}",
        f" calls/s: {_count(total.rates.calls_per_s)} between shards, {_count(total.rates.calls_local_per_s)} local"
        f"   restarts {total.restarts}   stalls {total.stalls}   {_bytes(total.rss_bytes)} RSS",
        *([] if total.requests is None else [_requests(total.requests)]),
        *_elsewhere(total),
        *([] if stats.cluster is None else [_cluster(stats.cluster)]),
        "",
        _SHARD_HEAD,
        *map(_shard, sorted(stats.shards, key=_BY[sort])),
        "",
        _QUEUE_HEAD,
        *map(_queue, stats.queues),
    ]
    if preemptive := [line for queue in stats.queues if queue.preemptive for line in _preemptive(queue)]:
        lines += ["", _PREEMPTIVE_HEAD, *preemptive]
    if routes := _routes(stats.routes):
        lines += ["", _ROUTE_HEAD, *routes]
    if topics := _topics(stats.topics):
        lines += ["", _TOPIC_HEAD, *topics]
    if groups := _groups(stats.queues):
        lines += ["", _GROUP_HEAD, *groups]
    return [line[:width].rstrip() for line in lines]


def _shard(shard: ShardView) -> str:
    return _SHARD.format(
        shard.id,
        "STALLED" if shard.state == "ready" and shard.age_s > _STALLED_S else shard.state,
        "-" if shard.cpu is None else shard.cpu,
        _percent(shard.rates.cpu),
        _percent(shard.rates.busy),
        _percent(shard.rates.steal),
        _duration(shard.lag.p99_ns),
        shard.runnable,
        shard.connections_open,
        _count(shard.rates.calls_per_s),
        f"{shard.ring_fill:.0%}",
        _bytes(shard.rss_bytes),
        shard.restarts,
    )


def _queue(queue: QueueView) -> str:
    return _QUEUE.format(
        queue.name,
        queue.share,
        f"{100 * queue.wanted:.0f}",
        f"{100 * queue.got:.0f}",
        _percent(queue.busy),
        queue.runnable,
        _count(queue.tasks),
        _count(queue.polls_per_s),
        _duration(queue.wait.p50_ns),
        _duration(queue.wait.p99_ns),
        _duration(queue.poll_time.p99_ns),
        _count(queue.slow_polls),
    )


def _preemptive(queue: QueueView) -> list[str]:
    """A line, and one more for each further hog."""
    hogs = sorted(queue.hogs.items(), key=lambda hog: hog[1], reverse=True)[:_MAX_HOGS]
    shown = [f"{name if len(name) <= _HOG else f'{name[: _HOG - 1]}…'} {_percent(cores)}%" for name, cores in hogs]
    first, *rest = shown or ["-"]
    line = _PREEMPTIVE.format(
        queue.name,
        _count(queue.cuts_per_s),
        _rate(sum(queue.refusals_per_s.values())),
        _duration(queue.whole_step.p50_ns),
        _duration(queue.whole_step.p99_ns),
        _duration(queue.whole_step.max_ns),
        first,
    )
    return [line, *(_PREEMPTIVE.format("", "", "", "", "", "", hog) for hog in rest)]


def _cluster(cluster: ClusterStats) -> str:
    """One line; --cluster has the rest."""
    state = "" if cluster.joined and cluster.owns else "   SERVES NO KEYS"
    silent = sum(node.silent for node in cluster.nodes)
    return (
        f" cluster {cluster.name}: {len(cluster.nodes)} nodes, {silent} silent, epoch {cluster.epoch}"
        f"   {_rate(cluster.calls_per_s)} calls/s to others{state}"
    )


def _requests(requests: RequestView) -> str:
    """What is mostly 0 is there only if it is not."""
    left, *statuses = requests.statuses_per_s
    parts = [f" requests/s: {_rate(requests.per_s)}"]
    parts += [f"{digit}xx {_rate(per_s)}" for digit, per_s in enumerate(statuses, 1) if per_s or digit in (2, 4, 5)]
    parts.append(f"p99 {_duration(requests.time.p99_ns)}")
    parts += [f"left {_rate(left)}"] if left else []
    parts += [f"refused {_rate(requests.refused_per_s)}"] if requests.refused_per_s else []
    parts += [f"waiting {requests.waiting}"] if requests.waiting else []
    parts += [f"websockets {requests.websockets}"] if requests.websockets else []
    return "  ".join(parts)


def _elsewhere(total: TotalView) -> list[str]:
    """What runs in no shard's loop: of run_process since there was any, and of threads while there is."""
    loop = total.since_start.loop
    parts = []
    if loop.processes_running or loop.processes_waiting or loop.processes_done:
        parts.append(
            f"processes: {loop.processes_running} running, {loop.processes_waiting} waiting, "
            f"{_rate(total.rates.processes_done_per_s)}/s done"
        )
    if loop.blocking_running or loop.blocking_waiting:
        parts.append(f"threads: {loop.blocking_running} running, {loop.blocking_waiting} waiting")
    return [f" {'   '.join(parts)}"] if parts else []


def _routes(routes: Sequence[RouteView]) -> list[str]:
    """The busiest."""
    busiest = sorted(routes, key=lambda route: route.requests.per_s, reverse=True)[:_MAX_ROUTES]
    return [
        _ROUTE.format(
            route.route,
            route.queue,
            _rate(requests.per_s),
            _rate(requests.statuses_per_s[4]),
            _rate(requests.statuses_per_s[5]),
            _count(requests.running),
            _count(requests.waiting),
            _duration(requests.time.p50_ns),
            _duration(requests.time.p99_ns),
        )
        for route in busiest
        for requests in [route.requests]
    ]


def _topics(topics: Sequence[TopicView]) -> list[str]:
    """The busiest."""
    busiest = sorted(topics, key=lambda topic: topic.published_per_s + topic.delivered_per_s, reverse=True)
    return [
        _TOPIC.format(
            "".join(char if char.isprintable() else "?" for char in topic.topic),
            _count(topic.subscribers),
            _rate(topic.published_per_s),
            _rate(topic.delivered_per_s),
            _rate(topic.dropped_per_s),
            _count(topic.dropped),
        )
        for topic in busiest[:_MAX_TOPICS]
    ]


def _groups(queues: Sequence[QueueView]) -> list[str]:
    groups = [(cores, name, queue.name) for queue in queues for name, cores in queue.groups.items()]
    return [_GROUP.format(name, queue, _percent(cores)) for cores, name, queue in sorted(groups, reverse=True)][
        :_MAX_GROUPS
    ]


def _percent(cores: float) -> str:
    return f"{100 * cores:.1f}"


def _cores(cores: float) -> str:
    return f"{cores:.2f}"


def _count(count: float) -> str:
    """At most 5 characters: 999, 12.3k, 4.5M."""
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M")):
        if count < 0.9995 * limit:
            scaled = count / (limit / 1e3)
            return f"{scaled:.0f}{unit}" if not unit or scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{count / 1e9:.1f}G"


def _rate(per_s: float) -> str:
    """As `_count`; of the few, a tenth is something too."""
    return f"{per_s:.1f}" if 0.05 <= per_s < 9.95 else _count(per_s)


def _bytes(count: int) -> str:
    for limit, unit in ((1 << 20, "K"), (1 << 30, "M")):
        if count < limit:
            return f"{count / (limit >> 10):.0f}{unit}"
    return f"{count / (1 << 30):.1f}G"


def _duration(ns: int) -> str:
    """At most 6 characters: 0, 950ns, 12.3us, 1.5ms, 2.1s."""
    if ns == 0:
        return "0"
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < 0.9995 * limit:
            scaled = ns / (limit / 1e3)
            return f"{scaled:.0f}{unit}" if unit == "ns" or scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{ns / 1e9:.1f}s"


def _uptime(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
