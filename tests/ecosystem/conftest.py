from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

import clockworker as cw
from tests.conftest import Run

T = TypeVar("T")

QUEUES = [cw.Queue("first"), cw.Queue("second", share=8)]


class Compare:
    """Runs a body on a plain loop, on one with an executor from birth, and in a task of a queue. All must return the same."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
        plain = self.run(body)

        def make() -> asyncio.AbstractEventLoop:
            return cw.new_event_loop(QUEUES, loop_factory=self.run.loop_factory)

        async def on_an_executor() -> T:
            result = await body()
            assert cw.current_executor().stats().polls > 0
            return result

        async def in_a_queue() -> T:
            async with cw.Executor(QUEUES) as executor:
                result = await executor.queue("second").spawn(body())
                await executor.drain()
                assert executor.stats().tasks == 0
                return result

        assert self.run(on_an_executor, loop_factory=make) == plain
        assert self.run(in_a_queue) == plain
        return plain


@pytest.fixture
def compare(run: Run) -> Compare:
    return Compare(run)
