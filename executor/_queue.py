"""Queues: the declaration that a user writes, and the handle by which tasks get in."""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Hashable
from typing import Any, Literal, TypeVar

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor._core_cy import MEMBERSHIP, Core, Membership, QueueState
from clockworker.executor._eevdf_cy import MAX_SHARE
from clockworker.executor._join import JoinHandle
from clockworker.executor._schedulers_cy import Scheduler

T = TypeVar("T")
OnPanic = Literal["propagate", "catch"]


class Queue(msgspec.Struct, frozen=True):
    """The declaration of a queue.

    key: anything hashable; `executor.queue(key)` finds the queue by it.
    share: 1 to 10,000. While several queues have something to run, the core is divided in proportion.
    scheduler: who goes next inside the queue; `RunnableFifo()` unless given. One instance serves one queue.
    slice: seconds; how much the queue wants to run at a stretch. Shorter means served sooner, not more.
    on_panic: "propagate" or "catch"; the executor's unless given.
    """

    key: Hashable
    share: int = 1
    scheduler: Scheduler | None = None
    slice: float | None = None
    on_panic: OnPanic | None = None

    def __post_init__(self) -> None:
        try:
            hash(self.key)
        except TypeError:
            raise ConfigurationError(f"queue key {self.key!r} is not hashable") from None
        check_share(self.key, self.share)
        if self.scheduler is not None and not isinstance(self.scheduler, Scheduler):
            raise ConfigurationError(
                f"scheduler of queue {self.key!r} is {self.scheduler!r}; it must be an instance of a Scheduler, such as LAS()"
            )
        if self.slice is not None and not (
            isinstance(self.slice, int | float) and not isinstance(self.slice, bool) and 1e-6 <= self.slice <= 10
        ):
            raise ConfigurationError(
                f"slice of queue {self.key!r} is {self.slice!r}; it must be 0.000001 to 10 seconds"
            )
        check_on_panic(self.on_panic, optional=True)


def check_share(key: Hashable, share: object) -> None:
    if not isinstance(share, int) or isinstance(share, bool) or not 1 <= share <= MAX_SHARE:
        raise ConfigurationError(
            f"share of queue {key!r} is {share!r}; it must be a whole number from 1 to {MAX_SHARE:,}"
        )


def check_on_panic(value: object, optional: bool = False) -> None:
    if value not in ("propagate", "catch") and not (optional and value is None):
        raise ConfigurationError(f"on_panic is {value!r}; it must be 'propagate' or 'catch'")


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

    def context(self) -> contextvars.Context:
        """A copy of the current context in which whatever is started belongs here: a server's connections, for one."""
        context = contextvars.copy_context()
        context.run(MEMBERSHIP.set, self._membership)
        return context


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
