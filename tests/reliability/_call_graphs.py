"""Random graphs of calls, and three shards in one process on which they are run.

A graph is data that travels with the calls: what a request does is in its argument. The three meshes are whole, with their
rings and doorbells, and share one executor, which polls all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import clockworker as cw
from clockworker.executor._steps_cy import WorkSource
from clockworker.ipc.calls._waits import OwnLane
from clockworker.shards.worker._blocking_pools import BlockingPools

SHARDS = 3
MOST_THINGS = 40  # in one graph
LIMIT_S = (
    30.0  # with nothing done in so long it stands still: a graph takes milliseconds, or as many as others leave it
)
MOST_LIMITS = 40  # and then it goes round in a circle

Things = list[Any]  # what is done: one after the other


class Standstill(AssertionError):
    """Not all of a graph has ended."""


class Maker:
    """Makes graphs."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.left = 0

    def graph(self) -> list[list[Things]]:
        """For each shard, what begins there at once."""
        self.left = MOST_THINGS
        depth = self.rng.randint(1, 6)
        return [[self.things(depth)] * self.rng.choice((0, 1, 1, 2, 3, 5)) for _ in range(SHARDS)]

    def things(self, depth: int) -> Things:
        if depth == 0 or self.left <= 0:
            return []
        return [self.thing(depth) for _ in range(self.rng.choice((0, 1, 1, 1, 2, 3)))]

    def thing(self, depth: int) -> Any:
        rng = self.rng
        self.left -= 1
        shard = rng.randrange(SHARDS)
        inner = self.things(depth - 1)
        kind = rng.choice(
            ("call", "call", "call", "call", "stream", "stream", "send", "send", "together", "map", "queue", "yield")
            + (("thread",) if rng.random() < 0.2 else ())
        )
        match kind:
            case "call":
                timeout = rng.choice((0, 0, 0, 0, 0, 0.0005, 0.003, 0.02))
                return [rng.choice((kind, kind, kind, "nowait")), shard, inner, timeout]
            case "send":
                return [rng.choice((kind, kind, "send_nowait")), shard, inner]
            case "together":
                return [kind, [self.things(depth) for _ in range(rng.randint(2, 4))]]
            case "stream":
                return [kind, shard, rng.randint(0, 4), rng.randint(1, 4), inner, self.things(depth)]
            case "map":
                return [rng.choice((kind, "broadcast", "map_reduce")), inner]
            case "queue":
                return [kind, self.things(depth)]
            case "thread":
                return [kind, shard, inner]
        return ["yield", rng.randint(0, 3)]


class Node:
    """The service of a shard. blind: what serves a request does not know that it does."""

    def __init__(self, shard: Shards, number: int) -> None:
        self.shards = shard
        self.number = number
        self.service: cw.Sharded[Node]

    @cw.remote
    async def run(self, things: list[Any]) -> int:
        await self.do_as_served(things)
        return 1

    @cw.remote
    async def at_once(self) -> int:
        return 1

    @cw.remote
    async def rows(self, count: int, things: list[Any]) -> AsyncIterator[int]:
        for number in range(count):
            yield number
            await self.do_as_served(things)

    async def do_as_served(self, things: Things) -> None:
        if self.shards.blind:
            await asyncio.get_running_loop().create_task(self.do(things), context=contextvars.Context())
        else:
            await self.do(things)

    async def do(self, things: Things) -> None:
        for thing in things:
            try:
                await self.do_one(*thing)
            except (cw.CallError, ExceptionGroup):
                self.shards.errors += 1

    async def do_one(self, kind: str, *rest: Any) -> None:
        service = self.service
        match kind, *rest:
            case "call", shard, things, timeout:
                on = service.on(shard, timeout=timeout) if timeout else service.on(shard)
                await (on.run(things) if things else on.at_once())
            case "nowait", shard, things, _:
                await service.on_nowait(shard).run(things)
            case "send", shard, things:
                await service.send(shard, Node.run, things)
            case "send_nowait", shard, things:
                service.send_nowait(shard, Node.run, things)
            case "stream", shard, count, leave, inner, between:
                async with aclosing(service.on(shard).rows(count, inner)) as rows:  # type: ignore[type-var]
                    async for number in rows:
                        await self.do(between)
                        if number + 1 == leave:
                            break
            case "together", several:
                async with asyncio.TaskGroup() as group:
                    for things in several:
                        group.create_task(self.do(things))
            case "map", things:
                await service.map(Node.run, things)
            case "broadcast", things:
                await service.broadcast(Node.run, things)
            case "map_reduce", things:
                await service.map_reduce(int.__add__, 0, Node.run, things)
            case "queue", things:
                await self.shards.queues[1].spawn(self.do(things))
            case "thread", shard, things:
                await self.shards.pool.run(lambda: service.call_threadsafe(shard, Node.run, things).result())
            case "yield", count:
                for _ in range(count):
                    await asyncio.sleep(0)
            case _:
                raise ValueError(kind)


class _All(WorkSource):
    """Polls several meshes."""

    def __init__(self, meshes: list[cw.Mesh]) -> None:
        self._meshes = meshes

    def poll(self) -> bool:
        came = False
        for mesh in self._meshes:
            bell = mesh.doorbell
            bell.wake()
            peer = bell.next_news(0)
            while peer >= 0:
                mesh.look_at(mesh.heard[peer])
                peer = bell.next_news(peer + 1)
            for link in list(mesh._unfinished):
                ring = link.connection
                before = ring.frames_received
                while ring.connected and mesh.drain(link):
                    pass
                mesh._finish(link)
                came = came or ring.frames_received != before
                if ring.backlog:
                    ring.mark_dirty()
            while mesh.dirty:
                mesh.dirty.pop().flush()
        return came

    def prepare_sleep(self) -> bool:
        return all(mesh.prepare_sleep() for mesh in self._meshes)


class Shards:
    """Three shards in this process."""

    def __init__(self, executor: cw.Executor, credit: int, ring: int = 1 << 16) -> None:
        self.executor = executor
        self.queues = executor.queues()
        self.credit = credit
        self.blind = False
        self.errors = 0
        self.pool = BlockingPools(credit)
        bells = [cw.create_doorbell(SHARDS) for _ in range(SHARDS)]
        limits = cw.Limits(credit=credit, window=2)
        pairs = [(one, other) for one in range(SHARDS) for other in range(SHARDS) if one != other]
        rings = {pair: cw.create_ring(ring) for pair in pairs}
        self.meshes = [
            cw.Mesh(number, SHARDS, executor, (os.dup(bells[number][0]), os.dup(bells[number][1])), limits=limits)
            for number in range(SHARDS)
        ]
        for one, other in pairs:
            self.meshes[one].connect(
                other,
                1,
                incoming=os.dup(rings[other, one]),
                outgoing=os.dup(rings[one, other]),
                doorbell=(os.dup(bells[other][0]), os.dup(bells[other][1])),
            )
        for descriptor in [*rings.values(), *(each for bell in bells for each in bell)]:
            os.close(descriptor)
        executor.poll_source(_All(self.meshes), idle_poll_us=0)
        self.nodes = [Node(self, number) for number in range(SHARDS)]
        for mesh, node in zip(self.meshes, self.nodes, strict=True):
            node.service = mesh.start(Node, node)

    async def run(self, graph: list[list[Things]]) -> None:
        """Run it to its end. Raises `Standstill` if there is none, or if anything is left of it."""
        roots = [
            self.queues[0].spawn(node.do(things))
            for node, several in zip(self.nodes, graph, strict=True)
            for things in several
        ]
        limit = 0.5 if self.blind else LIMIT_S
        left = {root.task for root in roots}
        for _ in range(1 if self.blind else MOST_LIMITS):
            done = self._done()
            if left:
                _, left = await asyncio.wait(left, timeout=limit)
            if not left or self._done() == done:
                break
        done, ends = self._done(), time.monotonic() + limit
        while left or not self._is_over():
            if left or time.monotonic() > ends:
                if left or self._done() == done:
                    raise Standstill(self._left(len(left)))
                done, ends = self._done(), time.monotonic() + limit
            await asyncio.sleep(0)
        for root in roots:
            match await root.outcome():
                case cw.TaskPanicked(exception):
                    raise exception
                case cw.TaskCancelled():
                    # A timeout of a call on one's own shard cancels its caller's task; nobody may be left cancelled.
                    raise AssertionError("what was begun was cancelled")
        for lane in self._lanes():
            if lane.credit != self.credit:
                raise Standstill(f"nothing is left, but {lane.credit} of {self.credit} credit")

    def close(self) -> None:
        for mesh in self.meshes:
            mesh.close()

    def _is_over(self) -> bool:
        return all(
            mesh.is_quiet() and not any(link.pending or link.streams for link in mesh.links) for mesh in self.meshes
        ) and all(lane.credit == self.credit for lane in self._lanes())

    def _done(self) -> int:
        """What has been done so far; it grows as long as anything goes on."""
        frames = sum(link.connection.frames_received for mesh in self.meshes for link in mesh.links)
        return frames + sum(queue.finished for queue in self.executor.queue_stats().values())

    def _lanes(self) -> list[Any]:
        own: list[OwnLane] = [lane for mesh in self.meshes for lane in mesh.here.in_flight.values()]
        return own + [lane for mesh in self.meshes for link in mesh.links for lane in link.credit.lanes.values()]

    def _left(self, roots: int) -> str:
        waiting = sum(mesh.stats().calls_waiting for mesh in self.meshes)
        pending = sum(mesh.stats().calls_in_flight for mesh in self.meshes)
        return f"{roots} of what was begun has not ended; {pending} calls are in flight, {waiting} wait"


@asynccontextmanager
async def shards(credit: int) -> AsyncIterator[Shards]:
    """Three of them, gone at the end."""
    async with cw.Executor([cw.Queue("first"), cw.Queue("second", 3)], on_panic="catch") as executor:
        found = Shards(executor, credit)
        try:
            yield found
        finally:
            for task in executor._core.tasks():
                task.task.cancel()
            found.close()


def run_graphs(seeds: range, credit: int, *, blind: bool = False) -> int:
    """Run the graphs of these seeds; how many errors the calls had. An exception names its seed."""

    async def body() -> int:
        async with shards(credit) as three:
            three.blind = blind
            for seed in seeds:
                try:
                    await three.run(Maker(seed).graph())
                except Standstill as error:
                    raise Standstill(f"seed {seed}, credit {credit}: {error}") from None
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, credit {credit}: {error}") from None
            return three.errors

    return asyncio.run(body())
