"""Applications for HTTP benchmarks that no framework is part of. Their bodies are known: a client need only count bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PLAIN = b"Hello, World!"
JSON = b'{"message":"Hello, World!"}'
BODY = b"0123456789abcdef" * 64  # 1 KiB
RECEIVED = b"1024"

_PLAIN_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(PLAIN))]
_JSON_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(JSON))]
_RECEIVED_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(RECEIVED))]


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _PLAIN_HEADERS})
    await send({"type": "http.response.body", "body": PLAIN})


async def json(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _JSON_HEADERS})
    await send({"type": "http.response.body", "body": JSON})


async def post(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of what it was sent."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _RECEIVED_HEADERS})
    await send({"type": "http.response.body", "body": b"%d" % length})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Over a WebSocket: text frames come back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


_ROUTES = {"/plain": plain, "/json": json, "/post": post, "/echo": echo}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """All of them, by path."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await _ROUTES[scope["path"]](scope, receive, send)
