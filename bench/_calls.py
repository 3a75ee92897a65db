"""Typed calls of `echo(value: bytes) -> bytes`: between shards, to the own shard, and over what one uses without shards."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import uvloop

import clockworker as cw
from bench._loops import Spawn
from bench._messages import microseconds_of
from bench._processes import together
from bench._stream import Make, RpcClient, RpcServer
from bench._transports import Open, Transport
from clockworker.shards._wiring import RING_CAPACITY

T = TypeVar("T")
Echo = Callable[[bytes], Awaitable[bytes]]

IN_FLIGHT = 64
WARM = 200  # calls before any is counted


class CallPace(msgspec.Struct, frozen=True):
    sequential_us: dict[str, float]  # p50, p99
    per_second: float  # with 64 in flight; 0: not measured


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


def over_mesh(idle_poll_us: int, size: int, seconds: float) -> CallPace:
    """Between two shards."""
    shards = Shards(2, idle_poll_us)

    async def main(station: Station) -> CallPace:
        return await _pace(station.service.on(1).echo, cw.current_executor().queue("foreground").spawn, size, seconds)

    try:
        pace = together([lambda: shards.run(0, main), lambda: shards.run(1)])[0]
        assert pace is not None
        return pace
    finally:
        shards.close()


def one_way(idle_poll_us: int, sizes: Sequence[int], seconds: float) -> list[float]:
    """Typed one-way requests a second between two shards, until the last has been run, for each size of argument."""
    shards = Shards(2, idle_poll_us)

    async def main(station: Station) -> list[float]:
        other = station.service.on(1)
        clock = time.perf_counter_ns
        paces = []
        for size in sizes:
            value = bytes(size)
            for _ in range(10):
                await station.service.send(1, Station.take, value)
            await other.taken()
            started = clock()
            until = started + int(seconds * 1e9)
            count = 0
            chunk = max(1, min(64, (1 << 21) // size))  # as many as other messages between two looks at the clock
            while clock() < until:
                for _ in range(chunk):
                    await station.service.send(1, Station.take, value)
                count += chunk
            if await other.taken() != count:  # it comes after them
                raise SystemExit(f"of {count} one-way requests some were not run")
            paces.append(count / (clock() - started) * 1e9)
        return paces

    try:
        paces = together([lambda: shards.run(0, main), lambda: shards.run(1)])[0]
        assert paces is not None
        return paces
    finally:
        shards.close()


def one_way_over_stream(make: Make, sizes: Sequence[int], seconds: float) -> list[float]:
    """The same between two uvloops."""
    one, other = socket.socketpair()

    async def drive() -> list[float]:
        client = RpcClient(make, {"taken": int, "stop": type(None)})
        await client.frames.connect(one)
        clock = time.perf_counter_ns
        paces = []
        for size in sizes:
            value = bytes(size)
            for _ in range(10):
                client.notify("take", value)
            await client.call("taken")
            started = clock()
            until = started + int(seconds * 1e9)
            count = 0
            chunk = max(1, min(64, (1 << 21) // size))
            while clock() < until:
                for _ in range(chunk):
                    client.notify("take", value)
                count += chunk
                await asyncio.sleep(0)  # it is written
                await client.frames.drain()
            if await client.call("taken") != count:
                raise SystemExit(f"of {count} one-way requests some were not run")
            paces.append(count / (clock() - started) * 1e9)
        await client.call("stop")
        client.frames.close()
        return paces

    async def serve() -> None:
        count = 0

        async def take(value: bytes) -> None:
            nonlocal count
            count += 1

        async def taken() -> int:
            nonlocal count
            before, count = count, 0
            return before

        async def stop() -> None:
            loop.call_later(0.01, stopped.set)  # when this is answered

        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        server = RpcServer(make, {"take": (take, tuple[bytes]), "taken": (taken, tuple[()]), "stop": (stop, tuple[()])})
        await server.frames.connect(other)
        await stopped.wait()
        server.frames.close()

    with one, other:
        paces = together([lambda: uvloop.run(drive()), lambda: uvloop.run(serve())])[0]
    assert paces is not None
    return paces


def over_stream(make: Make, size: int, seconds: float) -> CallPace:
    """Between two uvloops."""
    one, other = socket.socketpair()

    async def drive() -> CallPace:
        loop = asyncio.get_running_loop()
        client = RpcClient(make, {"echo": bytes, "stop": type(None)})
        await client.frames.connect(one)

        async def echo(value: bytes) -> bytes:
            return await client.call("echo", value)  # type: ignore[no-any-return]

        pace = await _pace(echo, loop.create_task, size, seconds)
        await client.call("stop")
        client.frames.close()
        return pace

    async def serve() -> None:
        async def echo(value: bytes) -> bytes:
            return value

        async def stop() -> None:
            loop.call_later(0.01, stopped.set)  # when this is answered

        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        server = RpcServer(make, {"echo": (echo, tuple[bytes]), "stop": (stop, tuple[()])})
        await server.frames.connect(other)
        await stopped.wait()
        server.frames.close()

    with one, other:
        pace = together([lambda: uvloop.run(drive()), lambda: uvloop.run(serve())])[0]
    assert pace is not None
    return pace


def over_transport(open_transport: Open, size: int, seconds: float) -> CallPace:
    """One at a time over a blocking transport, encoded and decoded as the others are."""
    transport = open_transport()
    try:
        pace = together([lambda: _drive(transport, size, seconds), lambda: _serve(transport)])[0]
        assert pace is not None
        return pace
    finally:
        transport.close()


def wake_ups(seconds: float) -> CallPace:
    """What the machine takes for two of them, there and back: an eventfd each way, blocking reads, nothing else."""
    there, back = os.eventfd(0), os.eventfd(0)

    def drive() -> CallPace:
        clock = time.perf_counter_ns
        times: list[int] = []
        now = clock()
        until = now + int(seconds * 1e9)
        while now < until:
            before = clock()
            os.eventfd_write(there, 1)
            os.eventfd_read(back)
            now = clock()
            times.append(now - before)
        os.eventfd_write(there, 2)
        return CallPace(microseconds_of(times[WARM:]), 0.0)

    def answer() -> None:
        while os.eventfd_read(there) == 1:
            os.eventfd_write(back, 1)

    try:
        pace = together([drive, answer])[0]
        assert pace is not None
        return pace
    finally:
        os.close(there)
        os.close(back)


async def _pace(echo: Echo, spawn: Spawn, size: int, seconds: float) -> CallPace:
    value = bytes(size)
    for _ in range(WARM):
        await echo(value)
    clock = time.perf_counter_ns
    times: list[int] = []
    now = clock()
    until = now + int(seconds * 1e9)
    while now < until:
        before = clock()
        await echo(value)
        now = clock()
        times.append(now - before)
    count = 0

    async def worker(until: int) -> None:
        nonlocal count
        while clock() < until:
            for _ in range(8):
                await echo(value)
            count += 8

    started = clock()
    for task in [spawn(worker(started + int(seconds * 1e9))) for _ in range(IN_FLIGHT)]:
        await task
    return CallPace(microseconds_of(times), count / (clock() - started) * 1e9)


def _drive(transport: Transport, size: int, seconds: float) -> CallPace:
    end = transport.connect[0]()
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
    value = bytes(size)

    def call(number: int) -> bytes:
        end.send(encode((number, "echo", (value,))))
        end.flush()
        return decode(end.receive())[1]

    for number in range(WARM):
        call(number)
    clock = time.perf_counter_ns
    times: list[int] = []
    now = clock()
    until = now + int(seconds * 1e9)
    while now < until:
        before = clock()
        call(len(times))
        now = clock()
        times.append(now - before)
    end.send(encode((0, "stop", (b"",))))
    end.flush()
    end.close()
    return CallPace(microseconds_of(times), 0.0)


def _serve(transport: Transport) -> None:
    end = transport.connect[1]()
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(tuple[int, str, tuple[bytes]]).decode
    while True:
        number, method, arguments = decode(end.receive())
        if method == "stop":
            break
        end.send(encode((number, arguments[0])))
        end.flush()
    end.close()


def local(calls: int) -> LocalCost:
    """On one shard, whose executor is the same for both."""
    shards = Shards(1, 0)

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

    try:
        cost = together([lambda: shards.run(0, main)])[0]
        assert cost is not None
        return cost
    finally:
        shards.close()


def fleet(count: int, workers: int, seconds: float) -> Fleet:
    """Every shard calls every other."""
    shards = Shards(count, 0)

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

    unused = shards.pair_bytes()
    try:
        found = together([partial(shards.run, shard, None if shard else main) for shard in range(count)])[0]
        assert found is not None
        return found
    finally:
        shards.close()


def idle(idle_poll_us: int, seconds: float) -> Idle:
    """Two shards that have called each other and have nothing more to do."""
    shards = Shards(2, idle_poll_us)

    async def main(station: Station) -> Idle:
        other = station.service.on(1)
        before = time.process_time() + await other.cpu_s()
        await asyncio.sleep(seconds)
        return Idle(seconds, (time.process_time() + await other.cpu_s() - before) * 1e3)

    try:
        found = together([lambda: shards.run(0, main), lambda: shards.run(1)])[0]
        assert found is not None
        return found
    finally:
        shards.close()
