"""Threads by depth: functions that wait for each other through calls all get one."""

from __future__ import annotations

import asyncio
import threading

import pytest

import clockworker as cw
from clockworker.ipc.calls._chain_cy import CHAIN, DEEPEST, Chain
from clockworker.shards.worker._blocking_pools import BlockingPools
from tests.conftest import Run, until
from tests.reliability._call_graphs import shards


def test_a_function_may_wait_for_another(run: Run) -> None:
    async def body() -> None:
        pools, loop = BlockingPools(1), asyncio.get_running_loop()

        def inner(depth: int) -> int:
            if depth == 0:
                return 0
            return 1 + asyncio.run_coroutine_threadsafe(pools.run(inner, depth - 1), loop).result(30)

        assert await asyncio.gather(*(pools.run(inner, 5) for _ in range(4))) == [5] * 4
        assert pools.running == 0
        await pools.drain()

    run(body)


def test_no_more_run_at_one_depth_than_there_are_threads_for(run: Run) -> None:
    async def body() -> None:
        pools, gate = BlockingPools(2), threading.Event()
        calls = [asyncio.ensure_future(pools.run(gate.wait, 30)) for _ in range(5)]
        await until(lambda: pools.running == 2)
        token = CHAIN.set(Chain(1))
        deeper = [asyncio.ensure_future(pools.run(gate.wait, 30)) for _ in range(5)]
        CHAIN.set(Chain(DEEPEST))
        deepest = [asyncio.ensure_future(pools.run(gate.wait, 30)) for _ in range(2)]
        await until(lambda: pools.running == 6)
        with pytest.raises(cw.ChannelFull, match=f"2 functions run in threads at depth {DEEPEST}, where none waits"):
            await pools.run(gate.wait, 30)
        CHAIN.reset(token)
        gate.set()
        await asyncio.gather(*calls, *deeper, *deepest)

    run(body)


def test_functions_whose_calls_want_threads_of_each_other(run: Run) -> None:
    async def body() -> None:
        async with shards(1) as three:
            things: list[object] = []
            for shard in (0, 1, 2, 0):
                things = [["thread", shard, things]] if things else [["thread", shard, []]]
            await three.run([[things] * 3, [things] * 3, [things] * 3])

    run(body)
