"""Streams of requests: made of parts that mean something to HTTP/1.1, cut anywhere, mutated; and what became of them.

Everything comes from a `random.Random`, so that a seed says which it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec

from tests.http.wire import Connection, Recorder, Seen, Server


class Outcome(msgspec.Struct, frozen=True):
    """What became of a stream. seen: the requests that an application has had whole. ends: whether the connection ends by
    itself: the stream was refused somewhere, or a request said that it is the last."""

    seen: tuple[Seen, ...]
    ends: bool


_BODIES = [
    b"",
    b"x",
    b"abc",
    b"hello world",
    b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    bytes(range(256)),
]
_TARGETS = ["/", "/a", "/a%20b?c=d", "/?x=%zz", "/a//b/../c", "http://b/c", "http://[::1]:8/", "*", "/" + "a" * 300]
_FIELDS = [
    "X: y",
    "X-Long: " + "z" * 200,
    "Accept:  text/html, */* \t",
    "Cookie: a=b; c=d",
    "Expect: 100-continue",
    "X:",
]
_CONNECTIONS = ["Connection: keep-alive", "Connection: close", "Connection: Upgrade, x", "Connection: x"]
_TRAILERS = [b"", b"", b"X: y\r\n", b"X: y\r\nHost: b\r\n"]


def message(random: random.Random) -> bytes:
    """A request, which is most often valid."""
    body = random.choice(_BODIES)
    method = random.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
    target = random.choice(_TARGETS)
    if target == "*":
        method = "OPTIONS"
    fields = ["Host: a", *random.choices(_FIELDS, k=random.choice([0, 0, 1, 3]))]
    version = "1.0" if random.random() < 0.1 else "1.1"
    if random.random() < 0.2:
        fields.append(random.choice(_CONNECTIONS))
    if random.random() < 0.05:
        fields += ["Connection: Upgrade", "Upgrade: h2c"]
    sent = b""
    if body or random.random() < 0.2:
        if version == "1.1" and random.random() < 0.5:
            fields.append("Transfer-Encoding: chunked")
            sent = _in_chunks(random, body)
        else:
            fields.append(f"Content-Length: {len(body)}")
            sent = body
    random.shuffle(fields)
    return "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode() + sent


def _in_chunks(random: random.Random, body: bytes) -> bytes:
    parts = []
    while body:
        size = random.randint(1, len(body))
        extension = random.choice([b"", b"", b";x", b";x=y", b';x="y z"'])
        parts.append(b"%s%x%s\r\n%s\r\n" % (random.choice([b"", b"0"]), size, extension, body[:size]))
        body = body[size:]
    return b"".join([*parts, b"0\r\n", random.choice(_TRAILERS), b"\r\n"])


def stream(random: random.Random) -> bytes:
    """Some messages."""
    return b"".join(message(random) for _ in range(random.choice([1, 1, 2, 3, 5])))


# What means something to one parser or another.
_TOKENS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x7f",
        b"\x0b",
        b"\x0c",
        b"\xff",
        b"\xc3\xa4",
        b"_",
    ),
    *(b"0", b"1", b"+", b"-", b"0x", b",", b";", b"=", b'"', b"/", b"*", b"?", b"#", b"@", b"[", b"]", b"%00", b"//"),
    *(b"GET ", b"CONNECT ", b"PRI ", b"get ", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.10", b" HTTP/1.1"),
    *(
        b"Host: b\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 3\r\n",
        b"content-length:3\r\n",
        b"Content-Length: 3, 3\r\n",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"transfer-encoding:\tChunked \r\n"),
    *(
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: close\r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"chunked",
        b"identity",
        b"close",
        b"Upgrade",
        b" chunked",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b" x\r\n",
        b"\tx\r\n",
        b": x\r\n",
    ),
]


def mutated(random: random.Random) -> bytes:
    """A stream with one to four changes."""
    data = bytearray(stream(random))
    for _ in range(random.choice([1, 1, 1, 2, 3, 4])):
        at = random.randint(0, len(data))
        kind = random.random()
        if kind < 0.5:
            data[at:at] = random.choice(_TOKENS)
        elif kind < 0.65:
            data[at : at + random.choice([1, 1, 2, 5])] = random.choice(_TOKENS)
        elif kind < 0.8:
            del data[at : at + random.choice([1, 1, 2, 4, 20])]
        elif kind < 0.9 and at < len(data):
            data[at] = random.randrange(256)
        else:  # a line again, here
            lines = bytes(data).split(b"\r\n")
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
            data = bytearray(b"\r\n".join(lines))
    return bytes(data)


def cut(random: random.Random, data: bytes) -> list[bytes]:
    """The same bytes, in reads of any sizes."""
    how = random.random()
    if how < 0.2:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice([1, 1, 2, 5, 20])))
    return [part for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True) if (part := data[first:last])]


async def outcomes(server: Server, recorder: Recorder, streams: Sequence[Sequence[bytes]]) -> list[Outcome]:
    """What becomes of each stream, which comes in the reads that it is made of. Between two of them the loop has a turn or
    not, as it comes: all streams go on at once."""
    connections = [server.connect() for _ in streams]
    for at in range(max(len(reads) for reads in streams)):
        for connection, reads in zip(connections, streams, strict=True):
            if at < len(reads):
                connection.feed(reads[at])
        if at % 3 == 0:
            await asyncio.sleep(0)
    while sum(_goes_on(connection) for connection in connections):  # each is to have what has come for it
        await asyncio.sleep(0)
    ends = [connection.is_over for connection in connections]
    for connection in connections:
        connection.lose()
    await server.idle()
    server.connections.clear()
    seen: dict[object, list[Seen]] = {}
    for client, request in recorder.by_client:
        if request.body is not None:
            seen.setdefault(client, []).append(request)
    recorder.by_client.clear()
    return [
        Outcome(tuple(seen.get(connection.client, ())), is_over)
        for connection, is_over in zip(connections, ends, strict=True)
    ]


def _goes_on(connection: Connection) -> bool:
    """Whether there is anything to do that needs no more of the stream."""
    connection.flow()
    protocol = connection.protocol
    current = protocol.current
    return current is not None and not (current.asked and current.more_body)
