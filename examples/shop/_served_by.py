"""Middleware that says in each response where it was made: `x-shard: 1`, `x-queue: background`."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import clockworker as cw


class ServedBy:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                headers = message.get("headers", ())
                message = {**message, "headers": [*headers, (b"x-shard", shard), (b"x-queue", _queue())]}
            await send(message)

        shard = b"%d" % cw.current_shard().id
        await self._app(scope, receive, send_with_headers)


def _queue() -> bytes:
    queue = cw.current_executor().current_queue()
    assert queue is not None  # each request runs in one
    return str(queue.key).encode()
