from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

import clockworker as cw
from clockworker.shards._blocking import BlockingPool
from tests.conftest import Run, until


def test_results_exceptions_and_context(run: Run) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def body() -> None:
        pool = BlockingPool(2)
        variable.set("the caller's")
        assert await pool.run(lambda a, *, b: (a, b, variable.get()), 1, b=2) == (1, 2, "the caller's")
        assert await pool.run(threading.current_thread) is not threading.current_thread()
        with pytest.raises(KeyError, match="missing"):
            await pool.run({}.__getitem__, "missing")
        await pool.drain()
        with pytest.raises(cw.UsageError, match="after the shard had drained"):
            await pool.run(int)

    run(body)


def test_no_more_at_once_than_there_are_threads_and_who_waits_may_leave(run: Run) -> None:
    async def body() -> None:
        pool, gate, ran = BlockingPool(2), threading.Event(), []

        def work(number: int) -> None:
            ran.append(number)
            gate.wait()

        tasks = [asyncio.create_task(pool.run(work, number)) for number in range(5)]
        await until(lambda: len(ran) == 2)
        assert pool.running == 2
        tasks[3].cancel()
        await until(tasks[3].done)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(ran) == [0, 1, 2, 4]  # two threads, in whichever order
        await pool.drain()

    run(body)


def test_one_that_was_left_holds_its_thread_and_is_waited_for(run: Run) -> None:
    async def body() -> None:
        pool, gate, began = BlockingPool(1), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            gate.wait()

        left = asyncio.create_task(pool.run(work))
        await until(began.is_set)
        left.cancel()
        await until(left.done)
        waiting, draining = asyncio.create_task(pool.run(int)), asyncio.create_task(pool.drain())
        await asyncio.sleep(0.01)
        assert pool.running == 1
        assert not waiting.done()
        assert not draining.done()
        gate.set()
        assert await waiting == 0
        await draining

    run(body)
