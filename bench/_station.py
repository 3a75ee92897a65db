"""Shards in a benchmark: processes with a mesh between them and no supervisor, and what is measured on them.

Their service is `Station`, whose `echo` and `take` are what the peers of `_calls` have too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import uvloop

import clockworker as cw
from bench._messages import microseconds_of
from bench._pace import CallPace, pace_of_calls, pace_of_sends
from bench._processes import together
from clockworker.shards.supervisor._wiring import RING_CAPACITY

T = TypeVar("T")


class LocalCost(msgspec.Struct, frozen=True):
    call_ns: float  # to the own shard
    spawn_ns: float  # a plain spawn and await, in the same queue


class Fleet(msgspec.Struct, frozen=True):
    """All shards calling each other."""

    calls_per_second: float
    call_us: dict[str, float]  # p50, p99
    missed_wakeups: int
    idle_pair_bytes: float  # of physical memory of the rings of each pair, connected and never used
    used_pair_bytes: float


class Idle(msgspec.Struct, frozen=True):
    seconds: float
    cpu_ms: float  # used meanwhile, of both shards


class Shards:
    """What a mesh of `count` processes needs, made before they are forked."""

    def __init__(self, count: int, idle_poll_us: int) -> None:
        self.count = count
        self._idle_poll_us = idle_poll_us
        self._bells = [cw.create_doorbell(count) for _ in range(count)]
        self._rings = {(a, b): cw.create_ring(RING_CAPACITY) for a in range(count) for b in range(count) if a != b}

    def close(self) -> None:
        for descriptor in [*self._rings.values(), *(each for bell in self._bells for each in bell)]:
            os.close(descriptor)

    def pair_bytes(self) -> float:
        """Physical memory of the rings of one pair of shards, on average."""
        blocks = sum(os.fstat(descriptor).st_blocks for descriptor in self._rings.values())
        return blocks * 512 / (len(self._rings) / 2)

    def run(self, shard: int, main: Callable[[Station], Coroutine[Any, Any, T]] | None = None) -> T | None:
        """In a process of its own: the shard, until `main` is done, or without one until it is told to stop."""

        async def body() -> T | None:
            async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")]) as executor:
                memory, event = map(os.dup, self._bells[shard])
                mesh = cw.Mesh(shard, self.count, executor, (memory, event), idle_poll_us=self._idle_poll_us)
                for peer in range(self.count):
                    if peer != shard:
                        memory, event = map(os.dup, self._bells[peer])  # the mesh closes what it is given
                        incoming, outgoing = os.dup(self._rings[peer, shard]), os.dup(self._rings[shard, peer])
                        mesh.connect(peer, 1, incoming=incoming, outgoing=outgoing, doorbell=(memory, event))
                station = Station(mesh)
                if main is None:
                    await station.stopped.wait()
                    result = None
                else:
                    # In a queue, where calls come from.
                    result = await executor.queue("foreground").spawn(main(station))
                    for peer in station.service.others:
                        await station.service.on(peer).stop()
                mesh.close()
                return result

        return uvloop.run(body())


class Station:
    """The service of every shard."""

    def __init__(self, mesh: cw.Mesh) -> None:
        self.mesh = mesh
        self.stopped = asyncio.Event()
        self._taken = 0
        self.service: cw.Sharded[Station] = mesh.start(Station, self)

    @cw.remote
    async def echo(self, value: bytes) -> bytes:
        return value

    @cw.remote
    async def take(self, value: bytes) -> None:
        self._taken += 1

    @cw.remote
    async def taken(self) -> int:
        """Since it was last asked."""
        taken, self._taken = self._taken, 0
        return taken

    @cw.remote
    async def stop(self) -> None:
        asyncio.get_running_loop().call_later(0.01, self.stopped.set)  # when this is answered

    @cw.remote
    async def cpu_s(self) -> float:
        return time.process_time()

    @cw.remote
    async def flood(self, workers: int, seconds: float) -> tuple[list[int], int]:
        """Call all others in turn. The nanoseconds of each call, and wake-ups missed."""
        times: list[int] = []
        spawn = cw.current_executor().queue("foreground").spawn
        value = bytes(64)

        async def work(peers: list[int]) -> None:
            until = time.perf_counter_ns() + int(seconds * 1e9)
            now = 0
            while now < until:
                for peer in peers:
                    before = time.perf_counter_ns()
                    await self.service.on(peer).echo(value)
                    now = time.perf_counter_ns()
                    times.append(now - before)

        others = self.service.others
        for task in [spawn(work(others[number:] + others[:number])) for number in range(workers)]:
            await task
        return times, self.mesh.stats().missed_wakeups


def measure(shards: Shards, main: Callable[[Station], Coroutine[Any, Any, T]]) -> T:
    """What `main` finds out on shard 0, while the others serve it."""
    works = [partial(shards.run, shard, None if shard else main) for shard in range(shards.count)]
    try:
        found = together(works)[0]
        assert found is not None
        return found
    finally:
        shards.close()


def calls(idle_poll_us: int, size: int, seconds: float) -> CallPace:
    """Between two shards."""

    async def main(station: Station) -> CallPace:
        spawn = cw.current_executor().queue("foreground").spawn
        return await pace_of_calls(station.service.on(1).echo, spawn, size, seconds)

    return measure(Shards(2, idle_poll_us), main)


def one_way(idle_poll_us: int, sizes: Sequence[int], seconds: float) -> list[float]:
    """Typed one-way requests a second between two shards."""

    async def main(station: Station) -> list[float]:
        service = station.service

        async def send(value: bytes, count: int) -> None:
            for _ in range(count):
                await service.send(1, Station.take, value)

        return await pace_of_sends(send, service.on(1).taken, sizes, seconds)

    return measure(Shards(2, idle_poll_us), main)


def local(calls: int) -> LocalCost:
    """On one shard, whose executor is the same for both."""

    async def main(station: Station) -> LocalCost:
        spawn = cw.current_executor().queue("foreground").spawn
        value = bytes(64)
        echo, call = station.echo, station.service.on(0).echo
        costs = []
        for of_call in (False, True):
            for count in (calls // 10, calls):  # the first warms up
                started = time.thread_time_ns()
                if of_call:
                    for _ in range(count):
                        await call(value)
                else:
                    for _ in range(count):
                        await spawn(echo(value))
                cost = (time.thread_time_ns() - started) / count
            costs.append(cost)
        return LocalCost(call_ns=costs[1], spawn_ns=costs[0])

    return measure(Shards(1, 0), main)


def fleet(count: int, workers: int, seconds: float) -> Fleet:
    """Every shard calls every other."""
    shards = Shards(count, 0)
    unused = shards.pair_bytes()

    async def main(station: Station) -> Fleet:
        for peer in station.service.others:
            await station.service.on(peer).echo(b"")
        started = time.perf_counter()
        floods = [station.service.on(shard).flood(workers, seconds) for shard in range(count)]
        results = await asyncio.gather(*floods)
        elapsed = time.perf_counter() - started
        times = [each for one, _ in results for each in one]
        return Fleet(
            len(times) / elapsed,
            microseconds_of(times),
            sum(missed for _, missed in results),
            unused,
            shards.pair_bytes(),
        )

    return measure(shards, main)


def idle(idle_poll_us: int, seconds: float) -> Idle:
    """Two shards that have called each other and have nothing more to do."""

    async def main(station: Station) -> Idle:
        other = station.service.on(1)
        before = time.process_time() + await other.cpu_s()
        await asyncio.sleep(seconds)
        return Idle(seconds, (time.process_time() + await other.cpu_s() - before) * 1e3)

    return measure(Shards(2, idle_poll_us), main)
