"""Calls to one's own shard that are encoded do what calls to another do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from fleet import fleet
from probe import FAILURES, Point, Record, count_up, pid_and
from test_service import mesh_of_one

import clockworker as cw
from tests.conftest import Run, until


class Special(Point):
    """A struct where its base is annotated."""


RECORD = Record("k", datetime(2020, 1, 1), b"x")
ENDS_TASKS = ("CancelledError", "Ends")
CALLS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda probe: probe.add(1, c=2),
    "types": lambda probe: probe.types(Point(1), RECORD, "m", {"a": {1}}),
    "a subclass": lambda probe: probe.types(Special(1), RECORD, True, {}),
    "a tuple for anything": lambda probe: probe.deep((1, [{2}])),
    "an object": lambda probe: probe.deep(object()),
    "a wrong type": lambda probe: probe.add("x"),
    "a wrong type inside": lambda probe: probe.types(Point(1), RECORD, "m", {"a": [1]}),
    "a missing argument": lambda probe: probe.add(),
    "one too many": lambda probe: probe.add(1, 2, 3, 4),
    "too large a number": lambda probe: probe.add(2**70),
    "lone surrogates": lambda probe: probe.text("\ud800"),
    "too large": lambda probe: probe.echo(b"x" * 200_000),
    "too large a result": lambda probe: probe.big(200_000),
    "a result that lies": lambda probe: probe.lie(),
    "a result that cannot be sent": lambda probe: probe.unsendable(),
    "in another queue": lambda probe: probe.background(),
    "fails in another queue": lambda probe: probe.fail_in_background(),
    "a stream": lambda probe: listed(probe.rows(3)),
    "a stream that fails": lambda probe: listed(probe.rows(3, fail_at=1)),
    "a stream that lies": lambda probe: listed(probe.lying_rows()),
    "a stream that cannot be sent": lambda probe: listed(probe.bad_rows()),
    "a stream in another queue": lambda probe: listed(probe.queues(2)),
    **{f"fails: {how}": lambda probe, how=how: probe.fail(how) for how in FAILURES if how not in ENDS_TASKS},
    **{
        f"declared: {how}": lambda probe, how=how: probe.fail_declared(how) for how in FAILURES if how not in ENDS_TASKS
    },
}


async def listed(stream: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in stream]


async def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    try:
        value = await call()
    except Exception as error:
        text = re.sub(r" from shard \d|shard \d|[\d,]+ bytes", "", str(error)).replace("an item", "the result")
        return type(error), text, vars(error).keys()
    return type(value), value


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_each_does_the_same(run: Run, timeout: float | None) -> None:
    async def body() -> None:
        async with fleet(encode_local=True, limits={"max_message": 100_000}) as mesh:
            here, there = (mesh.service.on(shard, timeout=timeout) for shard in (0, 1))
            for name, call in CALLS.items():
                assert await outcome(lambda: call(here)) == await outcome(lambda: call(there)), name  # noqa: B023

    run(body)


def test_functions_too(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            mesh.home.encode_local = True
            assert (await mesh.function_caller(0, pid_and)(1, y=2))[1:] == (1, 2)
            with pytest.raises(TypeError, match="was called with arguments that it does not take"):
                await mesh.function_caller(0, pid_and)("x")
            assert await listed(mesh.function_caller(0, count_up)(3)) == [0, 1, 2]

    run(body)


class Store:
    def __init__(self) -> None:
        self.tags = ["a"]
        self.taken: list[Any] = []

    @cw.remote
    async def get_tags(self) -> list[str]:
        return self.tags

    @cw.remote
    async def take(self, tags: list[str]) -> None:
        self.taken.append(tags)


def test_nothing_is_shared_and_everything_is_checked(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            mesh.home.encode_local = True
            service = mesh.start(Store, Store())
            (await service.on(0).get_tags()).append("b")
            assert await service.on(0).get_tags() == ["a"]
            tags = ["x"]
            await service.on(0).take(tags)
            await service.send(0, Store.take, tags)
            service.send_nowait(0, Store.take, tags)
            await service.broadcast(Store.take, tags)
            await until(lambda: len(service.local.taken) == 4, "all four have come")
            assert all(taken == tags and taken is not tags for taken in service.local.taken)
            for wrong in (lambda: service.send(0, Store.take, [object()]), lambda: service.map(Store.take, [object()])):  # type: ignore[list-item]
                with pytest.raises(
                    TypeError, match=r"Store.take\(\): the argument tags cannot be sent: Encoding objects"
                ):
                    await wrong()
            assert mesh.stats().calls_local >= 5

    run(body)


def test_what_a_one_way_request_does_not_take_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh_of_one(on_panic="propagate") as mesh:
            mesh.home.encode_local = True
            service = mesh.start(Store, Store())
            await service.send(0, Store.take, [1])  # type: ignore[list-item]
            await until(lambda: "Store.take, sent by this shard, failed" in caplog.text, "a line in the log")

    run(body)


def test_cancelling_reaches_the_method(run: Run) -> None:
    async def body() -> None:
        async with fleet(encode_local=True) as mesh:
            call = asyncio.ensure_future(mesh.service.on(0).hang())
            await until(lambda: mesh.probe.hanging == 1, "it hangs")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (mesh.probe.hanging, mesh.probe.cancelled) == (0, 1)
            stream = mesh.service.on(0).rows(100)
            await anext(stream)  # type: ignore[call-overload]
            await stream.aclose()  # type: ignore[attr-defined]
            assert mesh.probe.closed == 1

    run(body)


def test_without_it_nothing_is_encoded(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            service = mesh.start(Store, Store())
            assert await service.on(0).get_tags() is service.local.tags
            tags = [object()]
            await service.on(0).take(tags)  # type: ignore[arg-type]
            assert service.local.taken[0] is tags
            assert mesh.stats().frames_sent == 0

    run(body)
