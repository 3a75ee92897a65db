"""Event loops to compare: plain uvloop, and uvloop with an executor."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

import clockworker as cw

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


def on_loop(queues: Sequence[cw.Queue], main: Callable[[list[Spawn]], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a new loop with an executor of these queues, given how to spawn in each; without queues on a plain loop,
    given the loop's `create_task`, which costs less than asyncio's.

    `main` itself belongs to no queue.
    """

    async def run() -> T:
        if not queues:
            return await main([asyncio.get_running_loop().create_task])
        async with cw.Executor(queues) as executor:
            return await main([queue.spawn for queue in executor.queues()])

    gc.collect()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
