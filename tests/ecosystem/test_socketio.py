"""python-socketio on two shards, by its own client, with our manager between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

socketio = pytest.importorskip("socketio")
pytest.importorskip("aiohttp")

from clockworker.shards.testing import Server, serving  # noqa: E402

DEADLINE = 120


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ["--distribution", "least-connections"]  # so that each shard has clients
    with serving("tests.ecosystem.socketio_app:app", shards=2, options=options) as server:
        yield server
        assert "Traceback" not in server.log, server.log


class Client:
    """One that has come to `shard`."""

    def __init__(self) -> None:
        self.io = socketio.AsyncClient(reconnection=False)
        self.said: list[Any] = []
        self.shard = -1
        self.sid = ""
        self.io.on("said", self.said.append)
        self.io.on("said two", lambda one, two: self.said.append((one, two)))
        self.io.on("question", lambda question: f"{question}? {self.shard}")

    async def connect(self, server: Server) -> None:
        await self.io.connect("http://{}:{}".format(*server.address), transports=["websocket"], wait_timeout=DEADLINE)
        self.shard, self.sid = await self.call("where")

    async def call(self, event: str, *arguments: Any) -> Any:
        return await self.io.call(event, arguments or None, timeout=DEADLINE)

    async def hears(self, *said: Any) -> None:
        """In this order, and nothing else."""
        await eventually(lambda: len(self.said) >= len(said))
        assert self.said == list(said)
        self.said.clear()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def on_both(server: Server) -> AsyncIterator[tuple[Client, Client]]:
    """A client on each shard."""
    by_shard: dict[int, Client] = {}
    clients: list[Client] = []
    try:
        while len(by_shard) < 2:
            clients.append(Client())
            await clients[-1].connect(server)
            by_shard.setdefault(clients[-1].shard, clients[-1])
        yield by_shard[0], by_shard[1]
    finally:
        for client in clients:
            await client.io.disconnect()


def test_a_room_is_over_both_shards(server: Server) -> None:
    async def body() -> None:
        async with on_both(server) as (one, other):
            for client in (one, other):
                await client.call("join", "room")
            await one.call("say", "room", {"text": "hello", "raw": b"\x00\xff"})
            await other.call("say", "room", "not to me", True)
            await one.hears({"text": "hello", "raw": b"\x00\xff"}, "not to me")
            await other.hears({"text": "hello", "raw": b"\x00\xff"})
            await one.call("say_two", "room", 1, [2])
            await one.call("say", "room", "last")
            for client in (one, other):
                await client.hears((1, [2]), "last")

    asyncio.run(body())


def test_what_one_says_is_heard_in_order(server: Server) -> None:
    async def body() -> None:
        async with on_both(server) as (one, other):
            for client in (one, other):
                await client.call("join", "order")
            for number in range(200):
                await one.io.emit("say", ("order", number))
            for client in (one, other):
                await client.hears(*range(200))

    asyncio.run(body())


def test_acknowledgements_come_back_from_the_other_shard(server: Server) -> None:
    async def body() -> None:
        async with on_both(server) as (one, other):
            assert await one.call("ask", other.sid, "who") == "who? 1"
            assert await other.call("ask", one.sid, "who") == "who? 0"
            assert await one.call("ask", one.sid, "and I") == "and I? 0"

    asyncio.run(body())


def test_one_shard_moves_and_disconnects_clients_of_the_other(server: Server) -> None:
    async def body() -> None:
        async with on_both(server) as (one, other):
            await one.call("join", "moved", other.sid)
            await one.call("say", "moved", 1)
            await other.hears(1)
            await one.call("leave", "moved", other.sid)
            await one.call("say", "moved", 2)
            await one.call("join", "moved", other.sid)
            await one.call("say", "moved", 3)
            await other.hears(3)
            await one.call("close", "moved")
            await one.call("say", "moved", 4)
            await one.call("say", other.sid, 5)  # a client's own room
            await other.hears(5)
            await one.call("throw_out", other.sid)
            await eventually(lambda: not other.io.connected)
            assert one.io.connected
            assert one.said == []

    asyncio.run(body())


def test_to_all(server: Server) -> None:
    async def body() -> None:
        async with on_both(server) as (one, other):
            await one.call("say", None, "everybody")
            for client in (one, other):
                await client.hears("everybody")

    asyncio.run(body())
