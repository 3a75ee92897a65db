"""Join handles: what `spawn` returns, and what becomes of a task."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeVar

import msgspec

from clockworker._errors import TaskCancelled, TaskPanicked
from clockworker.executor._core_cy import TaskState

T = TypeVar("T")


class Ok(msgspec.Struct, Generic[T], frozen=True):
    """The outcome of a task that returned."""

    value: T


class JoinHandle(Generic[T]):
    """A spawned task, to wait for or to abort. Dropping the handle leaves the task running.

    `await handle` gives the task's value, raises the task's own exception, or `TaskCancelled` if the task was aborted. It
    may be awaited more than once, by several tasks. Cancelling one who waits does not touch the task.
    """

    __slots__ = ("_state",)

    def __init__(self, state: TaskState) -> None:
        self._state = state

    @property
    def task(self) -> asyncio.Task[T]:
        """The genuine asyncio task."""
        return self._state.task

    def __await__(self) -> Generator[Any, None, T]:
        task = self._state.task
        if not task.done():
            yield from self._new_waiter()
        if task.cancelled():
            raise TaskCancelled(f"{task.get_name()} was aborted")
        return task.result()  # type: ignore[no-any-return]

    async def outcome(self) -> Ok[T] | TaskPanicked | TaskCancelled:
        """Wait, and return what became of the task instead of raising it, for `match`."""
        task = self._state.task
        if not task.done():
            await self._new_waiter()
        if task.cancelled():
            return TaskCancelled(f"{task.get_name()} was aborted")
        exception = task.exception()
        return Ok(task.result()) if exception is None else TaskPanicked(exception)

    def abort(self) -> bool:
        """Cancel the task at its next await, or before its first step. False if it was done already.

        Raises UsageError from a thread other than the executor's.
        """
        self._state.core.check_thread("abort")
        return self._state.task.cancel()  # type: ignore[no-any-return]

    def done(self) -> bool:
        """True once the task has returned, raised or been cancelled."""
        return self._state.task.done()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<JoinHandle of {self._state.task!r}>"

    def _new_waiter(self) -> asyncio.Future[None]:
        # A future of our own instead of the task: cancelling one who waits on a task cancels the task.
        state = self._state
        waiter: asyncio.Future[None] = state.task.get_loop().create_future()
        if state.waiters is None:
            state.waiters = [waiter]
        else:
            state.waiters.append(waiter)
        return waiter
