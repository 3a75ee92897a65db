"""Messages one way and there and back, over any transport: how many a second, and how long.

One way: one process sends for a while, and the other tells it when it has received all. There and back: it waits for each to
come back. A message of one byte ends either.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

import msgspec
import uvloop

from bench._processes import together
from bench._report import percentile
from bench._stream import FrameProtocol, FrameStream
from bench._transports import End, Open, Transport

_END = b"."
_CHUNK = 64  # messages between two looks at the clock


class Pace(msgspec.Struct, frozen=True):
    """Of messages of one size over one transport."""

    per_second: float
    round_trip_us: dict[str, float]  # p50, p99


def blocking(open_transport: Open, sizes: Sequence[int], seconds: float) -> list[Pace]:
    """A pace for each size."""
    transport = open_transport()
    try:
        return together(
            [lambda: _drive(transport, sizes, seconds), lambda: _serve(transport, sizes)],
        )[0]
    finally:
        transport.close()


def _drive(transport: Transport, sizes: Sequence[int], seconds: float) -> list[Pace]:
    end = transport.connect[0]()
    paces = []
    for size in sizes:
        body = bytes(size)
        for _ in range(10):  # warm: one round trip each
            end.send(body)
            end.flush()
            end.receive()
        end.send(_END)
        end.flush()
        end.receive()
        clock = time.perf_counter_ns
        started = clock()
        until = started + int(seconds * 1e9)
        count = 0
        chunk = max(1, min(_CHUNK, (1 << 21) // size))
        while clock() < until:
            for _ in range(chunk):
                end.send(body)
            count += chunk
        end.send(_END)
        end.flush()
        end.receive()
        per_second = count / (clock() - started) * 1e9
        times = []
        now = clock()
        until = now + int(seconds * 1e9)
        while now < until:
            end.send(body)
            end.flush()
            end.receive()
            before, now = now, clock()
            times.append(now - before)
        end.send(_END)
        end.flush()
        end.receive()
        paces.append(Pace(per_second, microseconds_of(times)))
    end.close()
    return paces


def _serve(transport: Transport, sizes: Sequence[int]) -> list[Pace]:
    end = transport.connect[1]()
    for _ in sizes:
        _echo(end)
        receive = end.receive
        while len(receive()) > 1:
            pass
        end.send(_END)
        end.flush()
        _echo(end)
    end.close()
    return []


def _echo(end: End) -> None:
    while True:
        body = end.receive()
        end.send(body)
        end.flush()
        if len(body) == 1:
            break


def protocols(make: type[FrameProtocol], sizes: Sequence[int], seconds: float) -> list[Pace]:
    """The same over a Unix stream between two uvloops, with protocols."""
    one, other = socket.socketpair()
    with one, other:
        return together(
            [
                lambda: uvloop.run(_drive_protocol(make, one, sizes, seconds)),
                lambda: uvloop.run(_serve_protocol(make, other, sizes)),
            ]
        )[0]


def streams(make: type[FrameStream], sizes: Sequence[int], seconds: float) -> list[Pace]:
    """The same with asyncio's streams."""
    one, other = socket.socketpair()
    with one, other:
        return together(
            [
                lambda: uvloop.run(_drive_stream(make(), one, sizes, seconds)),
                lambda: uvloop.run(_serve_stream(make(), other, sizes)),
            ]
        )[0]


async def _drive_protocol(
    make: type[FrameProtocol], end: socket.socket, sizes: Sequence[int], seconds: float
) -> list[Pace]:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()

    async def answer() -> None:
        nonlocal waiting
        await waiting
        waiting = loop.create_future()

    protocol = make(lambda body: waiting.set_result(None))
    await protocol.connect(end)
    paces = []
    for size in sizes:
        body = bytes(size)
        for _ in range(10):
            protocol.send(body)
            await answer()
        protocol.send(_END)
        await answer()
        clock = time.perf_counter_ns
        started = clock()
        until = started + int(seconds * 1e9)
        count = 0
        chunk = max(1, min(_CHUNK, (1 << 21) // size))
        while clock() < until:
            for _ in range(chunk):
                protocol.send(body)
            count += chunk
            await asyncio.sleep(0)  # it is written
            await protocol.drain()
        protocol.send(_END)
        await answer()
        per_second = count / (clock() - started) * 1e9
        times = []
        now = clock()
        until = now + int(seconds * 1e9)
        while now < until:
            protocol.send(body)
            await answer()
            before, now = now, clock()
            times.append(now - before)
        protocol.send(_END)
        await answer()
        paces.append(Pace(per_second, microseconds_of(times)))
    protocol.close()
    return paces


async def _serve_protocol(make: type[FrameProtocol], end: socket.socket, sizes: Sequence[int]) -> list[Pace]:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    echoing = [True, False, True] * len(sizes)  # until each message that ends

    def take(body: bytes) -> None:
        if echoing[0] or len(body) == 1:
            protocol.send(body)
        if len(body) == 1:
            del echoing[0]
            if not echoing:
                over.set_result(None)

    protocol = make(take)
    await protocol.connect(end)
    await over
    await asyncio.sleep(0)
    protocol.close()  # after what it still has to write
    return []


async def _drive_stream(frames: FrameStream, end: socket.socket, sizes: Sequence[int], seconds: float) -> list[Pace]:
    await frames.connect(end)
    paces = []
    for size in sizes:
        body = bytes(size)
        for _ in range(10):
            await _there_and_back(frames, body)
        await _there_and_back(frames, _END)
        clock = time.perf_counter_ns
        started = clock()
        until = started + int(seconds * 1e9)
        count = 0
        chunk = max(1, min(_CHUNK, (1 << 21) // size))
        while clock() < until:
            for _ in range(chunk):
                frames.send(body)
                await frames.drain()
            count += chunk
        await _there_and_back(frames, _END)
        per_second = count / (clock() - started) * 1e9
        times = []
        now = clock()
        until = now + int(seconds * 1e9)
        while now < until:
            await _there_and_back(frames, body)
            before, now = now, clock()
            times.append(now - before)
        await _there_and_back(frames, _END)
        paces.append(Pace(per_second, microseconds_of(times)))
    frames.close()
    return paces


async def _there_and_back(frames: FrameStream, body: bytes) -> None:
    frames.send(body)
    await frames.drain()
    await frames.receive()


async def _serve_stream(frames: FrameStream, end: socket.socket, sizes: Sequence[int]) -> list[Pace]:
    await frames.connect(end)
    for echoing in [True, False, True] * len(sizes):  # until each message that ends
        while True:
            body = await frames.receive()
            if echoing or len(body) == 1:
                frames.send(body)
                await frames.drain()
            if len(body) == 1:
                break
    await asyncio.sleep(0)
    frames.close()  # after what it still has to write
    return []


def microseconds_of(times_ns: list[int]) -> dict[str, float]:
    """Percentiles of durations."""
    ordered = sorted(times_ns)
    return {f"p{percent}": percentile(ordered, percent) / 1e3 for percent in (50, 99)}
