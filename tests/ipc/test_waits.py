"""What waits for long is said, and counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import clockworker as cw
from clockworker.ipc.calls import _waits
from tests.conftest import Run, until
from tests.reliability._call_graphs import Shards, shards


class Gate:
    def __init__(self) -> None:
        self.gate = asyncio.Event()

    @cw.remote
    async def wait(self) -> None:
        await self.gate.wait()

    @cw.remote
    async def rows(self) -> AsyncIterator[int]:
        yield 1
        await self.gate.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waits, "LOOK_S", 0.005)
    monkeypatch.setattr(_waits, "LONG_NS", 20_000_000)


async def said(caplog: pytest.LogCaptureFixture) -> str:
    await until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    return record.getMessage()


def started(three: Shards) -> list[cw.Sharded[Gate]]:
    return [mesh.start(Gate, Gate()) for mesh in three.meshes]


def test_calls_that_wait_for_credit(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with shards(2) as three:
            services = started(three)
            mesh = three.meshes[0]
            assert (mesh.stats().calls_waiting, mesh.stats().longest_wait_ns) == (0, 0)
            calls = [three.queues[0].spawn(services[0].on(1).wait()) for _ in range(5)]
            elsewhere = [three.queues[0].spawn(services[0].on(2).wait()) for _ in range(3)]
            line = await said(caplog)
            assert "3 calls of shard 0 to shard 1 in queue 'first' wait for credit, all 2 of which is in use" in line
            assert "(2 Gate.wait), the first, Gate.wait, for 0." in line
            assert line.endswith("; 1 more wait elsewhere")
            stats = mesh.stats()
            assert stats.calls_waiting == 4
            assert stats.longest_wait_ns >= 20_000_000
            assert [link.calls_waiting for link in mesh.link_stats()] == [0, 3, 1]
            for service in services:
                service.local.gate.set()
            for call in calls + elsewhere:
                await call
            assert (mesh.stats().calls_waiting, mesh.stats().longest_wait_ns) == (0, 0)
            await until(lambda: mesh._waits._timer is None, "nobody looks when nobody waits")
            assert not mesh.shared.watched

    run(body)


def test_one_way_requests_and_streams_hold_credit_too(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with shards(1) as three:
            services = started(three)
            await three.queues[0].spawn(services[0].send(1, Gate.wait))
            waiting = three.queues[0].spawn(services[0].send(1, Gate.wait))
            assert "in use (1 one-way requests)" in await said(caplog)
            services[1].local.gate.set()
            await waiting

    run(body)


def test_requests_to_oneself_that_wait(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with shards(1) as three:
            services = started(three)
            sends = [three.queues[0].spawn(services[0].send(0, Gate.wait)) for _ in range(3)]
            line = await said(caplog)
            assert "2 one-way requests of shard 0 to itself wait for credit in queue 'first', the first for 0." in line
            assert three.meshes[0].stats().calls_waiting == 2
            services[0].local.gate.set()
            for send in sends:
                await send

    run(body)


def test_what_is_within_others_says_its_depth(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Relay(Gate):
        @cw.remote
        async def relay(self) -> None:
            await asyncio.gather(*(relays[1].on(2).wait() for _ in range(3)))

    relays: list[Any] = []

    async def body() -> None:
        async with shards(1) as three:
            relays.extend(mesh.start(Relay, Relay()) for mesh in three.meshes)
            call = three.queues[0].spawn(relays[0].on(1).relay())
            line = await said(caplog)
            assert "2 calls of shard 1 to shard 2 in queue 'first' at depth 1 wait for credit" in line
            relays[2].local.gate.set()
            await call

    run(body)


def test_a_long_wait_is_said_once_in_ten_seconds(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with shards(1) as three:
            services = started(three)
            calls = [three.queues[0].spawn(services[0].on(1).wait()) for _ in range(3)]
            await said(caplog)
            looks: list[Any] = []
            while len(looks) < 10:
                timer = three.meshes[0]._waits._timer
                if timer not in looks:
                    looks.append(timer)
                await asyncio.sleep(0.001)
            await said(caplog)
            services[1].local.gate.set()
            for call in calls:
                await call

    run(body)
