# cython: language_level=3, annotation_typing=False
"""Handles: of a queue or group, to spawn tasks; of a task, to wait for it or abort it.

Compiled, these are still Python classes, so that they can be generic: only their methods are C.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Coroutine, Generator, Hashable
from typing import Any, Generic, TypeVar

import msgspec

from clockworker._errors import TaskCancelled, TaskPanicked
from clockworker.executor._core_cy import Core, Membership, QueueState, TaskState
from clockworker.executor._queue import check_share

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
        try:
            return task.result()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
        raise TaskCancelled(f"{task.get_name()} was aborted")

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
        return self._state.task.cancel()

    def done(self) -> bool:
        """True once the task has returned, raised or been cancelled."""
        return self._state.task.done()

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


class _NextStep:
    """Awaited, it ends the step."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


class GroupHandle:
    """A place for tasks: a queue, and a group within it. Tasks of one group share one account in the scheduler."""

    __slots__ = ("_core", "_membership")

    def __init__(self, core: Core, membership: Membership) -> None:
        self._core = core
        self._membership = membership

    @property
    def key(self) -> Hashable:
        """The group's key; of a queue's own handle, the queue's."""
        return self._membership.group

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> JoinHandle[T]:
        """Start a task here. The tasks that it starts in turn, through any library, are here too.

        Raises TypeError if it is given no coroutine, UsageError if the executor is not running.
        """
        return JoinHandle(self._core.spawn(self._membership, coroutine, name))

    def switch_to(self) -> Awaitable[None]:
        """Move the task that calls this here, and those that it starts from now on.

        `await queue.switch_to()` goes on in the new queue; without `await`, the move takes effect at the next one. Raises
        UsageError if the caller is in no queue of this executor.
        """
        self._core.switch(self._membership)
        return _NextStep()

    def context(self) -> contextvars.Context:
        """A copy of the current context in which whatever is started belongs here: a server's connections, for one."""
        return self._core.context(self._membership)


class QueueHandle(GroupHandle):
    """A running queue: `executor.queue(key)`."""

    __slots__ = ("_queue",)

    def __init__(self, core: Core, queue: QueueState) -> None:
        super().__init__(core, Membership(core, queue, None))
        self._queue = queue

    @property
    def key(self) -> Hashable:
        """The queue's key."""
        return self._queue.key

    @property
    def share(self) -> int:
        """The queue's share. Setting it takes effect at the next step; what the queue is owed stays."""
        return self._queue.entity.share

    @share.setter
    def share(self, share: int) -> None:
        check_share(self._queue.key, share)
        self._core.set_share(self._queue, share)

    def group(self, key: Hashable) -> GroupHandle:
        """The group of that key, which exists for as long as it has tasks."""
        return GroupHandle(self._core, self._core.group(self._queue, key))

    def __repr__(self) -> str:
        return f"<Queue {self._queue.key!r} share={self.share} runnable={self._queue.runnable}>"
