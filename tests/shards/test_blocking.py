from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import re
import threading
from collections.abc import Callable

import pytest

import clockworker as cw
from clockworker.shards.worker import _places
from clockworker.shards.worker._blocking import BlockingPool
from tests.conftest import Run, until


def raise_(error: BaseException) -> None:
    raise error


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
        assert await pool.run(int) == 0  # peers that have not drained yet may ask for it
        pool.close()
        with pytest.raises(cw.UsageError, match="after the shard had ended"):
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


def test_accounts_of_as_few_threads_take_turns(run: Run) -> None:
    async def body() -> None:
        pool, gate, ran = BlockingPool(1), threading.Event(), list[str]()

        async def call(name: str) -> None:
            with pool.calling(name, functools.partial(ran.append, name), account=name[0]) as future:
                await future

        first = asyncio.create_task(pool.run(gate.wait))
        await until(lambda: pool.running == 1)
        calls = [asyncio.create_task(call(name)) for name in ("a1", "a2", "a3", "b1", "c1", "c2")]
        await until(lambda: pool.waiting == 6)
        calls[1].cancel()
        await until(calls[1].done)
        gate.set()
        await asyncio.gather(first, *calls, return_exceptions=True)
        assert ran == ["a1", "b1", "c1", "a3", "c2"]
        assert pool.counts() == (0, 0)
        pool.close()

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


# What a function may end with, and what its caller gets.
ENDS: dict[str, tuple[BaseException, type[BaseException]]] = {
    "StopIteration": (StopIteration(1), RuntimeError),
    "StopAsyncIteration": (StopAsyncIteration(), StopAsyncIteration),
    "GeneratorExit": (GeneratorExit(), RuntimeError),
    "CancelledError": (asyncio.CancelledError(), RuntimeError),
    "InvalidStateError": (asyncio.InvalidStateError(), asyncio.InvalidStateError),
    "TimeoutError": (TimeoutError(), TimeoutError),
    "SystemExit": (SystemExit(3), SystemExit),
    "KeyboardInterrupt": (KeyboardInterrupt(), KeyboardInterrupt),
    "a group": (BaseExceptionGroup("all", [SystemExit()]), BaseExceptionGroup),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("executor", [False, True])
def test_whatever_a_function_raises_reaches_its_caller_and_gives_its_thread_back(
    run: Run, end: str, executor: bool
) -> None:
    raised, expected = ENDS[end]

    async def call(pool: BlockingPool) -> None:
        with pytest.raises(expected) as got:
            await pool.run(raise_, raised)
        assert raised in (got.value, got.value.__cause__)

    async def body() -> None:
        pool = BlockingPool(1)
        if executor:
            async with cw.Executor([cw.Queue("all")]) as running:
                await running.queue("all").spawn(call(pool))
        else:
            await call(pool)
        assert await pool.run(int) == 0
        assert (pool.running, pool.waiting) == (0, 0)
        pool.close()

    run(body)


def test_streaming_from_a_blocking_generator_ends(run: Run) -> None:
    async def body() -> None:
        pool, rows = BlockingPool(2), iter("ab")
        assert [await pool.run(next, rows) for _ in range(2)] == ["a", "b"]
        with pytest.raises(RuntimeError, match=r"builtins\.next raised StopIteration"):
            await pool.run(next, rows)
        assert await pool.run(next, rows, None) is None
        pool.close()

    run(body)


def test_calls_that_wait_for_a_thread_are_drained_too(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        pool, gate, done = BlockingPool(1), threading.Event(), []

        def work(number: int) -> int:
            gate.wait()
            done.append(number)
            return number

        calls = [asyncio.create_task(pool.run(functools.partial(work, number))) for number in range(4)]
        await until(lambda: pool.counts() == (1, 3))
        draining = asyncio.create_task(pool.drain())
        await until(lambda: "the stop waits" in caplog.text)  # and says for what, and where that is
        assert "drained_too.<locals>.body.<locals>.work (0." in caplog.text
        assert ", at threading.py:" in caplog.text
        assert ", and 3 calls for a thread" in caplog.text
        calls.append(asyncio.create_task(pool.run(work, 4)))  # what drains may begin more
        calls[1].cancel()
        await asyncio.sleep(0)
        assert not draining.done()
        gate.set()
        await draining
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results.pop(1), asyncio.CancelledError)
        assert results == [0, 2, 3, 4]
        assert done == [0, 2, 3, 4]
        pool.close()

    with caplog.at_level(logging.WARNING):
        run(body)


def test_where_no_thread_can_be_started(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        pool, gate, began = BlockingPool(2), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            gate.wait()

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match=r"no thread can be started for builtins\.int: can't start new thread"):
            await pool.run(int)
        assert (pool.running, pool.waiting) == (0, 0)
        await pool.drain()
        monkeypatch.setattr(threading.Thread, "start", start)
        first = asyncio.create_task(pool.run(work))
        await until(began.is_set)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        second = asyncio.create_task(pool.run(int))  # waits for the thread that there is
        await until(lambda: pool.waiting == 1)
        gate.set()
        await first
        assert await second == 0
        await pool.drain()
        pool.close()

    run(body)


def test_a_long_wait_for_a_thread_is_said(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_places, "LONG_WAIT_S", 0.02)

    class Odd:
        """A callable without a name, and that does not like to be asked."""

        def __call__(self) -> None:
            gate.wait()

        def __getattr__(self, name: str) -> Callable[[], None]:
            raise OSError(name)

    gate = threading.Event()

    async def body() -> None:
        pool = BlockingPool(1)
        calls = [asyncio.create_task(pool.run(each)) for each in (Odd(), int, float)]
        await until(lambda: "has waited" in caplog.text)
        assert re.search(r"run_blocking\(builtins.int\) has waited \d+\.\d s for a thread, as 2 calls do", caplog.text)
        assert "--blocking-threads is 1" in caplog.text
        assert re.search(r"\.Odd \(\d+\.\d s, at threading\.py:", caplog.text)
        gate.set()
        await asyncio.gather(*calls)
        pool.close()

    run(body)


def test_threads_end_when_the_pool_is_closed(run: Run) -> None:
    async def body() -> None:
        pool = BlockingPool(3)
        threads = set()
        for _ in range(3):
            threads |= set(await asyncio.gather(*(pool.run(threading.current_thread) for _ in range(3))))
        assert all(thread.name.startswith("blocking_") for thread in threads)
        pool.close()
        await until(lambda: not any(thread.is_alive() for thread in threads))

    run(body)
