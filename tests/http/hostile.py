"""Clients that hold a server's connections and its memory for as long as they can, many at once, over sockets; and one that
only wants an answer meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TypeAlias

import psutil

Address: TypeAlias = tuple[str, int]

# Limits in seconds, so that a test need not wait for those of a server in earnest.
LIMIT_S = 1.0
OPTIONS = [
    *("--timeout-request-header", str(LIMIT_S), "--timeout-request-body", str(LIMIT_S)),
    *("--timeout-keep-alive", str(LIMIT_S), "--timeout-response", str(LIMIT_S)),
]

APPLICATION = """
seen = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    path = scope["path"]
    seen.append(path)
    del seen[:-1000]
    body = b"ok"
    if path == "/read":
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            size += len(event["body"])
            if not event["more_body"]:
                break
        body = b"%d" % size
    elif path == "/seen":
        body = " ".join(seen).encode()
    elif path.startswith("/large"):
        await send({"type": "http.response.start", "status": 200})
        for _ in range(int(path.removeprefix("/large/"))):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})
"""


def allow_descriptors(count: int) -> bool:
    """Whether this process, and those that it starts from now on, may have so many and some more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    if most != resource.RLIM_INFINITY and most < wanted:
        return False
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), most))
    return True


async def ask(address: Address, path: str = "/") -> bytes:
    """The body of an answer, of a client that does nothing wrong. Raises AssertionError if it is none."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
        answer = await reader.read()
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), f"a client that does nothing wrong is answered {answer!r}"
    return answer.partition(b"\r\n\r\n")[2]


# What each of them does, until its connection is ended; returns what it was answered.


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
    return await _trickling(reader, writer, b"X-A: b\r\n")


async def slow_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /")
    return await _trickling(reader, writer, b"a")


async def silent_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    return await reader.read()


async def slow_chunk_sizes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    return await _trickling(reader, writer, b"x")


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    return await reader.read()


async def idle_after_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return await reader.read()


async def empty_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    return await _trickling(reader, writer, b"\r\n")


async def _trickling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> bytes:
    answer = asyncio.ensure_future(reader.read())
    while not answer.done():
        writer.write(piece)
        await asyncio.wait([answer], timeout=LIMIT_S / 10)
    return await answer


Client: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, bytes]]


async def many(address: Address, client: Client, count: int) -> tuple[list[bytes], float]:
    """So many clients at once, until each has been ended: what they were answered, and the longest, in seconds, that one that
    does nothing wrong has waited for an answer meanwhile."""

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        try:
            return await client(reader, writer)
        except (ConnectionResetError, BrokenPipeError):
            return b"reset"
        finally:
            writer.close()

    tasks = set()
    for _ in range(count):
        tasks.add(asyncio.create_task(one()))
        if len(tasks) % 50 == 0:
            await asyncio.sleep(0)  # a backlog is not what this is about
    everyone = asyncio.gather(*tasks)
    longest = 0.0
    while not everyone.done():
        started = time.monotonic()
        assert await ask(address) == b"ok"
        longest = max(longest, time.monotonic() - started)
        await asyncio.wait([everyone], timeout=LIMIT_S / 10)
    return await everyone, longest


def never_reading(address: Address, count: int, path: str = "/large/1000") -> list[socket.socket]:
    """Connections over which a large answer comes that nobody takes."""
    found = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(address)
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        found.append(connection)
    return found


def drain(connection: socket.socket) -> tuple[int, bool]:
    """How many bytes came, and whether the end was a reset."""
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1_000_000):
            size += len(data)
        return size, False
    return size, True


def memory(pid: int) -> int:
    """Bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)
