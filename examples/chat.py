"""A chat for browsers, with aiohttp: rooms are shared by all shards, and nothing runs beside the server to connect them.

    pip install aiohttp
    clockworker-serve examples.chat:main --shards 2

A browser lands on any shard. A room is a topic: what somebody says all shards hear that have browsers in the room, and since it
is an ordered one, everybody reads the same, in the same order. `/` is the page, `/rooms/NAME` the WebSocket, and `/rooms` says
how many are where.

aiohttp is not changed for it: its server is a protocol factory, and that is what `create_server` takes. Each request is a
task in the queue that it names, here the first.
"""

from __future__ import annotations

import asyncio
import collections

from aiohttp import WSMsgType, web

import clockworker as cw

WAITING = 256  # lines for a browser that does not read; one more, and it is disconnected
LONGEST = 60  # characters of a room's name

PAGE = """<!doctype html>
<title>Chat</title>
<form><input autofocus placeholder="Say something"></form>
<pre></pre>
<script>
  const room = location.hash.slice(1) || "lobby";
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/rooms/" + encodeURIComponent(room));
  socket.onmessage = event => document.querySelector("pre").append(event.data + "\\n");
  document.forms[0].onsubmit = event => {
    event.preventDefault();
    socket.send(event.target[0].value);
    event.target.reset();
  };
</script>
"""


class Rooms:
    """On each shard: its browsers, as tasks that write to them, by room."""

    def __init__(self, shard: cw.Shard) -> None:
        self._shard = shard
        self._browsers: dict[str, set[asyncio.Task[None]]] = collections.defaultdict(set)

    @cw.remote
    async def present(self) -> dict[str, int]:
        """How many browsers this shard has in each room."""
        return {room: len(browsers) for room, browsers in self._browsers.items()}

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """A browser, until it leaves, or is too slow, or the shard stops."""
        room = request.match_info["name"][:LONGEST]
        topic = self._shard.topic(f"room:{room}", str, ordered=True)
        socket = web.WebSocketResponse(heartbeat=30)
        async with topic.subscribe(limit=WAITING) as lines:
            await socket.prepare(request)
            writing = asyncio.create_task(self._write(socket, lines))
            self._browsers[room].add(writing)
            try:
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        await topic.publish(message.data)
            finally:
                writing.cancel()
                self._browsers[room].discard(writing)
                if not self._browsers[room]:
                    del self._browsers[room]
        return socket

    async def _write(self, socket: web.WebSocketResponse, lines: cw.Subscription[str]) -> None:
        """A task of its own for each browser, so that a slow one keeps nobody waiting. With the connection `serve` ends."""
        try:
            number = 0
            async for line in lines:
                number += 1
                await socket.send_str(f"{number}: {line}")
        except cw.Lagged:
            pass
        finally:
            await socket.close(code=1001, message=b"come again")

    async def close(self, _: web.Application) -> None:
        """Say goodbye to all."""
        for writing in [writing for browsers in self._browsers.values() for writing in browsers]:
            writing.cancel()


def application(rooms: cw.Sharded[Rooms]) -> web.Application:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def present(request: web.Request) -> web.Response:
        total: collections.Counter[str] = collections.Counter()
        for counts in await rooms.map(Rooms.present):
            total.update(counts)
        return web.json_response(total)

    app = web.Application()
    app.on_shutdown.append(rooms.local.close)
    app.add_routes([web.get("/", page), web.get("/rooms", present), web.get("/rooms/{name}", rooms.local.serve)])
    return app


async def main(shard: cw.Shard) -> None:
    rooms = await shard.start(Rooms)
    runner = web.AppRunner(application(rooms), shutdown_timeout=5)
    await runner.setup()
    assert runner.server is not None
    await shard.create_server(runner.server)
    await shard.wait_stopped()
    await runner.cleanup()
