"""Runnable tasks go in an order that a seed gives.

asyncio wakes tasks in the order of what woke them, and tests pass because of it; another library, another queue or a busier
day makes another order. `Shuffle` is a scheduler that takes any runnable task next, which one as the seed says: the same seed
and the same program give the same order.

A queue whose declaration names a scheduler keeps that one's policy. What becomes runnable between two of its choices comes to
it in another order, and so do those that it holds for equal.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Iterable

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor import Queue, QueueGroup, RunnableFifo, ScheduledTask, Scheduler


class Shuffle(Scheduler):
    """A scheduler for tests. seed: gives the order. inner: the one whose policy is kept; without it any runnable task is as
    good as another."""

    def __init__(self, seed: int | str, inner: Scheduler | None = None) -> None:
        self._random = random.Random(str(seed))
        self._inner = inner if type(inner) is not RunnableFifo else None
        self._came: list[ScheduledTask] = []
        self._holds = inner is not None and inner._holds

    def push(self, task: ScheduledTask) -> None:
        """`task` is runnable, in no order yet."""
        self._came.append(task)

    def pop(self) -> ScheduledTask:
        """Any of them, or the inner scheduler's choice."""
        came = self._came
        if self._inner is None:
            last = len(came) - 1
            chosen = self._random.randrange(last + 1)
            came[chosen], came[last] = came[last], came[chosen]
            return came.pop()
        self._random.shuffle(came)
        while came:
            self._inner.push(came.pop())
        return self._inner.pop()

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        """To the inner scheduler."""
        if self._inner is not None:
            self._inner.observe(task, elapsed_ns)

    def forget_task(self, task: ScheduledTask) -> None:
        """To the inner scheduler."""
        if self._inner is not None:
            self._inner.forget_task(task)

    def forget_group(self, group: Hashable) -> None:
        """To the inner scheduler."""
        if self._inner is not None:
            self._inner.forget_group(group)

    def _let_begin(self, task: ScheduledTask) -> None:
        if self._inner is not None and task not in self._came:
            self._inner._let_begin(task)

    def _let_go(self, all_of_them: bool) -> None:
        if self._inner is not None:
            self._inner._let_go(all_of_them)

    def __len__(self) -> int:
        return len(self._came) + (len(self._inner) if self._inner is not None else 0)


def shuffled(queues: Iterable[Queue | QueueGroup], seed: int) -> list[Queue | QueueGroup]:
    """The same queues, whose tasks are shuffled: `cw.run(main(), queues=shuffled(queues, 7))`, on any loop.

    Which queue is next remains the executor's choice, by the time that steps take. `run(..., seed=7)` makes that repeat too.

    Raises ConfigurationError for a seed that is no whole number from 0 to 2**64 - 1.
    """
    check_seed(seed)
    numbers = itertools.count()

    def shuffle(declared: Queue | QueueGroup) -> Queue | QueueGroup:
        if isinstance(declared, QueueGroup):
            return msgspec.structs.replace(declared, queues=[shuffle(each) for each in declared.queues])
        return msgspec.structs.replace(declared, scheduler=Shuffle(f"{seed}/{next(numbers)}", declared.scheduler))

    return [shuffle(each) for each in queues]


def check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ConfigurationError(f"seed is {seed!r}; it must be a whole number from 0 to 2**64 - 1")
