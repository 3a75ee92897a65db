"""Other threads and loops: what they may not do is refused before anything is sent, and what they may do ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import clockworker as cw
from clockworker.ipc.calls._call_cy import Call, new_call
from clockworker.ipc.calls._frames import Kind
from tests.conftest import Run, until
from tests.reliability._call_graphs import Shards, shards


class Sum:
    def __init__(self) -> None:
        self.sum = 0
        self.gate = asyncio.Event()

    @cw.remote
    async def add(self, number: int) -> int:
        self.sum += number
        return self.sum

    @cw.remote(queue="second")
    async def add_there(self, number: int) -> int:
        self.sum += number
        return self.sum

    @cw.remote
    async def wait(self) -> int:
        await self.gate.wait()
        return 7

    @cw.remote
    async def rows(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.sum += 1
            yield number


@cw.remote
async def function(number: int) -> int:
    return number


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def _call(service: Any, mesh: cw.Mesh) -> Call:
    return new_call(mesh.links[1], Kind.REQUEST, service._methods["add"], (1,), 0, False)


def _send(service: Any, mesh: cw.Mesh) -> None:
    mesh.places[1].send_nowait(service._methods["add"], None, (1,))


Service = cw.Sharded[Sum]
WAYS: dict[str, Callable[[Service, cw.Mesh, int], Coroutine[Any, Any, Any]]] = {
    "call": lambda service, mesh, shard: service.on(shard).add(1),
    "call in a queue": lambda service, mesh, shard: service.on(shard).add_there(1),
    "call with a timeout": lambda service, mesh, shard: service.on(shard, timeout=60).add(1),
    "call without waiting": lambda service, mesh, shard: _made(lambda: service.on_nowait(shard).add(1)),
    "gather": lambda service, mesh, shard: _gathered(service.on(shard).add(1), service.on(shard).add(1)),
    "stream": lambda service, mesh, shard: _all(service.on(shard).rows(3)),
    "stream with a timeout": lambda service, mesh, shard: _all(service.on(shard, timeout=60).rows(3)),
    "send": lambda service, mesh, shard: service.send(shard, Sum.add, 1),
    "send without waiting": lambda service, mesh, shard: _made(lambda: service.send_nowait(shard, Sum.add, 1)),
    "map": lambda service, mesh, shard: service.map(Sum.add, 1),
    "map of some": lambda service, mesh, shard: service.map([shard], Sum.add, 1),
    "map_reduce": lambda service, mesh, shard: service.map_reduce(int.__add__, 0, Sum.add, 1),
    "broadcast": lambda service, mesh, shard: service.broadcast(Sum.add, 1),
    "function": lambda service, mesh, shard: mesh.function_caller(shard, function)(1),
    "a call": lambda service, mesh, shard: _made(lambda: _call(service, mesh)),
    "call_nowait": lambda service, mesh, shard: _made(
        lambda: mesh.places[1].call_nowait(service._methods["add"], (1,))
    ),
    "send_nowait": lambda service, mesh, shard: _made(lambda: _send(service, mesh)),
    "mesh.start": lambda service, mesh, shard: _made(lambda: mesh.start(Sum, Sum())),
    "mesh.ready": lambda service, mesh, shard: _made(mesh.ready),
    "mesh.change": lambda service, mesh, shard: _made(lambda: mesh.change(1, lambda: None)),
    "mesh.disconnect": lambda service, mesh, shard: _made(lambda: mesh.disconnect(1)),
    "mesh.close": lambda service, mesh, shard: _made(mesh.close),
}


async def _made(make: Callable[[], Any]) -> Any:
    made = make()
    return await made if made is not None else None


async def _gathered(*calls: Any) -> Any:
    return await asyncio.gather(*calls)


async def started(three: Shards) -> list[Service]:
    return [mesh.start(Sum, Sum()) for mesh in three.meshes]


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_another_threads_loop_is_refused_and_nothing_is_sent(run: Run, way: str, shard: int) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = await started(three)
            mesh = three.meshes[0]
            before = mesh.stats()

            def in_a_thread() -> None:
                with pytest.raises(
                    cw.UsageError, match=r"outside its shard's own event loop.*use .service.call_threadsafe"
                ):
                    asyncio.run(WAYS[way](services[0], mesh, shard))

            await asyncio.to_thread(in_a_thread)
            after = mesh.stats()
            assert (after.calls_sent, after.one_ways_sent) == (before.calls_sent, before.one_ways_sent)
            await services[0].broadcast(Sum.add, 0)
            assert [service.local.sum for service in services] == [0, 0, 0]
            assert not any(link.pending for link in mesh.links)

    run(body)


def test_a_stream_that_was_begun_here_is_not_read_in_another_thread(run: Run) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = await started(three)
            rows: Any = services[0].on(1).rows(1_000)
            assert await anext(rows) == 0

            def in_a_thread() -> None:
                with pytest.raises(cw.UsageError, match=r"Sum.rows was called outside"):
                    asyncio.run(_next_of(rows))

            await asyncio.to_thread(in_a_thread)

    run(body)


async def _next_of(rows: Any) -> Any:
    return await anext(rows)


@pytest.mark.parametrize("wait", ["result", "exception"])
def test_who_waits_for_a_thread_call_on_the_loops_own_thread_is_told(run: Run, wait: str) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = await started(three)
            for shard in (0, 1):
                future = services[0].call_threadsafe(shard, Sum.add, 1)
                for timeout in (None, 5):
                    with pytest.raises(cw.UsageError, match=rf"{wait}\(\) of a call_threadsafe\(\) .* own thread"):
                        getattr(future, wait)(timeout)
                with pytest.raises(TimeoutError):
                    getattr(future, wait)(0)
                assert await asyncio.wrap_future(future) == 1
                assert getattr(future, wait)() in (1, None)

    run(body)


def test_a_thread_call_can_be_cancelled_before_and_after_it_is_sent(run: Run) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = await started(three)
            early = services[0].call_threadsafe(1, Sum.add, 1)
            assert early.cancel()
            late = services[0].call_threadsafe(1, Sum.wait)
            await until(lambda: three.meshes[1].links[0].serving)
            assert late.cancel()
            await until(lambda: not three.meshes[1].links[0].serving)
            assert services[1].local.sum == 0
            with pytest.raises(concurrent.futures.CancelledError):
                early.result()

    run(body)


def test_thread_calls_end_with_the_mesh(run: Run) -> None:
    async def body() -> None:
        said: list[str] = []

        def wait(future: cw.ipc._threads.CallFuture[int]) -> None:  # type: ignore[name-defined]
            try:
                future.result(30)
            except cw.ShardDied as error:
                said.append(type(error).__name__)

        async with shards(4) as three:
            services = await started(three)
            mesh = three.meshes[0]
            begun = services[0].call_threadsafe(1, Sum.wait)
            await until(lambda: three.meshes[1].links[0].serving)
            new = services[0].call_threadsafe(1, Sum.add, 1)
            threads = [threading.Thread(target=wait, args=(future,)) for future in (begun, new)]
            for thread in threads:
                thread.start()
            mesh.close()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert said == ["ShardDied", "ShardDied"]
            with pytest.raises(cw.UsageError, match="the shard has ended"):
                services[0].call_threadsafe(1, Sum.add, 1)
            three.meshes = three.meshes[1:]

    run(body)


def test_the_context_of_a_thread_goes_with_its_call(run: Run) -> None:
    """So that what a function in a thread calls is as deep as the request that it runs for, and inherits its deadline."""

    async def body() -> None:
        async with shards(1) as three:
            await three.run([[[["call", 1, [["thread", 0, [["thread", 1, [["call", 0, [], 0]]]]]], 0]]], [], []])
            depths = {lane.depth for mesh in three.meshes for link in mesh.links for lane in link.credit.lanes.values()}
            assert depths == {0, 2, 4, 5}

    run(body)
