"""Which target a request has, and what is kept of that: clients choose paths and hosts, and change them as they like."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import clockworker as cw
from clockworker.http._routes import RouteTable
from clockworker.http._targets_cy import Target, Targets
from clockworker.shards.config._http import HttpConfig, Route
from tests.http.test_connection import on_a_loop
from tests.http.wire import wire

KEPT = 1_024  # paths
LONGEST = 128  # characters of a path and its method


class Table:
    """A table that says how often it was asked."""

    def __init__(self, *routes: Route) -> None:
        self._table = RouteTable(routes)
        self.uses_host = self._table.uses_host
        self.asked = 0

    def find(self, method: str, path: str, host: str) -> int:
        self.asked += 1
        return self._table.find(method, path, host)


@asynccontextmanager
async def targets_of(*routes: Route) -> AsyncIterator[tuple[Targets, Table]]:
    async with cw.Executor([cw.Queue("requests")]) as executor:
        table = Table(*routes)
        queue = executor.queue("requests")
        yield Targets(table, [*(Target(route.path, queue) for route in routes), Target("other", queue)], None), table


@on_a_loop
async def test_a_path_is_looked_up_once_for_each_method() -> None:
    async with targets_of(Route("/a", "q", methods=("GET",)), Route("/*", "q", methods=("POST",))) as (targets, table):
        for _ in range(3):
            assert targets.find("GET", "/a", []).route == "/a"
            assert targets.find("POST", "/a", []).route == "/*"
            assert targets.find("PUT", "/a", []).route == "other"
        assert table.asked == 3


@on_a_loop
async def test_of_more_paths_than_are_kept_each_has_its_target() -> None:
    async with targets_of(Route("/{n:int}/even/*", "q"), Route("/{n:int}/odd/*", "q")) as (targets, table):
        for turn in range(2):
            for number in range(3 * KEPT):
                kind = ("even", "odd")[number % 2]
                route = targets.find("GET", f"/{number}/{kind}/{turn}", []).route
                assert route == f"/{{n:int}}/{kind}/*"
        assert table.asked == 6 * KEPT
        targets.find("GET", f"/{3 * KEPT - 1}/odd/1", [])
        assert table.asked == 6 * KEPT, "the last are known"
        targets.find("GET", "/0/even/0", [])
        assert table.asked == 6 * KEPT + 1, "the first are forgotten"


@on_a_loop
async def test_what_is_kept_of_paths_is_bounded() -> None:
    async with targets_of(Route("/a/*", "q")) as (targets, _):

        def ask(first: int, count: int) -> None:
            for number in range(first, first + count):
                targets.find("GET", f"/a/{number:0100}", [])
                targets.find(f"M{number}", "/a", [])  # methods are the client's choice, too

        tracemalloc.start()
        try:
            ask(0, 4 * KEPT)
            before, _ = tracemalloc.get_traced_memory()
            ask(4 * KEPT, 20 * KEPT)
            after, highest = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # A path of 100 characters takes 150 bytes and more, and a method's dictionary twice that.
        assert after - before < 2 * KEPT * 150
        assert highest < 4 * KEPT * 450


@on_a_loop
async def test_a_long_path_is_not_kept() -> None:
    async with targets_of(Route("/a/*", "q")) as (targets, table):
        just, beyond = ("/a/" + "x" * (LONGEST - len("GET/a/") + more) for more in (0, 1))
        for _ in range(2):
            assert targets.find("GET", just, []).route == targets.find("GET", beyond, []).route == "/a/*"
        assert table.asked == 3


@on_a_loop
async def test_where_a_route_is_for_one_host_each_request_is_looked_up() -> None:
    async with targets_of(Route("/*", "q", host="a.example"), Route("/*", "q", host="b.example")) as (targets, table):
        for host, number in ((b"a.example", 0), (b"b.example:80", 1), (b"c.example", 2), (b"a.example", 0)):
            assert targets.find("GET", "/", [(b"host", host)]) is targets.all[number]
        assert targets.find("GET", "/", []) is targets.all[2]
        assert table.asked == 5


async def say_host(scope: Any, receive: Any, send: Any) -> None:
    host = dict(scope["headers"])[b"host"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"<%s>" % host})


def asked(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@on_a_loop
async def test_a_connection_may_change_its_host_with_each_request() -> None:
    routes = [Route("/*", "second", host="a.example"), Route("/*", "second", host="b.example")]
    config = HttpConfig(date_header=False, server_header=False)
    async with wire(say_host, config, routes) as server:
        connection = server.connect()
        hosts = ["a.example", "b.example", "a.example", "c.example", "A.example:80", "b.example", "b.example"]
        for host in hosts:
            connection.feed(asked(host))
            await server.idle()
        assert [host for host in hosts if f"<{host}>".encode() in connection.sent] == hosts
        assert connection.statuses == [200] * len(hosts)
        assert [target.statuses[2] for target in server.http.targets] == [3, 3, 1]


@on_a_loop
async def test_each_host_of_a_connection_is_checked_not_only_its_first() -> None:
    for wrong in ("a/b", "u@a", "a b", ""):
        async with wire(say_host) as server:
            connection = server.connect()
            for host in ("a", "a", "b", wrong):
                connection.feed(asked(host))
                await server.idle()
            if wrong:
                assert connection.statuses == [200, 200, 200, 400]
                assert connection.is_over
            else:
                assert connection.statuses == [200] * 4, "an empty one is valid: a target without a host"


@on_a_loop
async def test_a_host_that_was_refused_is_not_known_from_then_on() -> None:
    async with wire(say_host) as server:
        for _ in range(2):
            connection = server.connect()
            connection.feed(asked("a/b"))
            await server.idle()
            assert connection.statuses == [400]
