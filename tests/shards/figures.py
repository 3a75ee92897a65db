"""Statistics of a server that there is not, as large as one likes, with names that are not nice. The same ones each time."""

from __future__ import annotations

import functools

from clockworker import DurationStats
from clockworker.executor._histogram_cy import BUCKETS, bucket_bound_ns
from clockworker.shards.observe._ledger import Totals
from clockworker.shards.observe._view import (
    Event,
    Presence,
    ServerStats,
    view_all,
    view_shard,
    view_topics,
)
from clockworker.shards.protocol._reading import CallReading, Groups, LoopReading, ProcessReading, QueueReading, Reading
from clockworker.shards.protocol._request_readings import Requests, RouteReading
from clockworker.shards.protocol._topic_readings import TopicReading, TopicReadings

# They would run if they were taken for HTML.
EVIL = "<script>window.evil = 1</script>"
EVIL_IMAGE = "<img src=x onerror='window.evil = 1'>"


@functools.cache
def durations(ns: int, count: int = 100) -> DurationStats:
    """So many of about that length, and one each of those that are shorter."""
    bucket = next(number for number in range(BUCKETS) if bucket_bound_ns(number) >= ns)
    return DurationStats((1,) * bucket + (count,), ns, ns * count)


def reading(shard: int, queues: int) -> Reading:
    """Of five seconds."""
    names = [EVIL, "foreground", *(f"queue-{number}" for number in range(2, queues))][:queues]
    return Reading(
        written_ns=10**9,
        process=ProcessReading(
            cpu_user_ns=(shard % 5 + 1) * 800_000_000, run_delay_ns=50_000_000, rss_bytes=(80 + shard) << 20
        ),
        loop=LoopReading(
            driver_ns=200_000_000, connections_accepted=500, connections_open=12 + shard, lag=durations(150_000)
        ),
        calls=CallReading(
            local=100, sent=25_000, received=25_000, bytes_sent=10**6, ring_used_bytes=1 << 10, ring_bytes=1 << 16
        ),
        queues={
            name: QueueReading(
                share=8 if number == 1 else 1,
                runnable=number,
                tasks=10 * number + 3,
                polls=9_000,
                busy_ns=(number % 7 + 1) * 100_000_000,
                slow_polls=number % 3,
                panics=int(number == 5),
                poll_time=durations(40_000 + 5_000 * number),
                wait=durations(3_000 * (number + 1)),
                groups=Groups({EVIL_IMAGE: 90_000_000, f"tenant-{number}": 40_000_000}),
                preemptive=int(number == 0),
                cuts=500 if number == 0 else 0,
                refusals_lock=3,
                whole_step=durations(9_000_000),
                hogs=Groups({f"/reports/{EVIL_IMAGE}": 300_000_000}) if number == 0 else Groups(),
            )
            for number, name in enumerate(names)
        },
        http=Requests(
            {
                "foreground": {
                    "/": RouteReading(status_2=4_000, status_4=20, running=3, time=durations(900_000)),
                    EVIL_IMAGE: RouteReading(status_2=300, status_5=5, waiting=2, time=durations(40_000_000)),
                }
            }
        ),
        topics=TopicReadings({EVIL_IMAGE: TopicReading(500, 1_500, 10, 4), "orders": TopicReading(50, 100, 0, 2)}),
    )


def figures(shards: int, queues: int) -> ServerStats:
    presences = [
        Presence(
            shard, "back-off" if shard == 2 else "ready", None if shard == 2 else 4_000 + shard, shard, 3_600.0 * shard
        )
        for shard in range(shards)
    ]
    lately = [reading(shard, queues) for shard in range(shards)]
    totals = [Totals(shard % 3, int(shard == 1), one) for shard, one in enumerate(lately)]
    window_s, now_ns = 5.0, 1_200_000_000
    queue_views, routes, total = view_all(presences, totals, lately, window_s)
    return ServerStats(
        version="1.2.3",
        compiled=True,
        app="shop:main",
        addresses=["127.0.0.1:8000", "admin=unix:/run/shop.sock"],
        serving=True,
        pid=3_999,
        uptime_s=93_784.0,
        window_s=window_s,
        shards=[
            view_shard(presence, one, recent, window_s, now_ns)
            for presence, one, recent in zip(presences, totals, lately, strict=True)
        ],
        queues=queue_views,
        routes=routes,
        topics=view_topics(total.since_start, lately, window_s),
        total=total,
        events=[
            Event(1, 1_700_000_000.0, 1, "stall", f"shard 1 has not come back to its loop: task {EVIL_IMAGE}"),
            Event(2, 1_700_000_060.0, 2, "crash", "shard 2 is started again, pid 4102"),
            Event(3, 1_700_000_120.0, 0, "roll", "shard 0 is replaced, pid 4103"),
        ],
    )
