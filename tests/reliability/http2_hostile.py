"""Clients of HTTP/2 that send anything, and those that attack: what is theirs ends, and nobody else's."""

from __future__ import annotations

import asyncio
import collections
import random
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from clockworker.http._http2 import AT_ONCE_NS
from clockworker.http._http2_frames import PREFACE
from clockworker.shards.config._http import HttpConfig
from tests.http.http2 import ASKED, Client, wire
from tests.http.http2_socket import Closed, SocketClient
from tests.reliability._checks import Result, check

_FIELDS = [(b"a", b"b"), (b"cookie", b"a=1"), (b"content-length", b"5"), (b"te", b"gzip"), (b"expect", b"100-continue")]
_WRONG_FIELDS = [(b"A", b"b"), (b"a", b"\n"), (b":path", b"/"), (b"connection", b"close"), (b"a", bytes(9_000))]
_SETTINGS = {1: (0, 4_096, 2**32 - 1), 3: (0, 100), 4: (0, 100, 65_535, 2**31 - 1), 5: (16_384, 2**24 - 1), 6: (0, 100)}


@check("HTTP/2 clients that send anything", ci=2_000, release=1_000_000, pure=500, pace=300)
def http2_hostile(trials: int) -> Result:
    """Trials are connections: frames that are valid in most places, some of them changed in some bytes. The application never
    sees what is no request, the server never fails, and nothing of a connection is left behind."""
    ends: collections.Counter[str] = collections.Counter()
    asked = uvloop.run(_connections(trials, ends))
    return Result(trials, f"{asked:,} requests; {', '.join(f'{count:,} {end}' for end, count in ends.most_common())}")


async def _connections(trials: int, ends: collections.Counter[str]) -> int:
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        assert scope["raw_path"].startswith(b"/"), scope
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] != "http.request":
                return
            size, more = size + len(event["body"]), event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", scope["raw_path"])]})
        await send({"type": "http.response.body", "body": bytes(size * 8 % 100_000), "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    limits = HttpConfig(timeout_keep_alive=3, timeout_response=2, timeout_request_body=2)
    async with wire(app, limits, at_once_ns=AT_ONCE_NS) as server:
        for seed in range(trials):
            rng = random.Random(seed)
            client = Client(server, begins=False)
            try:
                await _talk(client, rng)
                for _ in range(8):
                    await asyncio.sleep(0)
                    server.tick(0.5)
                ends[_end(client)] += 1
                client.lose()
                await server.idle()
                assert not server.failures, server.failures
                assert not client.protocol.streams, "streams are left"
                assert server.target.running == server.target.waiting == 0
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            server.connections.clear()
    return asked


def _end(client: Client) -> str:
    codes = client.codes
    return "stayed" if not client.is_over else f"ended with {codes[-1]}" if codes else "ended without a word"


async def _talk(client: Client, rng: random.Random) -> None:
    data = bytearray(_session(rng))
    if rng.random() < 0.5:
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(PREFACE), len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at : min(at + rng.randrange(1, 10), len(data) - 1)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 10))
    at = 0
    while at < len(data) and not client.is_over:
        size = rng.choice((1, 9, 100, 5_000, 70_000))
        client.raw(bytes(data[at : at + size]))
        at += size
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await client.taken()


def _session(rng: random.Random) -> bytes:
    encoder = Encoder()
    frames = [PREFACE, SettingsFrame(0).serialize(), SettingsFrame(0, flags=["ACK"]).serialize()]
    number, open_streams = 1, []
    wrong = rng.choice((0, 0.01, 0.1))
    for _ in range(rng.randrange(1, 60)):
        kind = rng.randrange(16)
        stream = rng.choice(open_streams) if open_streams and rng.random() >= wrong else rng.randrange(number + 4)
        if kind < 6 or not open_streams:
            head = [*ASKED, *rng.choices(_FIELDS if rng.random() >= wrong else _WRONG_FIELDS, k=rng.randrange(4))]
            block = encoder.encode(head)
            flags = ["END_HEADERS"] + (["END_STREAM"] if rng.random() < 0.5 else [])
            cut = rng.randrange(len(block) + 1) if rng.random() < 0.2 else len(block)
            if cut < len(block):
                frames.append(HeadersFrame(number, block[:cut], flags=flags[1:]).serialize())
                frames.append(ContinuationFrame(number, block[cut:], flags=["END_HEADERS"]).serialize())
            else:
                frames.append(HeadersFrame(number, block, flags=flags).serialize())
            if len(flags) == 1:
                open_streams.append(number)
            number += 2
        elif kind < 10:
            ends = rng.random() < 0.3
            frames.append(
                DataFrame(stream or 1, bytes(rng.randrange(9_000)), flags=["END_STREAM"] if ends else []).serialize()
            )
            if ends and stream in open_streams:
                open_streams.remove(stream)
        elif kind == 10:
            frames.append(RstStreamFrame(stream or 1, rng.randrange(15)).serialize())
            if stream in open_streams:
                open_streams.remove(stream)
        elif kind == 11:
            increment = rng.choice((1, 1_000, 60_000)) if rng.random() >= wrong else 2**31 - 1
            frames.append(WindowUpdateFrame(rng.choice((0, stream)), window_increment=increment).serialize())
        elif kind == 12:
            setting = rng.choice(list(_SETTINGS))
            frames.append(SettingsFrame(0, {setting: rng.choice(_SETTINGS[setting])}).serialize())
        elif kind == 13:
            frames.append(PingFrame(0, rng.randbytes(8)).serialize())
        elif kind == 14:
            frames.append(PriorityFrame(stream or 1, depends_on=0).serialize())
        elif rng.random() < 0.2:
            frames.append(GoAwayFrame(0, last_stream_id=0).serialize())
    return b"".join(frames)


# Attacks on a server, over sockets.

_APP = """
async def app(scope, receive, send):
    more = scope["method"] == "POST"
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return
        more = event["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(200_000 if scope["path"] == "/large" else 5)})
"""


def _head(path: bytes = b"/", method: bytes = b"GET") -> tuple[bytes, bytes]:
    """A head, and the same again, from a table that has it by then."""
    encoder = Encoder()
    fields = [(b":method", method), *ASKED[1:3], (b":path", path)]
    return encoder.encode(fields), encoder.encode(fields)


def _streams(then: Callable[[int], bytes], path: bytes = b"/", method: bytes = b"GET", count: int = 2_000) -> bytes:
    first, again = _head(path, method)
    flags = ["END_HEADERS"] if method == b"POST" else ["END_HEADERS", "END_STREAM"]
    return b"".join(
        HeadersFrame(number, first if number == 1 else again, flags=flags).serialize() + then(number)
        for number in range(1, 2 * count, 2)
    )


def _bomb() -> bytes:
    encoder = Encoder()
    large = [(b"a", b"b" * 4_000)]
    block = encoder.encode([*ASKED, *large]) + encoder.encode(large) * 10_000
    return HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()


ATTACKS: dict[str, Callable[[], bytes]] = {
    "rapid reset": lambda: _streams(lambda number: RstStreamFrame(number, 8).serialize()),
    "resets that the server makes": lambda: _streams(
        lambda number: WindowUpdateFrame(number, window_increment=2**31 - 1).serialize()
    ),
    "CONTINUATIONs": lambda: (
        HeadersFrame(1, b"").serialize() + ContinuationFrame(1, b"\x00\x01a\x01b" * 3_000).serialize() * 1_000
    ),
    "empty CONTINUATIONs": lambda: HeadersFrame(1, b"").serialize() + ContinuationFrame(1, b"").serialize() * 100_000,
    "SETTINGS": lambda: SettingsFrame(0, {4: 65_535}).serialize() * 20_000,
    "PING": lambda: PingFrame(0, bytes(8)).serialize() * 50_000,
    "empty DATA": lambda: (
        _streams(lambda number: b"", method=b"POST", count=1) + DataFrame(1, b"").serialize() * 50_000
    ),
    "bytes one by one": lambda: (
        _streams(lambda number: b"", method=b"POST", count=1) + DataFrame(1, b"a").serialize() * 50_000
    ),
    "a window never opened": lambda: (
        SettingsFrame(0, {4: 0}).serialize() + _streams(lambda number: b"", b"/large", count=100)
    ),
    "a window of single bytes": lambda: (
        SettingsFrame(0, {4: 0}).serialize()
        + _streams(lambda number: b"", b"/large", count=1)
        + WindowUpdateFrame(1, window_increment=1).serialize() * 50_000
    ),
    "half-opened streams": lambda: _streams(lambda number: b"", method=b"POST", count=100),
    "uploads that never end": lambda: _streams(
        lambda number: DataFrame(number, bytes(16_384)).serialize() * 3, method=b"POST", count=60
    ),
    "HPACK bomb": _bomb,
    "a frame of 16 MiB": lambda: b"\xff\xff\xff\0\0\0\0\0\1" + bytes(2**24),
    "a head that never ends": lambda: HeadersFrame(1, b"\x00").serialize(),
    "nothing": lambda: b"",
}


@check("attacks by HTTP/2 leave other clients alone", ci=64, release=20_000, pure=0, pace=4)
def http2_attacks(trials: int) -> Result:
    """Trials are connections, of each attack in turn, 16 at once. Meanwhile another client's requests are all answered; the
    server keeps no memory, logs no error, and ends in order."""
    from tests.http.test_tls import ONE, TLS, Authority
    from tests.shards.servers import Serve, eventually

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = Authority(directory)
        serve = Serve(directory, forked=False)
        try:
            times = (
                "--timeout-request-header",
                "2",
                "--timeout-request-body",
                "2",
                "--timeout-response",
                "2",
                "--timeout-keep-alive",
                "2",
            )
            server = serve(_APP, *ONE, *TLS, *times, app="app:app")
            server.wait_serving()
            shard = psutil.Process(server.shard_pids()[0])
            over, took = threading.Event(), []

            def others() -> None:
                client: SocketClient | None = None
                while not over.is_set():
                    began = time.monotonic()
                    try:
                        client = client or SocketClient(server.address, authority.context())
                        assert client.get("/").status == 200
                    except Closed:
                        if client is not None:
                            client.sock.close()
                        client = None  # idle for too long, on a busy machine
                        continue
                    took.append(time.monotonic() - began)
                    over.wait(0.01)
                if client is not None:
                    client.sock.close()

            uvloop.run(_attack(server.address, authority.context(), len(ATTACKS) * 4))  # what a first time allocates
            before = shard.memory_info().rss
            thread = threading.Thread(target=others)
            thread.start()
            try:
                uvloop.run(_attack(server.address, authority.context(), trials))
                peak = shard.memory_info().rss
            finally:
                over.set()
                thread.join()
            eventually(lambda: "connections" not in server.log, "no connection is left")
            grown = peak - before
            assert took, "others were not answered"
            assert grown < 100_000_000, f"{grown / 1e6:.0f} MB more"
            assert server.stop() == 0
            assert "ERROR" not in server.log, server.log
        finally:
            serve.clean_up()
    took.sort()
    slowest = f"p50 {took[len(took) // 2] * 1e3:.0f} ms, slowest {took[-1] * 1e3:.0f} ms"
    return Result(trials, f"{len(took):,} requests of another client, {slowest}; {grown / 1e6:+.0f} MB")


async def _attack(address: tuple[str, int], context: ssl.SSLContext, trials: int) -> None:
    context.set_alpn_protocols(["h2"])
    made = {name: make() for name, make in ATTACKS.items()}
    places = asyncio.Semaphore(16)

    async def one(name: str) -> None:
        async with places, _connected(address, context) as (reader, writer):
            writer.write(PREFACE + SettingsFrame(0).serialize())
            sending = asyncio.create_task(_send(writer, made[name]))
            try:
                async with asyncio.timeout(60):
                    while await reader.read(65_536):
                        pass
            except TimeoutError:
                raise AssertionError(f"{name}: the server has let it be") from None
            except (ConnectionError, ssl.SSLError):
                pass
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    async with asyncio.TaskGroup() as group:
        for number in range(trials):
            group.create_task(one(list(ATTACKS)[number % len(ATTACKS)]))


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        for at in range(0, len(data), 65_536):
            writer.write(data[at : at + 65_536])
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass  # the server has ended it


@asynccontextmanager
async def _connected(
    address: tuple[str, int], context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
