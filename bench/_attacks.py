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


def attack(what: Attack, port: int, shard: int, seconds: float, nice: int) -> Suffered:
    """shard: a process. Raises SystemExit if this process may not open so many connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < what.connections + 100:
        raise SystemExit(f"{what.connections:,} connections need ulimit -Hn {what.connections + 100}; it is {limit}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.nice(nice)
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
    if secure and answer:
        return answer.decode()
    if not answer:
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


def _flooding(begin: bytes, piece: bytes, times: int) -> Act:
    """The same, so many times or until the server has ended it."""

    async def act(reader: Reader, writer: Writer) -> bytes:
        writer.write(begin)
        answer = asyncio.ensure_future(reader.read())
        await _pour(writer, piece, times, answer)
        return await answer

    return act


async def _pour(writer: Writer, piece: bytes, times: int, until: asyncio.Future[bytes]) -> None:
    try:
        for _ in range(times):
            writer.write(piece)
            await asyncio.wait([until], timeout=0)
            if until.done():
                break
            await writer.drain()
    except BaseException:
        until.cancel()
        raise


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
        await _pour(writer, frames(), times, ended)
        await ended
        return answer

    return act


def _frame(opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
    """Masked by zeros."""
    return struct.pack("!BBQ", opcode | fin << 7 | compressed << 6, 0x80 | 127, len(payload)) + bytes(4) + payload


def _huge_frame() -> bytes:
    return struct.pack("!BBQ", 0x82, 0x80 | 127, 1 << 40) + bytes(4 + _PIECE)


def _fragments() -> bytes:
    return _frame(2, b"a", fin=False) + _frame(0, b"", fin=False) * 10_000


def _letters() -> bytes:
    """A message in frames of a byte."""
    return _frame(2, b"a", fin=False) + _frame(0, b"a", fin=False) * 10_000 + _frame(0, b"a")


def _pings() -> bytes:
    return _frame(9, bytes(125)) * 1_000


def _nothing() -> bytes:
    return b""


@functools.cache
def _inflating() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(100 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return _frame(2, data[:-4], compressed=True)


# HTTP/2: `frame(type, flags, stream, payload)`, and a head of indexed fields (RFC 7541, appendix A).

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PING = 0, 1, 2, 3, 4, 6
_GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 7, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_HEAD = b"\x82\x87\x84\x41\x01a"  # GET, https, /, authority a
_STREAMS = range(1, 200, 2)


def _asked(method: str, path: str) -> bytes:
    """Its head, in literals."""
    fields = [(b":method", method.encode()), (b":scheme", b"https"), (b":path", path.encode()), (b":authority", b"a")]
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


def _h2(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


async def _goaway(reader: Reader) -> bytes:
    """Which error the server ends the connection with."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3]))
            if head[3] == _GOAWAY and (code := int.from_bytes(payload[4:8])):
                return _CODES.get(code, f"error {code}").encode()
    return b""


_CODES = {1: "protocol error", 6: "frame size", 9: "compression", 11: "calm down"}


def _over_h2(begin: bytes, piece: bytes = b"", times: int = 0, pause_s: float = 0) -> Act:
    """The beginning, and then the piece so many times, with pauses; until the server says GOAWAY."""

    async def act(reader: Reader, writer: Writer) -> bytes:
        ended = asyncio.ensure_future(_goaway(reader))
        writer.write(_PREFACE + _h2(_SETTINGS, 0, 0) + begin)
        if not pause_s:
            await _pour(writer, piece, times, ended)
        else:
            while not ended.done():
                await asyncio.wait([ended], timeout=pause_s)
                writer.write(piece)
        return await ended

    return act


def _rapid_reset() -> bytes:
    return b"".join(
        _h2(_HEADERS, _END_HEADERS | _END_STREAM, number, _HEAD) + _h2(_RST_STREAM, 0, number, struct.pack("!I", 8))
        for number in range(1, 4_000, 2)
    )


def _continuations() -> bytes:
    return _h2(_HEADERS, _END_STREAM, 1, _HEAD) + _h2(_CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3_000) * 1_000


def _block(block: bytes) -> bytes:
    """A head of less than 64 KiB, in as many frames as it takes."""
    pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    frames = [_h2(_CONTINUATION, 0, 1, piece) for piece in pieces]
    frames[0] = _h2(_HEADERS, _END_STREAM, 1, pieces[0])
    return b"".join(frames) + _h2(_CONTINUATION, _END_HEADERS, 1)


def _all_streams(method: str, path: str, flags: int, payload: bytes = b"") -> bytes:
    """A request on each, with a frame of its body."""
    head = _asked(method, path)
    return b"".join(
        _h2(_HEADERS, flags | _END_HEADERS, number, head) + (_h2(_DATA, 0, number, payload) if payload else b"")
        for number in _STREAMS
    )


def _trailers() -> bytes:
    """Of a request that has answers to wait for, again and again."""
    head, fields = _asked("POST", READ), b"\x00\x01a\x01b" * 90
    return b"".join(
        _h2(_HEADERS, _END_HEADERS, number, head) + _h2(_HEADERS, _END_HEADERS | _END_STREAM, number, fields)
        for number in range(1, 4_000, 2)
    )


def _attacks_over_h2() -> dict[str, Act]:
    post, one = _all_streams("POST", READ, 0), struct.pack("!I", 1)
    blocked = _all_streams("GET", LARGE, _END_STREAM)
    bodies = b"".join(_h2(_DATA, 0, number, b"a") for number in _STREAMS)
    first = _h2(_HEADERS, _END_HEADERS, 1, _asked("POST", READ))
    table = b"".join(_h2(_SETTINGS, 0, 0, struct.pack("!HI", 1, size)) for size in (0, 4_096))
    return {
        "rapid-reset": _over_h2(_rapid_reset()),
        "continuations": _over_h2(_continuations()),
        "h2-settings": _over_h2(b"", _h2(_SETTINGS, 0, 0, struct.pack("!HI", 4, 65_535)) * 1_000, 100),
        "h2-pings": _over_h2(b"", _h2(_PING, 0, 0, bytes(8)) * 1_000, 100),
        "h2-priorities": _over_h2(b"", _h2(_PRIORITY, 0, 3, struct.pack("!IB", 1, 0)) * 1_000, 100),
        "h2-windows": _over_h2(blocked, _h2(_WINDOW_UPDATE, 0, 0, one) * 1_000, 100),
        "h2-empty-data": _over_h2(first, _h2(_DATA, 0, 1) * 1_000, 100),
        "h2-tables": _over_h2(table * 100 + _block(_HEAD + b"\x40\x01a\x01b" * 900)),
        "h2-table-sizes": _over_h2(_block(b"\x20" * 60_000 + _HEAD)),
        "h2-small-fields": _over_h2(_block(_HEAD + b"\x00\x01a\x01b" * 12_000)),
        "h2-huffman": _over_h2(_block(_HEAD + b"\x00\x01a\xff\xe1\xd3\x03" + b"\x00" * 60_000)),
        "h2-small-bodies": _over_h2(post, bodies, 600),
        "h2-slow-bodies": _over_h2(post, bodies, pause_s=_TRICKLE_S),
        "h2-trailers": _over_h2(_trailers()),
    }


def attacks() -> dict[str, Attack]:
    """By name. `idle` has 10,000 connections, header lines have 64 KiB, heads a thousand fields."""
    many = _head("GET", "/light", *(f"X-{number}: a" for number in range(1_000)))
    chunked = _head("POST", READ, "Transfer-Encoding: chunked")
    return {
        "slow-heads": Attack(1_000, _trickling(b"GET /light HTTP/1.1\r\nHost: a\r\nX: ", b"a")),
        "slow-bodies": Attack(1_000, _trickling(_head("POST", READ, "Content-Length: 1000"), b"a")),
        "idle": Attack(10_000, _idle),
        "never-reading": Attack(100, _never_reading),
        "long-header-lines": Attack(16, _sending(_head("GET", "/light", f"X: {'a' * _PIECE}"))),
        "many-headers": Attack(16, _sending(many)),
        "smuggling": Attack(16, _sending(*_SMUGGLED)),
        "pipelining": Attack(16, _sending(_head("GET", READ) * 9_999 + _head("GET", READ, "Connection: close"))),
        "small-chunks": Attack(16, _flooding(chunked, b"1\r\na\r\n" * 10_000, 100)),
        "chunk-extensions": Attack(16, _flooding(chunked, b"1;" + b"a" * 16_384 + b"\r\na\r\n", 1_000)),
        "empty-lines": Attack(16, _flooding(b"", b"\r\n" * 50_000, 1_000)),
        "websocket-frames": Attack(16, _websocket("", _huge_frame, 1_000)),
        "websocket-fragments": Attack(16, _websocket("", _fragments, 100)),
        "websocket-letters": Attack(16, _websocket("", _letters, 100)),
        "websocket-pings": Attack(16, _websocket("", _pings, 100)),
        "websocket-silence": Attack(1_000, _websocket("", _nothing, 1)),
        "websocket-bombs": Attack(16, _websocket("permessage-deflate", _inflating, 1)),
        **{name: Attack(16, act, secure=True) for name, act in _attacks_over_h2().items()},
    }
