"""Services: what needs no second process on a mesh of one, and calls to all shards of a real one."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleet import fleet
from probe import Probe

import clockworker as cw
from tests.conftest import Run, until


@asynccontextmanager
async def mesh_of_one(count: int = 1, **options: Any) -> AsyncIterator[cw.Mesh]:
    async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")], **options) as executor:
        mesh = cw.Mesh(0, count, executor, cw.create_doorbell(count))
        try:
            yield mesh
        finally:
            mesh.close()


def test_local_others_and_what_it_shows(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one(3) as mesh:
            probe = Probe(0, mesh)
            service = mesh.start(Probe, probe)
            assert service.local is probe
            assert service.others == [1, 2]
            assert repr(service) == "<Sharded Probe, here on shard 0 of 3>"

    run(body)


def test_a_call_to_the_own_shard_is_a_plain_call(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            probe = Probe(0, mesh)
            service = mesh.start(Probe, probe)
            value = {"not": object()}  # nothing is encoded
            assert await service.on(0).deep(value) is value
            assert mesh.stats().calls_local == 1
            assert mesh.stats().frames_sent == 0

    run(body)


def test_a_local_call_into_another_queue(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one(on_panic="propagate") as mesh:
            service = mesh.start(Probe, Probe(0, mesh))
            assert await service.on(0).background() == "background"
            with pytest.raises(ValueError, match="in the background"):
                await service.on(0).fail_in_background()
            assert await service.on(0).background() == "background"

    run(body)


def test_cancelling_a_local_call_into_another_queue(run: Run) -> None:
    class Hangs:
        begun = ended = False

        @cw.remote(queue="background")
        async def hang(self) -> None:
            self.begun = True
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True

    async def body() -> None:
        async with mesh_of_one() as mesh:
            service = mesh.start(Hangs, Hangs())
            task = asyncio.ensure_future(service.on(0).hang())
            await until(lambda: service.local.begun)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert service.local.ended

    run(body)


@pytest.mark.parametrize("shard", [-1, 3, 100])
def test_there_is_no_such_shard(run: Run, shard: int) -> None:
    async def body() -> None:
        async with mesh_of_one(3) as mesh:
            service = mesh.start(Probe, Probe(0, mesh))
            with pytest.raises(IndexError, match=f"there is no shard {shard}: they are 0 to 2"):
                service.on(shard)

    run(body)


def test_what_is_not_remote_cannot_be_called(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one(2) as mesh:
            service = mesh.start(Probe, Probe(0, mesh))
            for shard in (0, 1):
                with pytest.raises(
                    AttributeError, match=rf"'noted' cannot be called on shard {shard}; marked @remote are add,"
                ):
                    service.on(shard).noted  # noqa: B018

    run(body)


def test_a_peer_that_never_came_is_down(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one(2) as mesh:
            service = mesh.start(Probe, Probe(0, mesh))
            with pytest.raises(cw.ShardDown, match="shard 1 is down; nothing was sent"):
                await service.on(1).add(1)
            assert mesh.stats().calls_sent == 0

    run(body)


def test_a_service_is_started_once(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            mesh.start(Probe, Probe(0, mesh))
            with pytest.raises(cw.UsageError, match="Probe has been started on shard 0 already"):
                mesh.start(Probe, Probe(0, mesh))

    run(body)


def test_a_queue_that_the_executor_lacks_is_refused_at_the_start(run: Run) -> None:
    class Misplaced:
        @cw.remote(queue="nowhere")
        async def method(self) -> None: ...

    async def body() -> None:
        async with mesh_of_one() as mesh:
            with pytest.raises(KeyError, match="no queue 'nowhere'; there are 'foreground', 'background'"):
                mesh.start(Misplaced, Misplaced())

    run(body)


class Odd:
    """Its methods are called as what a proxy might call its own."""

    @cw.remote
    async def _place(self, key: int) -> int:
        return key

    @cw.remote
    async def _methods(self) -> str:
        return "methods"

    @cw.remote
    async def _call(self) -> str:
        return "call"

    @cw.remote
    async def _proxy(self) -> str:
        return "proxy"

    @cw.remote
    async def __private(self) -> str:
        return "private"

    async def outside(self, service: cw.Sharded[Odd]) -> list[str]:
        return [await service.on(0).__private(), *await service.map(Odd.__private)]


def test_methods_may_have_any_names(run: Run) -> None:
    async def body() -> None:
        async with mesh_of_one() as mesh:
            service = mesh.start(Odd, Odd())
            for there in (service.on(0), service.on(0, timeout=60), service.on_nowait(0, timeout=5)):
                assert await there._place(3) == 3
                assert (await there._methods(), await there._call(), await there._proxy()) == (
                    "methods",
                    "call",
                    "proxy",
                )
                with pytest.raises(AttributeError, match="'outside' cannot be called on shard 0"):
                    there.outside  # noqa: B018
            assert await service.map(Odd._call) == ["call"]
            assert await service.local.outside(service) == ["private", "private"]

    run(body)


# All shards at once


def test_map_in_the_order_of_the_shards(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            service = mesh.service
            shards = [shard for shard, _ in await service.map(Probe.whoami)]
            assert shards == [0, 1, 2]
            assert [shard for shard, _ in await service.map([2, 0], Probe.whoami)] == [2, 0]
            assert await service.map(service.others, Probe.add, 1, c=3) == [14, 14]
            assert await service.map([], Probe.add, 1) == []
            with pytest.raises(IndexError, match="there is no shard 3"):
                await service.map([0, 3], Probe.whoami)
            with pytest.raises(TypeError, match="missing 1 required positional argument"):
                await service.map(Probe.add)  # type: ignore[call-overload]

    run(body)


def test_the_first_failure_of_a_map_cancels_the_rest(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            mapped = asyncio.ensure_future(mesh.service.map(Probe.hang))
            while [hanging for hanging, _ in await mesh.service.map(Probe.hangs)] != [1, 1, 1]:
                await asyncio.sleep(0.001)
            mesh.kill(2)
            mesh.mesh.disconnect(2)
            with pytest.raises(cw.ShardDied, match="shard 2 died"):
                await mapped
            assert mesh.probe.cancelled == 1
            while await mesh.service.on(1).hangs() != (0, 1):
                await asyncio.sleep(0.001)

    run(body)


def test_a_map_that_has_failed_leaves_its_task_as_it_was(run: Run) -> None:
    """It can be cancelled, and timed out, as before."""

    async def body() -> None:
        async with fleet(3) as mesh:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    with pytest.raises(ValueError, match="wrong value"):
                        await mesh.service.map(Probe.fail, "ValueError")
                    task = asyncio.current_task()
                    assert task is not None
                    assert task.cancelling() == 0
                    limit.reschedule(0.0)
                    await asyncio.sleep(60)

    run(body)


def test_who_waits_for_a_map_is_cancelled_when_all_calls_have_ended(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            mapped = asyncio.ensure_future(mesh.service.map(Probe.hang))
            while [hanging for hanging, _ in await mesh.service.map(Probe.hangs)] != [1, 1, 1]:
                await asyncio.sleep(0.001)
            mapped.cancel()
            await asyncio.wait([mapped])
            assert mapped.cancelled()
            assert mesh.probe.cancelled == 1
            await until(lambda: not mesh.mesh.stats().calls_in_flight)

    run(body)


def test_map_reduce_folds_in_order(run: Run) -> None:
    def append(found: list[int], answer: tuple[int, int]) -> list[int]:
        return [*found, answer[0]]

    async def body() -> None:
        async with fleet(3) as mesh:
            assert await mesh.service.map_reduce(append, [], Probe.whoami) == [0, 1, 2]
            assert await mesh.service.map_reduce(operator.add, 1_000, Probe.add, 1) == 1_333

    run(body)


def test_a_broadcast_reaches_all_and_then_says_who_failed(run: Run) -> None:
    async def body() -> None:
        async with fleet(4) as mesh:
            await mesh.service.broadcast(Probe.note, 7)
            assert await mesh.service.map(Probe.notes) == [[7]] * 4
            for shard in (2, 3):
                mesh.kill(shard)
                mesh.mesh.disconnect(shard)
            with pytest.raises(cw.ShardDown, match="shard 2 is down") as caught:
                await mesh.service.broadcast(Probe.note, 8)
            assert caught.value.__notes__ == [
                "Probe.note failed on shard 2",
                "and on shard 3: ShardDown: shard 3 is down; nothing was sent",
            ]
            assert await mesh.service.map([0, 1], Probe.notes) == [[8]] * 2

    run(body)
