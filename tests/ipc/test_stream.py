"""Remote generators, between real processes and on one's own shard."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from fleet import Fleet, fleet
from probe import Point
from test_mesh import settled, spawn

import clockworker as cw
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._stream import Outgoing
from tests.conftest import Run, until


async def until_closed(mesh: Fleet, count: int, shard: int = 1) -> int:
    """Wait until so many generators have been closed there; returns what `rows` had yielded."""
    while True:
        yielded, closed = await mesh.service.on(shard).streamed()
        if closed >= count:
            return yielded
        await asyncio.sleep(0.001)


def test_all_items_come_in_order(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                rows = [row async for row in mesh.service.on(shard).rows(1_000)]
                assert rows == [Point(number, tags=[""]) for number in range(1_000)]
                assert [row async for row in mesh.service.on(shard).rows(0)] == []
                assert await until_closed(mesh, 2, shard) == 0
            await settled(mesh)

    run(body)


def test_several_streams_and_calls_at_once(run: Run) -> None:
    async def body() -> None:
        async with fleet(ring=4096) as mesh:

            async def count(size: int) -> int:
                return sum([row.x async for row in mesh.service.on(1).rows(200, size)])

            handles = [spawn(mesh, count(size)) for size in (0, 10, 1_000, 5_000, 0)]
            assert await mesh.service.on(1).add(1) == 111
            assert [await handle for handle in handles] == [sum(range(200))] * 5
            await settled(mesh)

    run(body)


def test_the_generator_is_no_further_ahead_than_the_window(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"window": 8, "window_bytes": 4_000}) as mesh:
            probe = mesh.service.on(1)
            for size, ahead in ((0, 8), (1_000, 4), (10_000, 1)):
                taken = 0
                async with aclosing(probe.rows(100, size)) as rows:  # type: ignore[type-var]
                    async for _ in rows:
                        taken += 1
                        if taken == 20:
                            break
                        if taken % 7 == 0:
                            await asyncio.sleep(0.005)  # as far as it gets; it must not be further
                            yielded, _ = await probe.streamed()
                            assert taken <= yielded <= taken + ahead
            await settled(mesh)

    run(body)


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "deadline"])
def test_leaving_early_closes_the_generator(run: Run, how: str) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await mesh.service.on(1).nothing()
            for shard in (0, 1):
                service = mesh.service.on(shard)
                if how == "break":
                    async for row in service.rows(1_000_000):
                        if row.x == 5:
                            break
                elif how == "aclose":
                    rows: Any = service.rows(1_000_000)
                    assert (await anext(rows)).x == 0
                    await rows.aclose()
                elif how == "cancel":
                    handle = spawn(mesh, _all(service.rows_then_hang(3)))
                    while (await service.hangs())[0] != 1:
                        await asyncio.sleep(0.001)
                    handle.abort()
                    await handle.outcome()
                else:
                    came: list[int] = []
                    seconds = 0.02
                    while not came:  # else the time was over before it had begun
                        with pytest.raises(cw.CallTimeout):
                            async for item in mesh.service.on(shard, timeout=seconds).rows_then_hang(3):
                                came.append(item)  # noqa: PERF401  # what came before it raises
                        seconds *= 2
                await until_closed(mesh, 1, shard)
            await settled(mesh)

    run(body)


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def test_errors_come_after_the_items_before_them(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                seen = []
                with pytest.raises(ValueError, match="in the middle"):
                    async for row in mesh.service.on(shard).rows(10, fail_at=5):
                        seen.append(row.x)  # noqa: PERF401
                assert seen == [0, 1, 2, 3, 4]
            with pytest.raises(TypeError, match=r"Probe.bad_rows\(\) returned what cannot be sent"):
                await _all(mesh.service.on(1).bad_rows())
            with pytest.raises(TypeError, match=r"an item of Probe.lying_rows from shard 1 is not what it declares"):
                await _all(mesh.service.on(1).lying_rows())
            with pytest.raises(TypeError, match=r"Probe.rows\(\) missing 1 required positional argument: 'count'"):
                mesh.service.on(1).rows()  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="arguments that it does not take"):
                await _all(mesh.service.on(1).rows("many"))  # type: ignore[arg-type]
            await settled(mesh)

    run(body)


def test_a_stream_of_a_shard_that_dies_ends(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            seen = []
            with pytest.raises(cw.ShardDied, match=r"shard 1 died with Probe.rows_then_hang in flight"):
                async for number in mesh.service.on(1).rows_then_hang(10):
                    seen.append(number)
                    if number == 9:
                        mesh.kill(1)
                        mesh.mesh.disconnect(1)
            assert seen == list(range(10)), "what has come is not lost"
            with pytest.raises(cw.ShardDown):
                await _all(mesh.service.on(1).rows(3))

    run(body)


def test_an_open_stream_uses_no_credit(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 1}) as mesh:
            streams: list[Any] = [mesh.service.on(1).rows(1_000) for _ in range(5)]
            for number in range(3):
                assert [(await anext(rows)).x for rows in streams] == [number] * 5
            assert await mesh.service.on(1).add(1) == 111
            assert mesh.mesh.links[1].streams == 5
            for rows in streams:
                await rows.aclose()
            await settled(mesh)
            assert mesh.mesh.links[1].streams == 0

    run(body)


def test_opening_a_stream_uses_credit_until_the_peer_has_begun(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 1}) as mesh:
            await mesh.service.on(1).nothing()
            os.kill(mesh.processes[1].pid, signal.SIGSTOP)
            opening = spawn(mesh, _all(mesh.service.on(1).rows_then_hang(0)))  # which yields nothing and never ends
            waiting = [spawn(mesh, mesh.service.on(1).add(1)) for _ in range(3)]
            await until(lambda: mesh.mesh.stats().credit_waits == 3)
            with pytest.raises(cw.ChannelFull):
                await spawn(mesh, _all(mesh.service.on_nowait(1).rows(3)))
            os.kill(mesh.processes[1].pid, signal.SIGCONT)
            assert [await each for each in waiting] == [111] * 3
            assert not opening.done()
            opening.abort()
            await settled(mesh)

    run(body)


def test_no_more_streams_are_open_than_the_limit(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 1, "streams": 3}) as mesh:
            streams: list[Any] = [mesh.service.on(1).rows(1_000) for _ in range(5)]
            await asyncio.gather(*(anext(rows) for rows in streams[:3]))
            for rows in streams[3:]:
                with pytest.raises(
                    cw.ChannelFull, match=r"3 streams to shard 1 are open, which is the limit; Probe.rows"
                ):
                    await anext(rows)
            await streams[0].aclose()
            await until(lambda: mesh.mesh.links[1].streams == 2)
            assert len(await _all(mesh.service.on(1).rows(9))) == 9
            for rows in streams[1:3]:
                await rows.aclose()
            await settled(mesh)

    run(body)


def test_a_stream_runs_in_its_methods_queue(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                for on in (mesh.service.on(shard), mesh.service.on(shard, timeout=60)):
                    assert await spawn(mesh, _all(on.queues(3))) == ["background"] * 3

    run(body)


def test_the_window_counts_items_and_bytes(run: Run) -> None:
    async def body() -> None:
        outgoing = Outgoing(Limits(window=3, window_bytes=100), asyncio.get_running_loop())
        for size, full in ((10, False), (89, False), (1, True)):
            outgoing.sent(size)
            assert outgoing.full() is full
        waiting = asyncio.ensure_future(outgoing.wait_room())
        await asyncio.sleep(0)
        outgoing.used(1)
        await waiting
        outgoing.used(1_000)  # more than there are
        outgoing.sent(100)
        assert outgoing.full(), "one that is as large as the window is"

    run(body)
