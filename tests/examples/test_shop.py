"""The shop on two real shards, with aiohttp and websockets as its clients."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from clockworker.shards.testing import Server, serving
from tests.shards.servers import DEADLINE

pytest.importorskip("fastapi")

from examples.shop._notices import Notices
from examples.shop._sessions import Sessions
from examples.shop._shop import ORDER_EVERY_S, ORDERS_AT_ONCE

OPTIONS = ["--spares", "0", "--distribution", "least-connections", "--timeout-keep-alive", "600"]
SHARDS = range(2)

_clients = itertools.count(2)  # each is another address, and so another client to the limiter


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("examples.shop:main", shards=len(SHARDS), options=OPTIONS) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, DEADLINE))


def url(server: Server, scheme: str = "http") -> str:
    host, port = server.address
    return f"{scheme}://{host}:{port}"


@asynccontextmanager
async def client_at(
    server: Server, shard: int, *, address: str | None = None, session: str | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with one connection, which this shard has accepted."""
    address = address or f"127.0.0.{next(_clients)}"
    cookies = {} if session is None else {"session": session}
    async with AsyncExitStack() as elsewhere:  # these are kept meanwhile: so the shard has fewest at last
        while True:
            connector = aiohttp.TCPConnector(limit=1, local_addr=(address, 0))
            timeout = aiohttp.ClientTimeout(30)
            # Unsafe is what aiohttp calls a cookie of an address without a name.
            jar = aiohttp.CookieJar(unsafe=True)
            client = aiohttp.ClientSession(
                url(server), connector=connector, timeout=timeout, cookies=cookies, cookie_jar=jar
            )
            async with client.get("/products") as response:
                found = response.headers["x-shard"]
            if found == str(shard):
                break
            await elsewhere.enter_async_context(client)
    async with client:
        yield client


@asynccontextmanager
async def clients(
    server: Server, *, address: str | None = None, session: str | None = None
) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """The same client, on each shard."""
    async with AsyncExitStack() as stack:
        opened = [client_at(server, shard, address=address, session=session) for shard in SHARDS]
        yield [await stack.enter_async_context(client) for client in opened]


async def json_of(request: aiohttp.client._RequestContextManager) -> object:
    async with request as response:
        assert response.status < 300, await response.text()
        return await response.json()


def test_the_catalogue(server: Server) -> None:
    async def look() -> None:
        async with clients(server) as both:
            for shard, client in enumerate(both):
                async with client.get("/products") as response:
                    assert (response.status, response.headers["x-shard"]) == (200, str(shard))
                    assert response.headers["x-queue"] == "foreground"
                    assert {"id": "jewel", "name": "Ruby jewel", "cents": 380} in await response.json()
            async with both[0].get("/") as response:
                assert "new EventSource" in await response.text()

    run(look())


def test_a_cart_is_its_sessions_on_any_shard(server: Server) -> None:
    """What is put on one shard is seen on the other, and lies on that which owns the session's name, whichever that is."""

    async def shop() -> None:
        owners = set()
        for number in range(8):
            session = f"session-{number}"
            async with clients(server, session=session) as (one, other):
                assert await json_of(one.put("/cart/jewel?count=3")) == {"jewel": 3}
                assert await json_of(other.put("/cart/dial?count=1")) == {"jewel": 3, "dial": 1}
                assert await json_of(one.put("/cart/jewel?count=0")) == {"dial": 1}
                assert await json_of(one.get("/cart")) == await json_of(other.get("/cart")) == {"dial": 1}
            kept = [await asyncio.to_thread(server.call, shard, Sessions.cart, session) for shard in SHARDS]
            assert sorted(kept, key=len) == [{}, {"dial": 1}]
            owners.add(kept.index({"dial": 1}))
        assert owners == set(SHARDS)

    run(shop())


def test_a_session_is_begun_by_a_cookie(server: Server) -> None:
    async def shop() -> None:
        async with client_at(server, 0) as client, client_at(server, 1) as another:
            assert await json_of(client.get("/cart")) == {}
            await json_of(client.put("/cart/hands?count=2"))
            assert await json_of(client.get("/cart")) == {"hands": 2}
            assert await json_of(another.get("/cart")) == {}

    run(shop())


@pytest.mark.parametrize(
    ("path", "status"), [("/cart/sundial?count=1", 404), ("/cart/jewel?count=-1", 422), ("/cart/jewel", 422)]
)
def test_what_cannot_be_put_in_a_cart(server: Server, path: str, status: int) -> None:
    async def put() -> None:
        async with client_at(server, 0) as client, client.put(path) as response:
            assert response.status == status

    run(put())


def test_orders_of_a_client_are_counted_over_the_shards(server: Server) -> None:
    """For addresses that one shard owns, and such that the other does."""

    async def order(client: aiohttp.ClientSession) -> tuple[int, float]:
        async with client.post("/orders") as response:
            return response.status, float(response.headers.get("retry-after", 0))

    async def shop() -> None:
        for _ in range(4):
            address = f"127.0.0.{next(_clients)}"
            async with clients(server, address=address) as both:
                orders = [await order(both[number % 2]) for number in range(ORDERS_AT_ONCE + 2)]
            assert [status for status, _ in orders] == [*[409] * ORDERS_AT_ONCE, 429, 429]  # 409: of an empty cart
            assert all(0 < wait_s <= ORDER_EVERY_S for _, wait_s in orders[ORDERS_AT_ONCE:])
        async with client_at(server, 0) as another:
            assert (await order(another))[0] == 409

    run(shop())


@asynccontextmanager
async def socket_at(server: Server, shard: int) -> AsyncIterator[ClientConnection]:
    async with AsyncExitStack() as elsewhere:
        while True:
            socket = await connect(url(server, "ws") + "/live", open_timeout=60)
            assert socket.response is not None
            if socket.response.headers["x-shard"] == str(shard):
                break
            await elsewhere.enter_async_context(socket)
    async with socket:
        yield socket


class Events:
    """An event stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def begun(self) -> None:
        assert self._response.content_type == "text/event-stream"
        assert await self._response.content.readline() == b": hello\n"
        assert await self._response.content.readline() == b"\n"

    async def next(self) -> object:
        line = await self._response.content.readline()
        assert await self._response.content.readline() == b"\n"
        return json.loads(line.removeprefix(b"data: "))

    async def end(self) -> bytes:
        return await self._response.content.read()


@asynccontextmanager
async def everybody(server: Server) -> AsyncIterator[tuple[list[ClientConnection], list[Events]]]:
    """A WebSocket and an event stream on each shard."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(socket_at(server, shard)) for shard in SHARDS]
        streams = []
        for client in await stack.enter_async_context(clients(server)):
            streams.append(Events(await stack.enter_async_context(client.get("/events"))))
            await streams[-1].begun()
        yield sockets, streams


def test_an_order_is_told_to_all_on_every_shard(server: Server) -> None:
    async def shop() -> None:
        async with everybody(server) as (sockets, streams), clients(server) as both:
            for shard, client in enumerate(both):
                await json_of(client.put("/cart/jewel?count=3"))
                assert await json_of(client.post("/orders")) == {"jewel": 3}
                assert await json_of(client.get("/cart")) == {}
                notice = {"text": "ordered: 3 x Ruby jewel", "shard": shard}
                assert [json.loads(await socket.recv()) for socket in sockets] == [notice] * 2
                assert [await stream.next() for stream in streams] == [notice] * 2

    run(shop())


def test_what_a_browser_says_is_told_to_all_on_every_shard(server: Server) -> None:
    async def say() -> None:
        async with everybody(server) as (sockets, streams):
            for shard, socket in enumerate(sockets):
                await socket.send(f"from {shard}")
                notice = {"text": f"from {shard}", "shard": shard}
                assert [json.loads(await socket.recv()) for socket in sockets] == [notice] * 2
                assert [await stream.next() for stream in streams] == [notice] * 2
        while any([await asyncio.to_thread(server.call, shard, Notices.listening) for shard in SHARDS]):
            pass  # that they have left is noticed

    run(say())


def test_a_report_is_computed_in_the_background(server: Server) -> None:
    """While two are, which have no end, the shard answers all else. The third waits until one is left alone."""

    async def begin(client: aiohttp.ClientSession, days: int) -> aiohttp.ClientResponse:
        report = await client.get("/reports/sales.csv", params={"days": days})
        assert (report.status, report.headers["x-queue"]) == (200, "background")
        assert (await report.content.readline()).startswith(b"day,mainspring,")
        return report

    async def read(report: aiohttp.ClientResponse) -> None:
        try:
            while await report.content.readline():
                pass
        finally:
            report.close()

    async def shop() -> None:
        async with AsyncExitStack() as stack:
            one, other, third, light = [await stack.enter_async_context(client_at(server, 1)) for _ in range(4)]
            reading = [asyncio.create_task(read(await begin(client, 1_000_000))) for client in (one, other)]
            waiting = asyncio.create_task(begin(third, 2))
            for _ in range(50):
                async with light.get("/cart") as response:
                    assert (response.status, response.headers["x-queue"]) == (200, "foreground")
            assert not any(task.done() for task in [*reading, waiting])
            reading[0].cancel()
            await asyncio.wait([reading[0]])
            await one.close()
            assert (await (await waiting).text()).count("\n") == 2
            assert not reading[1].done()
            reading[1].cancel()
            await asyncio.wait([reading[1]])

    run(shop())


@asynccontextmanager
async def customers(server: Server) -> AsyncIterator[Counter[int]]:
    """They ask for carts that either shard owns, each time by a new connection. How often which status was answered; 0: none,
    the connection was lost."""
    statuses = Counter[int]()
    left = asyncio.Event()

    async def ask(session: str) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(url(server), connector=connector, cookies={"session": session}) as client:
            while not left.is_set():
                try:
                    async with client.get("/cart") as response:
                        statuses[response.status] += 1
                        assert response.status == 200 or response.headers["retry-after"] == "1"
                except aiohttp.ClientConnectionError:
                    statuses[0] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(ask(f"customer-{number}"))
        try:
            yield statuses
        finally:
            left.set()


@pytest.mark.slow
@pytest.mark.once
def test_no_request_fails_while_the_shards_are_replaced(server: Server) -> None:
    async def replace() -> None:
        async with customers(server) as statuses:
            await asyncio.to_thread(server.replace)
        assert set(statuses) == {200}

    run(replace())


@pytest.mark.slow
def test_carts_outlive_a_replacement_of_the_shards(server: Server) -> None:
    sessions = [f"keeps-{number}" for number in range(8)]

    async def shop() -> None:
        for number, session in enumerate(sessions):
            async with client_at(server, number % 2, session=session) as client:
                assert await json_of(client.put(f"/cart/jewel?count={number + 1}")) == {"jewel": number + 1}
        await asyncio.to_thread(server.replace)
        for number, session in enumerate(sessions):
            async with clients(server, session=session) as both:
                for client in both:
                    assert await json_of(client.get("/cart")) == {"jewel": number + 1}

    run(shop())


@pytest.mark.slow
@pytest.mark.once
def test_a_request_is_told_to_come_again_when_its_carts_shard_has_died(server: Server) -> None:
    async def kill() -> None:
        async with customers(server) as statuses:
            # Else shard 0 may not know of the other yet, and what it asks waits for the next one.
            while statuses[200] < 100:
                await asyncio.sleep(0.01)
            for _ in range(50):  # until a cart was being asked for there: the next shard is there soon
                await asyncio.to_thread(server.kill, 1)
                if statuses[503]:
                    break
        assert {200, 503} <= set(statuses) <= {0, 200, 503}
        async with clients(server, session="customer-1") as both:
            for client in both:
                assert await json_of(client.get("/cart")) == {}

    run(kill())


def test_all_are_sent_away_when_the_server_stops() -> None:
    """Event streams too, which have no end of their own."""

    async def stop(server: Server) -> None:
        async with everybody(server) as (sockets, streams):
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            for socket in sockets:
                await socket.wait_closed()
            assert [socket.close_code for socket in sockets] == [1012, 1012]
            assert [await stream.end() for stream in streams] == [b"", b""]
            assert await stopping == 0
            assert "Traceback" not in server.log

    options = [*OPTIONS, "--timeout-graceful-shutdown", "600"]
    with serving("examples.shop:main", shards=len(SHARDS), options=options) as server:
        run(stop(server))
