"""What the checks of HTTP run: an application that notices what its lifespan must not do to it, and clients that obey a server.

A request takes 2 ms, and a millisecond more behind its response; it is answered with the pid of who answered.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import clockworker as cw
from tests.reliability._load import Load

REQUEST_S = 0.002
BEHIND_S = 0.001
LATE = "is not behind the last request"
ENDED = "its lifespan has ended"

_running = 0
_ended = False


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


async def app(scope: Any, receive: Any, send: Any) -> None:
    global _running, _ended
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        _ended = True
        _say(f"{ENDED}{f': it {LATE}, {_running} are left' if _running else ''}")
        await send({"type": "lifespan.shutdown.complete"})
        return
    if _ended:
        _say(f"the shutdown {LATE}")
    _running += 1
    try:
        await asyncio.sleep(REQUEST_S)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"%d ok" % os.getpid()})
        await asyncio.sleep(BEHIND_S)
    finally:
        _running -= 1


async def main(shard: cw.Shard) -> None:
    await shard.serve_asgi(app)


class Clients(Load):
    """They keep their connections until the server says that a response is the last. A response that is cut has failed.

    told: how often it was said, and there was more to ask.
    """

    told = 0

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        if writer.is_closing():
            self.told += 1
            return b""
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as ended:
            return b"0 cut-head" if ended.partial else b""
        status, _, rest = head.lower().partition(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in rest.split(b"\r\n") if line)
        if not status.startswith(b"http/1.1 200 "):
            return b"0 " + status.replace(b" ", b"-")
        try:
            body = await reader.readexactly(int(headers[b"content-length"]))
        except asyncio.IncompleteReadError:
            return b"0 cut-body"
        if headers.get(b"connection") == b"close":
            writer.close()
        return body
