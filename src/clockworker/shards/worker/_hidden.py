"""Tasks of ours that carry the application, and are no business of its.

Much code that ends a program cancels all tasks but its own, and waits for them (`asyncio.all_tasks`). Of ours one waits for
`main` to return: the two would wait for each other until the grace is over. asyncio keeps its list of tasks by two functions
that it documents for those who write tasks of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable


def hide(task: asyncio.Task[object] | None) -> None:
    """`asyncio.all_tasks` does not have it any more."""
    if task is not None:
        asyncio.tasks._unregister_task(task)


async def all_of(coroutines: Iterable[Coroutine[object, object, None]]) -> None:
    """Wait for the end of each, in hidden tasks."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in coroutines]
    for task in tasks:
        hide(task)
    await asyncio.gather(*tasks)
