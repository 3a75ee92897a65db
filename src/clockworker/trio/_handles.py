"""Handles of running queues and groups, through which tasks get in."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable
from typing import Any, TypeVar

import trio

from clockworker.executor._queue import check_share
from clockworker.trio._gate import Gate
from clockworker.trio._steps_cy import Membership, QueueState
from clockworker.trio._tasks import MEMBERSHIP, JoinHandle

T = TypeVar("T")


class _NextStep:
    """Awaited, it ends the step; no checkpoint for cancellation."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return trio.lowlevel.cancel_shielded_checkpoint().__await__()  # noqa: ASYNC105


class GroupHandle:
    """A place for tasks: a queue, and a group within it. Tasks of one group share one account in the scheduler. Made
    by the executor: `executor.queue(key).group(key)`."""

    def __init__(self, gate: Gate, membership: Membership) -> None:
        self._gate = gate
        self._membership = membership

    @property
    def key(self) -> Hashable:
        """The group's key; of a queue's own handle, the queue's."""
        return self._membership.group

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> JoinHandle[T]:
        """Start a task here, in the executor's nursery. The tasks that it starts in turn, in nurseries of its own, are here
        too.

        name: the task's; that of the coroutine unless given.

        Raises TypeError if it is given no coroutine, UsageError if the executor is not running, or runs in another thread: from
        there `trio.from_thread.run_sync(queue.spawn, coroutine)`.
        """
        return self._gate.spawn(self._membership, coroutine, name)

    def start_soon(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> None:
        """As a nursery's: start a task here that runs `async_fn(*args)`. So a queue or a group is a `handler_nursery` for
        `trio.serve_tcp` and its like, and each connection is a task of it. name: the task's, as a nursery's.

        Raises UsageError as `spawn` does."""
        self._gate.start_soon(self._membership, async_fn, args, name)

    def switch_to(self) -> Awaitable[None]:
        """Move the task that calls this here, and those that it starts from now on.

        `await queue.switch_to()` goes on in the new queue; without `await`, the move takes effect at the next one. Raises
        UsageError if the caller is in no queue of this executor.
        """
        self._gate.switch(self._membership)
        return _NextStep()

    def context(self) -> contextvars.Context:
        """A copy of the current context in which whatever is started belongs here: `context.run(nursery.start_soon, work)`
        starts a task of this queue in a nursery of yours."""
        context = contextvars.copy_context()
        context.run(MEMBERSHIP.set, self._membership)
        return context


class QueueHandle(GroupHandle):
    """A running queue. Made by the executor: `executor.queue(key)`."""

    def __init__(self, gate: Gate, queue: QueueState) -> None:
        super().__init__(gate, Membership(gate, queue, None))
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
        check_share(f"queue {self._queue.key!r}", share)
        self._gate.check_thread("setting the share")
        self._gate.set_share(self._queue, share)

    def group(self, key: Hashable) -> GroupHandle:
        """The group of that key, which exists for as long as it has tasks."""
        return GroupHandle(self._gate, self._gate.group(self._queue, key))

    def __repr__(self) -> str:
        return f"<Queue {self._queue.key!r} share={self.share} runnable={self._queue.runnable}>"
