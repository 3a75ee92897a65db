"""Who ended a connection: judged by where an exception comes from, on a connection and a backend that are real."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from clockworker.shards.worker._ends import without_ends
from tests.conftest import Run

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handle = Callable[[Streams, Streams], Awaitable[object]]


def what_is_left(run: Run, client: Callable[[socket.socket], None], handle: Handle) -> Exception | None:
    """Of what the handler raises. client: what the client does first. handle: gets the client's streams, and a backend's, where
    the other end is closed in good order."""

    async def body() -> Exception | None:
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            protocol = writer.transport.get_protocol()
            ours, theirs = socket.socketpair()
            theirs.close()
            backend = await asyncio.open_connection(sock=ours)
            try:
                await asyncio.wait_for(handle((reader, writer), backend), 60)
                ended.set_result(None)
            except Exception as error:
                ended.set_result(without_ends(error, reader, writer, protocol))
            finally:
                writer.close()
                backend[1].close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                client(sock)
                return await ended

    return run(body)


def leaves(sock: socket.socket) -> None:
    sock.close()


def resets(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.sendall(b"x")
    sock.close()


async def write_on(streams: Streams) -> None:
    while True:
        streams[1].write(b"x" * 100_000)
        await streams[1].drain()


async def write_without_looking(streams: Streams) -> None:
    while not streams[1].is_closing():
        streams[1].write(b"x")
        await asyncio.sleep(0)
    while streams[1].transport.get_protocol() is not None and streams[0].exception() is None:
        await asyncio.sleep(0)  # until it is closed
    await asyncio.sleep(0)
    streams[1].write(b"x")  # uvloop raises RuntimeError; asyncio does not mind


async def in_a_group(*work: Awaitable[object]) -> None:
    async def run(one: Awaitable[object]) -> None:
        await one

    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(run(each))


async def refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        await asyncio.open_connection(*unused.getsockname())


async def after_the_reset(streams: Streams) -> None:
    with suppress(ConnectionError):
        await streams[0].read()
        await write_on(streams)


async def hand_made(streams: Streams, backend: Streams) -> None:
    await after_the_reset(streams)
    raise ConnectionResetError("the client has gone")


async def with_a_cause(streams: Streams, backend: Streams) -> None:
    try:
        await streams[0].readexactly(4)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("no frame") from error


ENDS: dict[str, tuple[Callable[[socket.socket], None], Handle]] = {
    "no frame": (leaves, lambda client, _: client[0].readexactly(4)),
    "half a frame": (leaves, lambda client, _: client[0].readuntil(b"end")),
    "a reset, read": (resets, lambda client, _: client[0].readexactly(4)),
    "a reset, written": (resets, lambda client, _: write_on(client)),
    "written to a transport that is no more": (resets, lambda client, _: write_without_looking(client)),
    "in a group": (leaves, lambda client, _: in_a_group(client[0].readexactly(4))),
    "in a group of groups": (resets, lambda client, _: in_a_group(in_a_group(write_on(client)), asyncio.sleep(30))),
    "said by the handler itself": (resets, hand_made),
    "said by a library, with its cause": (leaves, with_a_cause),
}


@pytest.mark.parametrize(("client", "handle"), ENDS.values(), ids=ENDS)
def test_an_end_is_no_error(run: Run, client: Callable[[socket.socket], None], handle: Handle) -> None:
    assert what_is_left(run, client, handle) is None


async def refused_after_the_reset(client: Streams, backend: Streams) -> None:
    await after_the_reset(client)
    await refused()


async def cleaning_up(client: Streams, backend: Streams) -> None:
    try:
        await client[0].readexactly(4)
    finally:
        await refused()


async def misused(client: Streams, backend: Streams) -> None:
    client[1].close()
    await client[1].wait_closed()
    client[1].write(b"x")
    raise RuntimeError("asyncio does not mind")


async def closed_backend(client: Streams, backend: Streams) -> None:
    await after_the_reset(client)
    await write_on(backend)


ERRORS: dict[str, tuple[Callable[[socket.socket], None], Handle, type[Exception]]] = {
    "a backend refuses": (lambda sock: None, lambda client, _: refused(), ConnectionRefusedError),
    "a backend refuses when the client has left": (resets, refused_after_the_reset, ConnectionRefusedError),
    "a backend refuses while the client's end is handled": (leaves, cleaning_up, ConnectionRefusedError),
    "a backend ends in a frame": (leaves, lambda _, backend: backend[0].readexactly(4), asyncio.IncompleteReadError),
    "a backend is closed": (lambda sock: None, lambda _, backend: write_on(backend), ConnectionError),
    "a backend is closed when the client has left": (resets, closed_backend, ConnectionError),
    "a use of one's own closed writer": (lambda sock: None, misused, RuntimeError),
    "another error": (resets, lambda client, _: client[0].readexactly(-1), ValueError),
}


@pytest.mark.parametrize(("client", "handle", "kind"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_one(
    run: Run, client: Callable[[socket.socket], None], handle: Handle, kind: type[Exception]
) -> None:
    assert isinstance(what_is_left(run, client, handle), kind)


def test_of_a_group_the_errors_are_left(run: Run) -> None:
    async def both(client: Streams, backend: Streams) -> None:
        async def fail() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            await refused()

        await in_a_group(client[0].readexactly(4), fail())

    left = what_is_left(run, leaves, both)
    assert isinstance(left, ExceptionGroup)
    assert [type(error) for error in left.exceptions] == [ConnectionRefusedError]
