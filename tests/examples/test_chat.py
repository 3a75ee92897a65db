"""The chat, with aiohttp's own client, on two real shards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest

from clockworker.shards.testing import Server, serving
from examples.chat import Rooms

BROWSERS = 6
ROOMS = [f"room{number}" for number in range(4)]
LINES = 25


@pytest.fixture
def server() -> Iterator[Server]:
    # So that each shard has browsers.
    with serving("examples.chat:main", shards=2, options=["--distribution", "least-connections"]) as server:
        yield server


def session_with(server: Server) -> aiohttp.ClientSession:
    host, port = server.address
    return aiohttp.ClientSession(f"http://{host}:{port}", timeout=aiohttp.ClientTimeout(30))


async def all_talk(session: aiohttp.ClientSession, room: str) -> list[list[str]]:
    """Many browsers enter the room and say something at the same time. What each of them reads, without the numbers."""
    sockets = [await session.ws_connect(f"/rooms/{room}") for _ in range(BROWSERS)]

    async def say(number: int) -> None:
        for line in range(LINES):
            await sockets[number].send_str(f"{number} {line}")

    async def read(number: int) -> list[str]:
        read = [await sockets[number].receive_str(timeout=60) for _ in range(BROWSERS * LINES)]
        numbers = [int(text.partition(":")[0]) for text in read]
        assert numbers == sorted(set(numbers))
        return [text.partition(": ")[2] for text in read]

    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(read(number)) for number in range(BROWSERS)]
        for number in range(BROWSERS):
            group.create_task(say(number))
    for socket in sockets:
        await socket.close()
    return [task.result() for task in reads]


def test_everybody_in_a_room_reads_the_same(server: Server) -> None:
    async def talk() -> list[list[list[str]]]:
        async with session_with(server) as session:
            return await asyncio.gather(*(all_talk(session, room) for room in ROOMS))

    for read in asyncio.run(talk()):
        assert all(each == read[0] for each in read)
        for number in range(BROWSERS):
            said = [text for text in read[0] if text.startswith(f"{number} ")]
            assert said == [f"{number} {line}" for line in range(LINES)]


def test_who_is_where(server: Server) -> None:
    async def enter() -> None:
        async with session_with(server) as session:
            sockets = [await session.ws_connect(f"/rooms/{room}") for room in ("one", "one", "other", "other")]
            here = [await asyncio.to_thread(server.call, shard, Rooms.present) for shard in range(2)]
            assert sum(map(Counter, here), Counter()) == {"one": 2, "other": 2}
            async with session.get("/rooms") as response:
                assert await response.json() == {"one": 2, "other": 2}
            for socket in sockets:
                await socket.close()

    asyncio.run(enter())


def test_a_shard_is_killed_and_its_browsers_come_back(server: Server) -> None:
    async def talk() -> None:
        async with session_with(server) as session:
            sockets: list[aiohttp.ClientWebSocketResponse] = []
            there = 0
            # A shard to which the machine leaves no time for a moment gets no browsers meanwhile.
            while len(sockets) < BROWSERS or not 0 < there < len(sockets):
                sockets.append(await session.ws_connect("/rooms/room"))
                there = (await asyncio.to_thread(server.call, 1, Rooms.present)).get("room", 0)
            await asyncio.to_thread(server.kill, 1)
            ended = [socket for socket in sockets if socket not in await _still_open(sockets)]
            assert len(ended) == there
            assert len(await all_talk(session, "another")) == BROWSERS
            for socket in sockets:
                await socket.close()

    asyncio.run(talk())


async def _still_open(sockets: list[aiohttp.ClientWebSocketResponse]) -> list[aiohttp.ClientWebSocketResponse]:
    """A line from each that is open comes to all that are."""
    for socket in sockets:
        try:
            await socket.send_str("still here")
        except ConnectionError:
            continue
    first = [await socket.receive(timeout=60) for socket in sockets]
    return [s for s, message in zip(sockets, first, strict=True) if message.type is aiohttp.WSMsgType.TEXT]


def test_all_are_told_when_the_server_stops(server: Server) -> None:
    async def stop() -> None:
        async with session_with(server) as session:
            sockets = [await session.ws_connect("/rooms/room") for _ in range(BROWSERS)]
            server_stops = asyncio.create_task(asyncio.to_thread(server.stop))
            for socket in sockets:
                message = await socket.receive(timeout=60)
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
            assert await server_stops == 0

    asyncio.run(stop())


def test_the_page(server: Server) -> None:
    async def look() -> None:
        async with session_with(server) as session, session.get("/") as response:
            assert response.status == 200
            assert "new WebSocket" in await response.text()

    asyncio.run(look())
