"""Requests that end before they have begun, or as their shard leaves: each is answered once, and its credit given back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from ends import Ends

import clockworker as cw
from clockworker.ipc.calls._call_cy import Call, new_call
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._request_cy import Request, Target, new_request
from tests.conftest import Run, until
from tests.reliability._call_graphs import Shards, shards


class Slow:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()

    @cw.remote
    async def get(self, key: int) -> int:
        self.begun.append("get")
        await self.gate.wait()
        return key

    @cw.remote
    async def at_once(self, key: int) -> int:
        self.begun.append("at_once")
        return key

    @cw.remote
    async def rows(self, count: int) -> AsyncIterator[int]:
        self.begun.append("rows")
        for number in range(count):
            await self.gate.wait()
            yield number


class Slows:
    """`Slow` on three shards of this process, and requests of shard 0 that shard 1 has taken in and not begun with."""

    def __init__(self, three: Shards) -> None:
        self.three = three
        self.slow = [Slow() for _ in three.meshes]
        self.services = [mesh.start(Slow, slow) for mesh, slow in zip(three.meshes, self.slow, strict=True)]
        self.link = three.meshes[0].links[1]

    def request(self, name: str, kind: Kind = Kind.REQUEST) -> Call:
        call = new_call(self.link, kind, self.services[0]._methods[name], (1,), 0, False)
        call.start()
        return call

    def take_in(self) -> None:
        mesh = self.three.meshes[1]
        mesh.drain(mesh.links[0])

    def cancel_tasks(self) -> int:
        found = [task for task in asyncio.all_tasks() if task.get_name().startswith("Slow.")]
        return sum(task.cancel() for task in found)

    async def settled(self) -> None:
        await until(lambda: all(mesh.is_quiet() for mesh in self.three.meshes))
        await until(lambda: not self.link.pending and not self.link.streams)
        for mesh in self.three.meshes:
            for link in mesh.links:
                assert not link.serving
                assert not link.outgoing
                assert all(lane.credit == self.three.credit for lane in link.credit.lanes.values())
            own = mesh.here.in_flight.values()
            await until(lambda own=own: all(lane.credit >= self.three.credit for lane in own))  # type: ignore[misc]
            assert all(lane.credit == self.three.credit for lane in own)


def ran(run: Run, test: Callable[[Slows], Any], credit: int = 4) -> None:
    async def body() -> None:
        async with shards(credit) as three:
            await test(Slows(three))

    run(body)


@pytest.mark.parametrize("name", ["get", "rows"])
def test_a_task_that_is_cancelled_before_its_first_step(run: Run, name: str) -> None:
    async def test(slows: Slows) -> None:
        for _ in range(3):
            calls = [slows.request(name) for _ in range(4)]
            slows.take_in()
            assert slows.cancel_tasks() == 4
            for call in calls:
                with pytest.raises(cw.RemoteError, match="CancelledError"):
                    await call
        await slows.settled()
        assert slows.slow[1].begun == []

    ran(run, test)


@pytest.mark.parametrize("name", ["get", "rows"])
def test_a_task_that_is_cancelled_later(run: Run, name: str) -> None:
    async def test(slows: Slows) -> None:
        calls = [slows.request(name) for _ in range(4)]
        await until(lambda: len(slows.slow[1].begun) == 4)
        assert slows.cancel_tasks() == 4
        for call in calls:
            with pytest.raises(cw.RemoteError, match="CancelledError"):
                await call
        await slows.settled()

    ran(run, test)


def test_a_one_way_request_that_is_cancelled_before_its_first_step(run: Run) -> None:
    async def test(slows: Slows) -> None:
        for _ in range(3):
            for _ in range(4):
                slows.request("get", Kind.ONE_WAY)
            slows.take_in()
            assert slows.cancel_tasks() == 4
            await slows.settled()
        assert slows.slow[1].begun == []

    ran(run, test)


def test_a_one_way_request_to_oneself_that_is_cancelled(run: Run) -> None:
    async def test(slows: Slows) -> None:
        service = slows.services[0]
        for early in (True, False, True):
            for _ in range(4):
                service.send_nowait(0, Slow.get, 1)
            with pytest.raises(cw.ChannelFull):
                service.send_nowait(0, Slow.get, 1)
            waiting = slows.three.queues[0].spawn(service.send(0, Slow.get, 1))
            if not early:
                await until(lambda: len(slows.slow[0].begun) >= 4)
            assert slows.cancel_tasks() >= 4
            await waiting
            await asyncio.sleep(0)
            slows.cancel_tasks()
            await slows.settled()

    ran(run, test)


def test_who_leaves_while_waiting_to_send_to_oneself_takes_no_credit(run: Run) -> None:
    async def test(slows: Slows) -> None:
        service, queue = slows.services[0], slows.three.queues[0]
        for at_once in (True, False):
            slows.slow[0].gate.clear()
            for _ in range(4):
                service.send_nowait(0, Slow.get, 1)
            waiting = [queue.spawn(service.send(0, Slow.get, 1)) for _ in range(6)]
            await until(lambda: slows.three.meshes[0].stats().calls_waiting == 6)
            slows.slow[0].gate.set()
            if not at_once:
                await asyncio.sleep(0)
            for each in waiting[::2]:
                each.abort()
            for each in waiting:
                await each.outcome()
            await slows.settled()

    ran(run, test)


@pytest.mark.parametrize("name", ["get", "rows", "at_once"])
@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.ONE_WAY])
def test_a_request_to_a_shard_whose_executor_ends(
    run: Run, name: str, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(slows: Slows) -> None:
        core = slows.three.meshes[1].core
        call = slows.request(name, kind)
        core.accepting = False
        try:
            with caplog.at_level(logging.CRITICAL, "clockworker.ipc"):
                slows.take_in()
        finally:
            core.accepting = True
        if kind is Kind.REQUEST:
            with pytest.raises(cw.ShardDown, match=rf"shard 1 is leaving; Slow.{name} was not run"):
                await call
        await slows.settled()
        assert slows.slow[1].begun == []

    ran(run, test)


@pytest.mark.parametrize("name", ["get", "rows"])
def test_a_request_that_runs_while_its_shards_executor_ends(run: Run, name: str) -> None:
    async def test(slows: Slows) -> None:
        core = slows.three.meshes[1].core
        call = slows.request(name)
        await until(lambda: slows.slow[1].begun)
        core.accepting = False
        try:
            slows.cancel_tasks()
            with pytest.raises(cw.ShardDied, match=rf"shard 1 is leaving, with Slow.{name} in flight"):
                await call
        finally:
            core.accepting = True
        await slows.settled()

    ran(run, test)


@pytest.mark.parametrize("name", ["get", "rows"])
@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.ONE_WAY])
def test_a_task_factory_that_fails(run: Run, name: str, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    async def test(slows: Slows) -> None:
        def fail(loop: Any, coroutine: Any, **options: Any) -> Any:
            raise ZeroDivisionError("of the application's factory")

        loop = asyncio.get_running_loop()
        call = slows.request(name, kind)
        loop.set_task_factory(fail)
        try:
            with caplog.at_level(logging.CRITICAL, "clockworker.ipc"):
                slows.take_in()
        finally:
            loop.set_task_factory(None)
        if kind is Kind.REQUEST:
            with pytest.raises(ZeroDivisionError):
                await call
        await slows.settled()

    ran(run, test)


def test_a_method_that_was_cancelled_in_its_own_queue_is_no_cancellation_of_its_caller(run: Run) -> None:
    begun: list[asyncio.Task[Any] | None] = []

    class Queued:
        @cw.remote(queue="second")
        async def hang(self) -> None:
            begun.append(asyncio.current_task())
            await asyncio.Event().wait()

    async def body() -> None:
        async with shards(4) as three:
            services = [mesh.start(Queued, Queued()) for mesh in three.meshes]
            for shard in (0, 1):
                call = three.queues[0].spawn(services[0].on(shard).hang())
                await until(lambda: begun)
                task = begun.pop()
                assert task is not None
                task.cancel()
                with pytest.raises(cw.RemoteError, match=r"cancelled|CancelledError"):
                    await call
                call = three.queues[0].spawn(services[0].on(shard).hang())
                await until(lambda: begun)
                call.abort()
                with pytest.raises(cw.TaskCancelled):
                    await call
                task = begun.pop()
                assert task is not None
                await until(task.done)

    run(body)


# A request is the coroutine of its task.


def _in_a_future(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def made(*args: Any) -> Any:
        return asyncio.ensure_future(function(*args))

    return made


class Shows:
    """What is seen of the task that serves a call."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @cw.remote
    async def stack(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        self.lines = [frame.f_code.co_name for frame in task.get_stack()]
        self.lines += [str(asyncio.iscoroutine(task.get_coro())), repr(task)]

    @cw.remote
    @_in_a_future
    async def elsewhere(self, number: int) -> int:
        await asyncio.sleep(0)
        return number

    @cw.remote
    async def swallow(self) -> int:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return 5
        return 0


def test_the_task_of_a_request_shows_where_its_method_stands(run: Run) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = [mesh.start(Shows, Shows()) for mesh in three.meshes]
            await services[0].on(1).stack()
            *names, is_coroutine, shown = services[1].local.lines
            assert "stack" in names
            assert is_coroutine == "True"
            assert "Shows.stack" in shown

    run(body)


def test_a_decorated_method_that_returns_a_future(run: Run) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = [mesh.start(Shows, Shows()) for mesh in three.meshes]
            assert await services[0].on(1).elsewhere(7) == 7

    run(body)


def test_a_method_that_returns_in_spite_of_a_cancellation_is_answered(run: Run) -> None:
    async def body() -> None:
        async with shards(4) as three:
            services = [mesh.start(Shows, Shows()) for mesh in three.meshes]
            call = asyncio.ensure_future(services[0].on(1).swallow())
            found: list[asyncio.Task[Any]] = []
            await until(lambda: found.extend(_waiting("swallow")) or found)
            found[0].cancel()
            assert await call == 5

    run(body)


def _waiting(name: str) -> list[asyncio.Task[Any]]:
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == f"Shows.{name}"]
    return [task for task in tasks if getattr(task.get_coro(), "cr_await", None) is not None]


def test_a_request_is_awaited_once_and_as_any_coroutine() -> None:
    ends = Ends()
    link = ends.link
    for end in (lambda request: request.close(), lambda request: _thrown(request, KeyError("a key"))):
        request = new_request(link, Target(remote_methods(Slow)["get"], _returns, None, None), 0, 1, 0, 0, b"\x90")
        assert isinstance(request, Coroutine)
        end(request)
        assert request.ended
        with pytest.raises(RuntimeError, match="cannot reuse"):
            request.send(None)
    request = new_request(link, Target(remote_methods(Slow)["get"], _returns, None, None), 0, 1, 0, 0, b"\x91\x01")
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(request.send, None)
    assert request.ended
    ends.close()


def _thrown(request: Request, error: BaseException) -> None:
    with pytest.raises(StopIteration):
        request.throw(error)


async def _returns(*arguments: object) -> int:
    return 1
