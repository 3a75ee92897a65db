"""Shards for the benchmark of topics: each listens to them, tells what it heard, and publishes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from array import array
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import psutil
import uvloop

import clockworker as cw
from bench._processes import together
from bench._report import percentile
from clockworker.shards.supervisor._wiring import RING_CAPACITY

BODY = bytes(56)  # with eight of its time


class Heard(msgspec.Struct, frozen=True):
    """Of the messages of one listener. late_us: from publishing to reading, the percentiles 50 and 99."""

    messages: int
    last_ns: int
    late_us: dict[str, float]


class Hall:
    """The service of every shard."""

    def __init__(self, mesh: cw.Mesh) -> None:
        self.mesh = mesh
        self.stopped = asyncio.Event()
        self.service: cw.Sharded[Hall] = mesh.start(Hall, self)
        self._listening: dict[str, list[asyncio.Task[None]]] = {}
        self._late_ns: dict[str, array[int]] = {}  # which are no objects: they would be collected, and grow the memory
        self._last_ns = 0

    def topic(self, name: str) -> cw.Topic[bytes]:
        topic: cw.Topic[bytes] = self.mesh.topics.topic(name, bytes)
        return topic

    @cw.remote
    async def listen(self, name: str, count: int = 1, limit: int = 1_024) -> None:
        """So many subscribers, of which the first is measured."""
        self._late_ns[name] = array("q")
        self._listening[name] = []
        for number in range(count):
            entered = asyncio.Event()
            work = self._listen(name, limit, entered, measured=not number)
            self._listening[name].append(asyncio.get_running_loop().create_task(work))
            await entered.wait()

    async def _listen(self, name: str, limit: int, entered: asyncio.Event, measured: bool) -> None:
        late_ns = self._late_ns[name]
        async with self.topic(name).subscribe(limit=limit) as messages:
            entered.set()
            async for message in messages:
                if measured:
                    self._last_ns = time.perf_counter_ns()
                    late_ns.append(self._last_ns - int.from_bytes(message[:8], "little"))

    @cw.remote
    async def listen_slowly(self, name: str) -> None:
        """A subscriber that reads nothing."""
        entered = asyncio.Event()

        async def listen() -> None:
            async with self.topic(name).subscribe(when_full="drop-oldest"):
                entered.set()
                await self.stopped.wait()

        self._listening[f"{name}, slow"] = [asyncio.get_running_loop().create_task(listen())]
        await entered.wait()

    @cw.remote
    async def cease(self) -> None:
        """All leave."""
        for task in [task for tasks in self._listening.values() for task in tasks]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._listening.clear()

    @cw.remote
    async def heard(self, name: str) -> Heard:
        late_us = sorted(ns / 1e3 for ns in self._late_ns[name])
        return Heard(len(late_us), self._last_ns, {f"p{p}": percentile(late_us, p) for p in (50, 99)})

    @cw.remote
    async def forget(self, name: str) -> None:
        """What its listener has measured so far."""
        del self._late_ns[name][:]

    @cw.remote
    async def heard_count(self, name: str) -> int:
        return len(self._late_ns[name])

    @cw.remote
    async def rss_bytes(self) -> int:
        return int(psutil.Process().memory_info().rss)

    @cw.remote
    async def cpu_ns(self) -> int:
        """Of the shard's thread."""
        return time.thread_time_ns()

    @cw.remote
    async def stop(self) -> None:
        asyncio.get_running_loop().call_later(0.01, self.stopped.set)  # when this is answered

    async def publish(self, name: str, count: int) -> None:
        """As fast as it goes."""
        topic = self.topic(name)
        for _ in range(count):
            await topic.publish(time.perf_counter_ns().to_bytes(8, "little") + BODY)

    async def publish_paced(self, name: str, per_s: float, seconds: float) -> int:
        """Returns how many. The core is not left meanwhile: a loop's timers are of whole milliseconds, and a burst of messages
        at each would be measured instead."""
        topic = self.topic(name)
        begin = time.perf_counter()
        count = 0
        while (now := time.perf_counter()) < begin + seconds:
            if begin + count / per_s <= now:
                await topic.publish(time.perf_counter_ns().to_bytes(8, "little") + BODY)
                count += 1
            await asyncio.sleep(0)
        return count

    async def until_heard(self, name: str, count: int, shards: int) -> list[Heard]:
        """By the listener of each of the first so many shards."""
        for shard in range(shards):
            await self.until_heard_by(shard, name, count)
        return [await self.service.on(shard).heard(name) for shard in range(shards)]

    async def until_heard_by(self, shard: int, name: str, count: int) -> None:
        while await self.service.on(shard).heard_count(name) < count:  # noqa: ASYNC110  # another process's
            await asyncio.sleep(0.001)


def on_two_shards(main: Callable[[Hall], Coroutine[Any, Any, Any]]) -> Any:
    """What `main` returns, on the first of them."""
    bells = [cw.create_doorbell(2) for _ in range(2)]
    rings = {(a, 1 - a): cw.create_ring(RING_CAPACITY) for a in range(2)}
    try:
        return together([partial(_shard, number, bells, rings, main) for number in range(2)])[0]
    finally:
        for descriptor in [*rings.values(), *(each for bell in bells for each in bell)]:
            os.close(descriptor)


def _shard(
    number: int,
    bells: list[tuple[int, int]],
    rings: dict[tuple[int, int], int],
    main: Callable[[Hall], Coroutine[Any, Any, Any]],
) -> Any:
    async def body() -> Any:
        async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")]) as executor:
            memory, event = map(os.dup, bells[number])
            mesh = cw.Mesh(number, 2, executor, (memory, event), idle_poll_us=200)
            _ = mesh.topics
            peer = 1 - number
            memory, event = map(os.dup, bells[peer])
            incoming, outgoing = os.dup(rings[peer, number]), os.dup(rings[number, peer])
            mesh.connect(peer, 1, incoming=incoming, outgoing=outgoing, doorbell=(memory, event))
            hall = Hall(mesh)
            result = None
            if number == 0:
                result = await executor.queue("foreground").spawn(main(hall))
                await hall.service.on(1).stop()
            else:
                await hall.stopped.wait()
            mesh.close()
            return result

    return uvloop.run(body())
