"""The channel layer on two shards: what the layer of channels_redis is tested for, and a consumer from end to end."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("channels")
aiohttp = pytest.importorskip("aiohttp")

from clockworker.shards.testing import Server, serving  # noqa: E402
from tests.ecosystem.channels_layers import Layers  # noqa: E402
from tests.shards.servers import eventually  # noqa: E402

numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ["--distribution", "least-connections"]
    with serving("tests.ecosystem.channels_app:main", shards=2, options=options) as server:
        yield server
        assert "Traceback" not in server.log, server.log


@pytest.fixture
def channel() -> str:
    """A name that nobody has used."""
    return f"test-channel-{next(numbers)}"


def message(number: int) -> dict[str, Any]:
    return {"type": "test.message", "number": number}


@pytest.mark.parametrize(("sender", "receiver"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_send_and_receive(server: Server, channel: str, sender: int, receiver: int) -> None:
    assert (
        server.call(sender, Layers.send, channel, {"type": "test.message", "text": "Ahoy-hoy!", "raw": b"\xff"}) == ""
    )
    expected = {"type": "test.message", "text": "Ahoy-hoy!"}
    found = server.call(receiver, Layers.receive, channel)
    assert isinstance(found, dict)
    assert found.pop("raw")
    assert found == expected


@pytest.mark.parametrize("receiver", [0, 1])
def test_messages_of_one_sender_come_in_order(server: Server, channel: str, receiver: int) -> None:
    for number in range(3):
        server.call(0, Layers.send, channel, message(number))
    assert [server.call(receiver, Layers.receive, channel) for _ in range(3)] == [message(n) for n in range(3)]


@pytest.mark.parametrize("sender", [0, 1])
def test_a_channel_of_a_process(server: Server, sender: int) -> None:
    channel = server.call(1, Layers.new_channel, "mine")
    assert channel.startswith("mine.1.")
    assert server.call(sender, Layers.send, channel, message(1)) == ""
    assert server.call(1, Layers.receive, channel) == message(1)
    assert server.call(0, Layers.receive, channel) == "AssertionError", "it is received where it was made"


def test_names_are_new_each_time(server: Server) -> None:
    names = [server.call(shard, Layers.new_channel) for shard in (0, 1) for _ in range(20)]
    assert len({*names}) == 40
    assert all(len(name) < 100 for name in names)


@pytest.mark.parametrize("sender", [0, 1])
def test_capacity(server: Server, channel: str, sender: int) -> None:
    assert [server.call(sender, Layers.send, channel, message(n)) for n in range(4)] == ["", "", "", "ChannelFull"]
    own = server.call(0, Layers.new_channel)
    assert [server.call(sender, Layers.send, own, message(n)) for n in range(4)] == ["", "", "", "ChannelFull"]
    assert server.call(0, Layers.receive, own) == message(0)
    assert server.call(sender, Layers.send, own, message(4)) == ""


def test_capacity_of_some_channels(server: Server) -> None:
    server.call(0, Layers.flush)
    assert [server.call(0, Layers.send, "one", message(n)) for n in range(2)] == ["", "ChannelFull"]


def test_names_that_are_none(server: Server) -> None:
    for work in (Layers.receive, Layers.send, Layers.group_add, Layers.group_send):
        arguments: dict[Any, list[Any]] = {
            Layers.receive: ["=+135!"],
            Layers.send: ["=+135!", message(1)],
            Layers.group_add: ["a group", "channel"],
            Layers.group_send: ["a group", message(1)],
        }
        assert server.call(0, work, *arguments[work]) == "TypeError"
    assert server.call(0, Layers.receive, "not-client-prefix!local_part") == "AssertionError"
    assert server.call(0, Layers.send, "not-client-prefix!local_part", message(1)) == "", "nobody is there"


@pytest.mark.parametrize("sender", [0, 1])
def test_groups(server: Server, channel: str, sender: int) -> None:
    group = f"group-{channel}"
    members = [server.call(shard, Layers.new_channel, "test-gr-chan") for shard in (0, 0, 1, 1)]
    adders = (0, 1, 1, 0)  # not only from where the channel is
    for member, adder in zip(members, adders, strict=True):
        assert server.call(adder, Layers.group_add, group, member) == ""
    server.call(0, Layers.group_add, group, channel)  # a channel of no process
    server.call(1, Layers.group_discard, group, members[1])
    server.call(1, Layers.group_discard, group, "nobody")
    assert server.call(sender, Layers.group_send, group, message(1)) == ""
    assert server.call(sender, Layers.group_send, group, message(2)) == ""
    for shard, member in ((0, members[0]), (1, members[2]), (1, members[3]), (0, channel)):
        assert [server.call(shard, Layers.receive, member) for _ in range(2)] == [message(1), message(2)]
    assert server.call(0, Layers.receive, members[1], 0.3) == "TimeoutError"


def test_a_full_member_is_passed_over(server: Server, channel: str) -> None:
    group = f"group-{channel}"
    full, other = server.call(0, Layers.new_channel), server.call(1, Layers.new_channel)
    for member in (full, other):
        server.call(0, Layers.group_add, group, member)
    for number in range(5):
        assert server.call(1, Layers.group_send, group, message(number)) == ""
        assert server.call(1, Layers.receive, other) == message(number)
    assert [server.call(0, Layers.receive, full) for _ in range(3)] == [message(n) for n in range(3)]
    assert server.call(0, Layers.receive, full, 0.3) == "TimeoutError"


def test_expiry(server: Server) -> None:
    channel = server.call(0, Layers.new_channel, "specific", "short")
    server.call(0, Layers.group_add, "group", channel, "short")
    server.call(1, Layers.send, channel, message(1), "short")
    time.sleep(0.5)
    assert server.call(0, Layers.receive, channel, 0.3, "short") == "TimeoutError"
    server.call(1, Layers.group_send, "group", message(2), "short")
    assert server.call(0, Layers.receive, channel, 0.3, "short") == "TimeoutError", "membership expires as well"
    with ThreadPoolExecutor(1) as pool:  # who waits has it however soon it expires
        waiting = pool.submit(server.call, 0, Layers.receive, channel, 30.0, "short")
        while not waiting.done():
            server.call(1, Layers.send, channel, message(3), "short")
    assert waiting.result() == message(3)


def test_who_gives_up_takes_no_message_along(server: Server, channel: str) -> None:
    for shard in (0, 1):
        assert server.call(shard, Layers.receive, channel, 0.2) == "TimeoutError"
    server.call(0, Layers.send, channel, message(1))
    assert server.call(1, Layers.receive, channel) == message(1)


def test_who_has_waited_longest_is_first(server: Server, channel: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        waiting = []
        for number in range(3):
            waiting.append(pool.submit(server.call, 0, Layers.receive, channel))
            eventually(lambda: sum(server.call(at, Layers.waiting, channel) for at in (0, 1)) > number, "it waits")  # noqa: B023
        for number in range(3):
            server.call(1, Layers.send, channel, message(number))
        assert [each.result(60) for each in waiting] == [message(number) for number in range(3)]


def test_flush(server: Server, channel: str) -> None:
    own = server.call(1, Layers.new_channel)
    for each in (channel, own):
        server.call(0, Layers.group_add, "flushed", each)
        server.call(0, Layers.send, each, message(1))
    assert server.call(0, Layers.flush) == ""
    server.call(0, Layers.group_send, "flushed", message(2))
    assert server.call(1, Layers.receive, own, 0.3) == "TimeoutError"
    assert server.call(0, Layers.receive, channel, 0.3) == "TimeoutError"


def test_async_to_sync_in_a_thread_of_its_own(server: Server) -> None:
    channel = server.call(0, Layers.new_channel)
    server.call(0, Layers.send_from_a_thread, channel, message(1))
    server.call(1, Layers.send_from_a_thread, channel, message(2))
    assert server.call(0, Layers.receive_in_a_thread, channel) == message(1)
    assert server.call(0, Layers.receive_in_a_thread, channel) == message(2)


# A consumer


@asynccontextmanager
async def on_both(server: Server, room: str) -> AsyncIterator[tuple[Any, list[Any], list[str]]]:
    """A session, a WebSocket on each shard, and their channels."""
    async with aiohttp.ClientSession("http://{}:{}".format(*server.address)) as session:
        found: dict[int, tuple[Any, str]] = {}
        sockets = []
        while len(found) < 2:
            sockets.append(await session.ws_connect(f"/rooms/{room}"))
            shard, channel = json.loads(await sockets[-1].receive_str(timeout=60))
            if shard in found:
                await sockets[-1].close()
            else:
                found[shard] = sockets[-1], channel
        yield session, [found[shard][0] for shard in range(2)], [found[shard][1] for shard in range(2)]
        for socket in sockets:
            await socket.close()


def test_consumers_of_both_shards_are_in_one_room(server: Server) -> None:
    async def body() -> None:
        async with on_both(server, "room") as (session, sockets, channels):
            for number, socket in enumerate(sockets):
                await socket.send_str(f"from {number}")
                for each in sockets:
                    assert await each.receive_str(timeout=60) == f"from {number}"
            async with session.get("/say/room", params={"text": "of a view"}) as response:
                assert response.status == 200
            for each in sockets:
                assert await each.receive_str(timeout=60) == "of a view"
            for channel, socket in zip(channels, sockets, strict=True):
                async with session.get(f"/tell/{channel}", params={"text": "to you"}) as response:
                    assert response.status == 200
                assert await socket.receive_str(timeout=60) == "to you"

    asyncio.run(body())


def test_consumers_hear_each_other_while_shards_are_replaced(server: Server) -> None:
    async def body() -> None:
        async with on_both(server, "lasting"):
            pass
        replacing = asyncio.create_task(asyncio.to_thread(server.replace))
        rounds = 0
        while not replacing.done():
            async with (
                aiohttp.ClientSession("http://{}:{}".format(*server.address)) as session,
                session.ws_connect("/rooms/lasting") as socket,
            ):
                greeting = await socket.receive(timeout=60)
                if greeting.type is not aiohttp.WSMsgType.TEXT:  # its shard stops, and says "come again"
                    continue
                await socket.send_str("hello")
                heard = await socket.receive(timeout=60)
                if heard.type is aiohttp.WSMsgType.TEXT:
                    assert heard.data == "hello"
                    rounds += 1
        await replacing
        assert rounds

    asyncio.run(body())
