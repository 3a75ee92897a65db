"""Several calls at once, of which the first that fails speaks for all.

Not asyncio's TaskGroup, which it resembles: before CPython 3.13 one whose children fail while it ends leaves a cancellation
with its task that nobody takes back, and an `asyncio.timeout` around it then cancels the task in place of a TimeoutError. Here
the task that waits is never cancelled by us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

R = TypeVar("R")


async def together(calls: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Their results, in this order. If one fails the others are cancelled, and when all have ended its exception is raised. A
    cancellation of the caller is one of all, and goes before their exceptions."""
    loop = asyncio.get_running_loop()
    failed: list[BaseException] = []
    cancelled: asyncio.CancelledError | None = None

    def ended(task: asyncio.Task[R]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)

    tasks = [loop.create_task(call) for call in calls]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        while pending := [task for task in tasks if not task.done()]:
            if failed or cancelled is not None:
                for task in pending:
                    task.cancel()
            try:
                await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if failed:
            raise failed[0]
        return [task.result() for task in tasks]
    finally:
        failed.clear()  # or an exception, whose traceback has this frame, would be in a cycle
        del cancelled, tasks
