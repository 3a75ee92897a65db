"""A chat for browsers, with aiohttp: rooms are shared by all shards, and nothing runs beside the server to connect them.

    pip install aiohttp
    clockworker-serve examples.chat:main --shards 2

A browser lands on any shard. What it says goes to the shard that owns the room; that numbers it and has it delivered by all
shards, each to the browsers that it has itself. So everybody in a room reads the same, in the same order. `/` is the
page, `/rooms/NAME` the WebSocket, and `/rooms` says how many are where.

aiohttp is not changed for it: its server is a protocol factory, and that is what `create_server` takes. Each request is a
task in the queue that it names, here the first.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
from collections.abc import Iterator

import msgspec
from aiohttp import WSMsgType, web

import clockworker as cw

WAITING = 256  # lines for a browser that does not read; one more, and it is disconnected

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


class Line(msgspec.Struct, frozen=True):
    """Something that was said. Its number is greater than those of the lines before it in the room."""

    room: str
    number: int
    text: str


class Rooms:
    """On each shard: its browsers, by room; and the numbers of what is said in the rooms that it owns."""

    everywhere: cw.Sharded[Rooms]

    def __init__(self, shard: cw.Shard) -> None:
        self._shard = shard
        self._numbers = itertools.count(1)
        self._browsers: dict[str, set[Browser]] = {}

    async def say(self, room: str, text: str) -> None:
        """Tell everybody in the room, here and on the other shards."""
        await self.everywhere.on(self._shard.owner(room)).number(room, text)

    @cw.remote
    async def number(self, room: str, text: str) -> None:
        # Calls from one shard to another arrive in the order in which they were made. Who is on a shard that is being
        # replaced has to connect again anyway.
        with contextlib.suppress(cw.ShardDied, cw.ShardDown):
            await self.everywhere.broadcast(Rooms.deliver, Line(room, next(self._numbers), text))

    @cw.remote
    async def deliver(self, line: Line) -> None:
        for browser in self._browsers.get(line.room, ()):
            browser.put(f"{line.number}: {line.text}")

    @cw.remote
    async def present(self) -> dict[str, int]:
        """How many browsers this shard has in each room."""
        return {room: len(browsers) for room, browsers in self._browsers.items()}

    @contextlib.contextmanager
    def joined(self, room: str, browser: Browser) -> Iterator[None]:
        browsers = self._browsers.setdefault(room, set())
        browsers.add(browser)
        try:
            yield
        finally:
            browsers.remove(browser)
            if not browsers:
                del self._browsers[room]

    async def close(self, _: web.Application) -> None:
        """Say goodbye to all."""
        for browser in [browser for browsers in self._browsers.values() for browser in browsers]:
            browser.leave()


class Browser:
    """One WebSocket. It is written to by a task of its own, so that a slow browser keeps nobody waiting."""

    def __init__(self) -> None:
        self._socket = web.WebSocketResponse(heartbeat=30)
        self._lines: asyncio.Queue[str] = asyncio.Queue(WAITING)
        self._writing: asyncio.Task[None]

    def put(self, text: str) -> None:
        try:
            self._lines.put_nowait(text)
        except asyncio.QueueFull:
            self.leave()

    def leave(self) -> None:
        """The connection is closed, and with that `serve` ends."""
        self._writing.cancel()

    async def serve(self, request: web.Request, room: str, rooms: Rooms) -> web.WebSocketResponse:
        """Until it leaves, or the shard stops."""
        await self._socket.prepare(request)
        with rooms.joined(room, self):
            self._writing = asyncio.create_task(self._write())
            try:
                async for message in self._socket:
                    if message.type is WSMsgType.TEXT:
                        await rooms.say(room, message.data)
            finally:
                self.leave()
        return self._socket

    async def _write(self) -> None:
        try:
            while True:
                await self._socket.send_str(await self._lines.get())
        finally:
            await self._socket.close(code=1001, message=b"come again")


def application(rooms: cw.Sharded[Rooms]) -> web.Application:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def room(request: web.Request) -> web.WebSocketResponse:
        return await Browser().serve(request, request.match_info["name"], rooms.local)

    async def present(request: web.Request) -> web.Response:
        total: collections.Counter[str] = collections.Counter()
        for counts in await rooms.map(Rooms.present):
            total.update(counts)
        return web.json_response(total)

    app = web.Application()
    app.on_shutdown.append(rooms.local.close)
    app.add_routes([web.get("/", page), web.get("/rooms", present), web.get("/rooms/{name}", room)])
    return app


async def main(shard: cw.Shard) -> None:
    rooms = await shard.start(Rooms)
    rooms.local.everywhere = rooms
    runner = web.AppRunner(application(rooms), shutdown_timeout=5)
    await runner.setup()
    assert runner.server is not None
    await shard.create_server(runner.server)
    await shard.wait_stopped()
    await runner.cleanup()
