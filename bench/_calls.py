"""Typed calls of `echo(value: bytes) -> bytes`, and one-way ones of `take`, over what one uses without shards."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, TypeVar

import msgspec
import uvloop

from bench._pace import CallPace, pace_of, pace_of_calls, pace_of_sends
from bench._processes import together
from bench._stream import Make, RpcClient, RpcServer
from bench._transports import Open, Transport

T = TypeVar("T")

_RESULTS = {"echo": bytes, "taken": int, "stop": type(None)}


def over_stream(make: Make, size: int, seconds: float) -> CallPace:
    """Between two uvloops."""

    async def drive(client: RpcClient) -> CallPace:
        async def echo(value: bytes) -> bytes:
            return await client.call("echo", value)  # type: ignore[no-any-return]

        return await pace_of_calls(echo, asyncio.get_running_loop().create_task, size, seconds)

    return _between_loops(make, drive)


def one_way_over_stream(make: Make, sizes: Sequence[int], seconds: float) -> list[float]:
    """One-way requests a second between two uvloops."""

    async def drive(client: RpcClient) -> list[float]:
        async def send(value: bytes, count: int) -> None:
            for _ in range(count):
                client.notify("take", value)
            await asyncio.sleep(0)  # it is written
            await client.frames.drain()

        async def taken() -> int:
            return await client.call("taken")  # type: ignore[no-any-return]

        return await pace_of_sends(send, taken, sizes, seconds)

    return _between_loops(make, drive)


def _between_loops(make: Make, main: Callable[[RpcClient], Coroutine[Any, Any, T]]) -> T:
    """What `main` finds out at one end of a Unix stream, while the other serves it."""
    one, other = socket.socketpair()

    async def drive() -> T:
        client = RpcClient(make, _RESULTS)
        await client.frames.connect(one)
        found = await main(client)
        await client.call("stop")
        client.frames.close()
        return found

    with one, other:
        found = together([lambda: uvloop.run(drive()), lambda: uvloop.run(_serve_stream(make, other))])[0]
    assert found is not None
    return found


async def _serve_stream(make: Make, end: socket.socket) -> None:
    taken_since = 0

    async def echo(value: bytes) -> bytes:
        return value

    async def take(value: bytes) -> None:
        nonlocal taken_since
        taken_since += 1

    async def taken() -> int:
        nonlocal taken_since
        before, taken_since = taken_since, 0
        return before

    async def stop() -> None:
        loop.call_later(0.01, stopped.set)  # when this is answered

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    nothing = tuple[()]
    server = RpcServer(
        make,
        {
            "echo": (echo, tuple[bytes]),
            "take": (take, tuple[bytes]),
            "taken": (taken, nothing),
            "stop": (stop, nothing),
        },
    )
    await server.frames.connect(end)
    await stopped.wait()
    server.frames.close()


def over_transport(open_transport: Open, size: int, seconds: float) -> CallPace:
    """One at a time over a blocking transport, encoded and decoded as the others are."""
    transport = open_transport()
    try:
        pace = together([lambda: _drive(transport, size, seconds), lambda: _serve(transport)])[0]
        assert pace is not None
        return pace
    finally:
        transport.close()


def _drive(transport: Transport, size: int, seconds: float) -> CallPace:
    end = transport.connect[0]()
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
    value = bytes(size)
    numbers = count(1)

    def call() -> bytes:
        end.send(encode((next(numbers), "echo", (value,))))
        end.flush()
        return decode(end.receive())[1]

    pace = pace_of(call, seconds)
    end.send(encode((0, "stop", (b"",))))
    end.flush()
    end.close()
    return pace


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


def wake_ups(seconds: float) -> CallPace:
    """What the machine takes for two of them, there and back: an eventfd each way, blocking reads, nothing else."""
    there, back = os.eventfd(0), os.eventfd(0)

    def wake_and_wait() -> None:
        os.eventfd_write(there, 1)
        os.eventfd_read(back)

    def drive() -> CallPace:
        pace = pace_of(wake_and_wait, seconds)
        os.eventfd_write(there, 2)
        return pace

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
