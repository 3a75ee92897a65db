"""Services on a mesh of one: everything that needs no second process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from probe import Probe

import clockworker as cw
from tests.conftest import Run


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
        ended = False

        @cw.remote(queue="background")
        async def hang(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True

    async def body() -> None:
        async with mesh_of_one() as mesh:
            service = mesh.start(Hangs, Hangs())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await service.on(0).hang()
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
