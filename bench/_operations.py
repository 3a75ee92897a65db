"""The operations whose cost `bench overhead` asks for. Each returns CPU nanoseconds for one of them.

A measure is given how to spawn (one way a queue), how many tasks there are at a time, and how many operations are wanted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from bench._loops import Spawn


async def spawn_and_await(spawns: list[Spawn], tasks: int, operations: int) -> float:
    count = max(operations // tasks, 4)
    stopwatch = Stopwatch(tasks)

    async def child() -> None:
        pass

    async def parent(spawn: Spawn) -> None:
        await stopwatch.arrive()
        for _ in range(count):
            await spawn(child())
        stopwatch.leave()

    await finished([spawn(parent(spawn)) for spawn in deal(spawns, tasks)])
    return stopwatch.elapsed_ns() / (tasks * count)


async def spawn_all(spawns: list[Spawn], tasks: int, operations: int) -> float:
    async def task() -> None:
        pass

    repeats = -(-operations // tasks)
    started = time.thread_time_ns()
    for _ in range(repeats):
        running = [spawn(task()) for spawn in deal(spawns, tasks)]
        for one in running:
            await one
    return (time.thread_time_ns() - started) / (repeats * tasks)


async def yields(spawns: list[Spawn], tasks: int, operations: int) -> float:
    count = max(2 * operations // tasks, 10)
    stopwatch = Stopwatch(tasks)

    async def task() -> None:
        await stopwatch.arrive()
        for _ in range(count):
            await asyncio.sleep(0)
        stopwatch.leave()

    await finished([spawn(task()) for spawn in deal(spawns, tasks)])
    return stopwatch.elapsed_ns() / (tasks * count)


async def future_ping(spawns: list[Spawn], tasks: int, operations: int) -> float:
    loop = asyncio.get_running_loop()
    pairs = tasks // 2
    count = max(operations // tasks, 2)
    stopwatch = Stopwatch(2 * pairs)

    async def player(futures: list[asyncio.Future[None]], own: int) -> None:
        await stopwatch.arrive()
        for _ in range(count):
            await futures[own]
            futures[own] = loop.create_future()
            futures[1 - own].set_result(None)
        stopwatch.leave()

    table = [[loop.create_future(), loop.create_future()] for _ in range(pairs)]
    running = [
        spawn(player(futures, own)) for spawn, futures in zip(deal(spawns, pairs), table, strict=True) for own in (0, 1)
    ]
    await stopwatch.all_arrived
    for futures in table:
        futures[0].set_result(None)
    await finished(running)
    return stopwatch.elapsed_ns() / (2 * pairs * count)


async def wake_ups(spawns: list[Spawn], tasks: int, operations: int) -> float:
    """Each task waits for what one callback of the loop's brings it, again and again, as for a database's answer."""
    loop = asyncio.get_running_loop()
    count = max(operations // tasks, 10)
    stopwatch = Stopwatch(tasks)

    async def task() -> None:
        await stopwatch.arrive()
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
        stopwatch.leave()

    await finished([spawn(task()) for spawn in deal(spawns, tasks)])
    return stopwatch.elapsed_ns() / (tasks * count)


async def sleeps(spawns: list[Spawn], tasks: int, operations: int) -> float:
    count = max(operations // 10 // tasks, 1)

    async def task() -> None:
        for _ in range(count):
            await asyncio.sleep(0.001)

    started = time.thread_time_ns()
    await finished([spawn(task()) for spawn in deal(spawns, tasks)])
    return (time.thread_time_ns() - started) / (tasks * count)


Measure = Callable[[list[Spawn], int, int], Coroutine[None, None, float]]
OPERATIONS: dict[str, Measure] = {
    "spawn and await": spawn_and_await,
    "spawn all": spawn_all,
    "yield": yields,
    "future ping": future_ping,
    "sleep": sleeps,
}


def deal(spawns: list[Spawn], tasks: int) -> Iterable[Spawn]:
    return itertools.islice(itertools.cycle(spawns), tasks)


async def finished(running: Iterable[Awaitable[None]]) -> None:
    for one in running:
        await one


class Stopwatch:
    """A barrier for tasks, and the time from its opening to the departure of the last of them.

    Without the barrier some tasks would be ahead of others when time begins.
    """

    def __init__(self, tasks: int) -> None:
        self.all_arrived = asyncio.get_running_loop().create_future()
        self._arriving = tasks
        self._leaving = tasks
        self._started = 0
        self._ended = 0

    async def arrive(self) -> None:
        self._arriving -= 1
        if self._arriving == 0:
            self.all_arrived.set_result(None)
            self._started = time.thread_time_ns()
        await self.all_arrived

    def leave(self) -> None:
        self._leaving -= 1
        if self._leaving == 0:
            self._ended = time.thread_time_ns()

    def elapsed_ns(self) -> int:
        return self._ended - self._started
