"""How many messages a second does a topic carry, what does a subscriber cost, and what does a slow one do to others?

Two shards, each on a core; messages of 64 bytes. Redis pub/sub by redis-py carries the same, in the same run: a process on each
core, a subscriber in each, redis-server wherever it finds room. Figures are of rounds that take turns; ratios are taken within
a round.

- messages/s: one shard publishes, both have a subscriber; until both have read all. Redis: each publish is awaited; and 64 at
  a time in a pipeline.
- 1,000 subscribers on the other shard: frames that were sent for each message; the same for a topic that nobody hears.
- slow: 5,000 messages a second, and how late they are read on the other shard (p99), beside a subscriber that reads nothing and
  whose queue is full, to the same without it. Both in turns of a tenth of a second, each first in every other one, so that
  what disturbs the machine disturbs both; the p99 of a round is the median of its turns' (500 messages each). What the shard's
  memory grew by meanwhile.
- cpu: what a message costs the other shard's thread, of so many at once, likewise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import redis
import redis.asyncio

from bench._processes import cores, together
from bench._report import Summary, columns, progress, ratios, summary
from bench._topic_hall import BODY, Hall, on_two_shards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIPELINE = 64
PACE = 5_000.0
TURN_S = 0.1
AT_ONCE = 5_000
GOAL_RATE = 50_000
GOAL_SLOW = 1.2
MEMORY_BYTES = 16 << 20  # what a slow subscriber may cost, which holds 256 messages


class Round(msgspec.Struct, frozen=True):
    topic_rate: float
    redis_rate: float
    redis_pipelined_rate: float
    crowd_frames: float  # for each message
    unheard_frames: float
    unheard_us: float  # one publish
    quiet_p99_us: float
    slow_p99_us: float
    slow_grown_bytes: int
    quiet_cpu_us: float  # a message
    slow_cpu_us: float


class TopicsReport(msgspec.Struct, frozen=True):
    redis: str  # its version
    rounds: list[Round]

    def of(self, name: str) -> Summary:
        return summary([getattr(each, name) for each in self.rounds])

    def ratio(self, name: str, to: str) -> Summary:
        return ratios([getattr(each, name) for each in self.rounds], [getattr(each, to) for each in self.rounds])

    def table(self) -> str:
        def row(what: str, name: str, places: int = 0, ratio: str = "", goal: str = "") -> list[str]:
            found = self.of(name)
            return [
                what,
                f"{found.median:,.{places}f} ({found.least:,.{places}f}-{found.most:,.{places}f})",
                str(self.ratio("topic_rate", ratio)) if ratio else "",
                goal,
            ]

        slow = str(self.ratio("slow_p99_us", "quiet_p99_us"))
        rows = [
            ["median (least-most) of the rounds", "", "topic / this", "goal"],
            row("topic, messages/s to two shards", "topic_rate", goal=f">= {GOAL_RATE:,}"),
            row(f"Redis {self.redis}, each awaited", "redis_rate", ratio="redis_rate"),
            row(f"Redis, {PIPELINE} in a pipeline", "redis_pipelined_rate", ratio="redis_pipelined_rate"),
            row("frames a message, 1,000 subscribers there", "crowd_frames", 2, goal="1"),
            row("frames a message that nobody hears", "unheard_frames", 2, goal="0"),
            row("us to publish one that nobody hears", "unheard_us", 2),
            row("p99, us, quiet", "quiet_p99_us"),
            row("p99, us, beside a slow subscriber", "slow_p99_us"),
            ["the same, to quiet", slow, "", f"<= {GOAL_SLOW}"],
            row("CPU there, us a message, quiet", "quiet_cpu_us", 2),
            row("CPU there, beside a slow subscriber", "slow_cpu_us", 2),
            ["the same, to quiet", str(self.ratio("slow_cpu_us", "quiet_cpu_us")), "", ""],
            row("memory grown by, bytes", "slow_grown_bytes", goal=f"<= {MEMORY_BYTES:,}"),
        ]
        return columns(rows)

    def plot(self, figure: Figure) -> None:
        """Messages a second."""
        axes = figure.add_subplot(ylabel="thousands of messages a second")
        names = {"topic": "topic_rate", "Redis": "redis_rate", f"Redis, {PIPELINE}": "redis_pipelined_rate"}
        found = [self.of(name) for name in names.values()]
        errors = [
            [(each.median - each.least) / 1e3 for each in found],
            [(each.most - each.median) / 1e3 for each in found],
        ]
        axes.bar(list(names), [each.median / 1e3 for each in found], yerr=errors)

    def failures(self) -> list[str]:
        """The goals that were missed."""
        slow = self.ratio("slow_p99_us", "quiet_p99_us").median
        found = {
            f"{self.of('topic_rate').median:,.0f} messages a second": self.of("topic_rate").median >= GOAL_RATE,
            f"{self.of('crowd_frames').most:.2f} frames a message": self.of("crowd_frames").most <= 1,
            f"{self.of('unheard_frames').most:.2f} frames that nobody hears": self.of("unheard_frames").most == 0,
            f"{slow:.2f} of the quiet p99 beside a slow subscriber": slow <= GOAL_SLOW,
            f"{self.of('slow_grown_bytes').most:,.0f} bytes grown": self.of("slow_grown_bytes").most <= MEMORY_BYTES,
        }
        return [f"topics: {what}" for what, holds in found.items() if not holds]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=100_000, help="of each round; a tenth of it by Redis")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round with and without a slow subscriber")
    parser.add_argument("--check", action="store_true", help="fail if a goal is missed")


def run(options: argparse.Namespace) -> TopicsReport:
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed (Debian: apt-get install redis-server)")
    rounds = []
    with redis_server() as path:
        with redis.Redis(unix_socket_path=path) as client:
            version = str(client.info("server")["redis_version"])
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            few = max(PIPELINE, options.messages // 10)
            rounds.append(
                Round(
                    topic_rate=on_two_shards(partial(measure_rate, count=options.messages)),
                    redis_rate=measure_redis(path, few, 1),
                    redis_pipelined_rate=measure_redis(path, few, PIPELINE),
                    **on_two_shards(partial(measure_crossings, count=max(10, options.messages // 100))),
                    **on_two_shards(partial(measure_slow, seconds=options.seconds)),
                )
            )
    return TopicsReport(version, rounds)


async def measure_rate(hall: Hall, count: int) -> float:
    """Messages a second."""
    for shard in range(2):
        await hall.service.on(shard).listen("numbers")
    await hall.publish("numbers", count // 10)
    await hall.until_heard("numbers", count // 10, 2)
    begin = time.perf_counter_ns()
    await hall.publish("numbers", count)
    heard = await hall.until_heard("numbers", count // 10 + count, 2)
    return count / (max(each.last_ns for each in heard) - begin) * 1e9


async def measure_crossings(hall: Hall, count: int) -> dict[str, float]:
    await hall.service.on(1).listen("crowd", 1_000)
    before = hall.mesh.stats().frames_sent
    await hall.publish("crowd", count)
    crowd = hall.mesh.stats().frames_sent - before
    await hall.until_heard_by(1, "crowd", count)
    before = hall.mesh.stats().frames_sent
    begin = time.perf_counter_ns()
    await hall.publish("nobody", 10 * count)
    took_ns = time.perf_counter_ns() - begin
    unheard = hall.mesh.stats().frames_sent - before
    return {
        "crowd_frames": crowd / count,
        "unheard_frames": unheard / (10 * count),
        "unheard_us": took_ns / (10 * count) / 1e3,
    }


async def measure_slow(hall: Hall, seconds: float) -> dict[str, float]:
    there = hall.service.on(1)
    published = {"quiet": 0, "slow": 0}
    for how in published:
        await there.listen(how)
    await there.listen_slowly("slow")
    before = await there.rss_bytes()
    cpu_ns: dict[str, list[float]] = {how: [] for how in published}
    for how in in_turns(max(3, int(seconds / 2 / TURN_S))):
        begin = await there.cpu_ns()
        await hall.publish(how, AT_ONCE)
        published[how] += AT_ONCE
        await hall.until_heard_by(1, how, published[how])
        cpu_ns[how].append(await there.cpu_ns() - begin)
    p99_us: dict[str, list[float]] = {how: [] for how in published}
    for how in in_turns(max(1, round(seconds / TURN_S))):
        await there.forget(how)
        await hall.until_heard_by(1, how, await hall.publish_paced(how, PACE, TURN_S))
        p99_us[how].append((await there.heard(how)).late_us["p99"])
    return {
        "quiet_p99_us": statistics.median(p99_us["quiet"]),
        "slow_p99_us": statistics.median(p99_us["slow"]),
        "slow_grown_bytes": max(0, await there.rss_bytes() - before),
        "quiet_cpu_us": statistics.median(cpu_ns["quiet"]) / AT_ONCE / 1e3,
        "slow_cpu_us": statistics.median(cpu_ns["slow"]) / AT_ONCE / 1e3,
    }


def in_turns(pairs: int) -> Iterator[str]:
    for number in range(pairs):
        yield from ("quiet", "slow") if number % 2 else ("slow", "quiet")


# Redis


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A running one's socket."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "redis")
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("redis-server does not start")
                time.sleep(0.02)
            os.sched_setaffinity(process.pid, set(cores()))
            yield path
        finally:
            process.terminate()
            process.wait()


def measure_redis(path: str, count: int, pipeline: int) -> float:
    """Messages a second: one process publishes and subscribes, another subscribes."""
    took = together([partial(_redis_process, path, count, pipeline, number == 0) for number in range(2)])
    begin = took[0][0]
    return count / (max(last for _, last in took) - begin) * 1e9


def _redis_process(path: str, count: int, pipeline: int, publishes: bool) -> tuple[int, int]:
    """When it began to publish, and when it had read all."""

    async def body() -> tuple[int, int]:
        client = redis.asyncio.Redis(unix_socket_path=path)
        channel = client.pubsub(ignore_subscribe_messages=False)
        await channel.subscribe("numbers")
        await channel.get_message(timeout=30)
        begin = 0
        publishing = None
        if publishes:
            while (await client.pubsub_numsub("numbers"))[0][1] < 2:  # noqa: ASYNC110  # the server's
                await asyncio.sleep(0.005)
            begin = time.perf_counter_ns()
            publishing = asyncio.create_task(publish(client))
        left = count
        async for message in channel.listen():
            if message["type"] == "message":
                left -= 1
                if not left:
                    break
        last = time.perf_counter_ns()
        if publishing is not None:
            await publishing
        await channel.aclose()  # type: ignore[no-untyped-call]
        await client.aclose()
        return begin, last

    async def publish(client: redis.asyncio.Redis) -> None:
        sent = 0
        while sent < count:
            many = min(pipeline, count - sent)
            if pipeline == 1:
                await client.publish("numbers", bytes(8) + BODY)
            else:
                async with client.pipeline(transaction=False) as batch:
                    for _ in range(many):
                        batch.publish("numbers", bytes(8) + BODY)
                    await batch.execute()
            sent += many

    return asyncio.run(body())
