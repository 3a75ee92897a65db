# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Handles of running queues and groups, through which tasks get in."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Coroutine, Generator, Hashable
from typing import Any, TypeVar

from clockworker.executor._core_cy import Core
from clockworker.executor._join import JoinHandle
from clockworker.executor._queue import check_share
from clockworker.executor._schedulers_cy import Scheduler
from clockworker.executor._tasks_cy import Membership, QueueState

T = TypeVar("T")


class _NextStep:
    """Awaited, it ends the step."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


class GroupHandle:
    """A place for tasks: a queue, and a group within it. Tasks of one group share one account in the scheduler."""

    _core: Core
    _membership: Membership

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError(f"a {type(self).__name__} is not made: executor.queue(key), and its group(key), give one")

    @property
    def key(self) -> Hashable:
        """The group's key; of a queue's own handle, the queue's."""
        return self._membership.group

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> JoinHandle[T]:
        """Start a task here. The tasks that it starts in turn, through any library, are here too.

        name: the task's, for logs, traces and `asyncio.all_tasks()`; asyncio makes one unless given.

        Raises TypeError if it is given no coroutine, UsageError if the executor is not running, or runs in another thread: from
        there `loop.call_soon_threadsafe`, or `asyncio.run_coroutine_threadsafe` of a coroutine that spawns.
        """
        return self._core.spawn(self._membership, coroutine, name)  # type: ignore[return-value]

    def switch_to(self) -> Awaitable[None]:
        """Move the task that calls this here, and those that it starts from now on.

        `await queue.switch_to()` goes on in the new queue; without `await`, the move takes effect at the next one. Raises
        UsageError if the caller is in no queue of this executor.
        """
        self._core.switch(self._membership)
        return _NextStep()

    def context(self) -> contextvars.Context:
        """A copy of the current context in which whatever is started belongs here: a server's connections, for one."""
        return self._membership.context()


class QueueHandle(GroupHandle):
    """A running queue: `executor.queue(key)`."""

    _queue: QueueState

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
        check_share(f"queue {self._queue.key!r}", share)
        self._core.check_thread("setting the share")
        self._core.set_share(self._queue, share)

    @property
    def scheduler(self) -> Scheduler:
        """Who decides which of the queue's tasks is next. After a failure it is the one that has taken over."""
        return self._queue.scheduler

    def group(self, key: Hashable) -> GroupHandle:
        """The group of that key, which exists for as long as it has tasks."""
        return group_handle(self._core, self._core.group(self._queue, key))

    def __repr__(self) -> str:
        return f"<Queue {self._queue.key!r} share={self.share} runnable={self._queue.runnable}>"


def group_handle(core: Core, membership: Membership) -> GroupHandle:
    """The handle of a group that the core has, or will have when it has tasks."""
    handle: GroupHandle = GroupHandle.__new__(GroupHandle)
    handle._core = core
    handle._membership = membership
    return handle


def queue_handle(core: Core, queue: QueueState) -> QueueHandle:
    """The handle of a queue of the core."""
    handle: QueueHandle = QueueHandle.__new__(QueueHandle)
    handle._core = core
    handle._membership = Membership(core, queue, None)
    handle._queue = queue
    return handle
