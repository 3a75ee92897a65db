# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A queue that is held to a part of the core, though nobody else may want it: what a share cannot do.

A share says what a queue has at least, while others want the core; what they leave is the queue's. `Paced` says what it has at
most: a scheduler around the queue's own, that has nothing to give before its time has come. After a step that took e, at a
rate of r, the next one is due e / r after the last was (a leaky bucket: Turner, 1986; GCRA in ATM's terms). So its queue rests,
a timer wakes it, and to EEVDF it is one that sleeps.

What the queue could not use because others had the core is made up for, up to a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._runnable_cy import Runnable
from clockworker.executor._schedulers_cy import RunnableFifo, ScheduledTask, Scheduler, set_owner
from clockworker.executor._tasks_cy import QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_pop, fifo_push
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._schedulers_cy import fifo_pop, fifo_push

_LEAST = 1e-6  # of the core
_SLACK_NS = 5_000_000  # by how much a step may come too early, for those that came too late


@cython.final
@cython.cclass
class Paced(Scheduler):
    """Around a queue's scheduler: its steps have no more than `rate` of the core."""

    inner: Scheduler
    _core: Runnable
    _queue: QueueState
    _rate: float  # 1 or more: all of it
    _due_ns: int  # when the next step may run
    _released: bool
    _timer: asyncio.TimerHandle | None

    def __init__(self, inner: Scheduler, core: Runnable, queue: QueueState) -> None:
        self.inner = inner
        self._core = core
        self._queue = queue
        self._holds = True
        self._rate = 1.0
        self._due_ns = 0
        self._released = False
        self._timer = None

    def set_rate(self, rate: float) -> None:
        """So much of the core, from now on; 1 or more: all that it gets."""
        rate = max(rate, _LEAST)
        now = now_ns()
        if rate < 1.0 and self._due_ns > now:  # what it owes takes another time now
            self._due_ns = now + int((self._due_ns - now) * self._rate / rate)
        else:
            self._due_ns = 0
        self._rate = rate
        self._go_on()

    def push(self, task: ScheduledTask) -> None:
        self.inner.push(task)

    def pop(self) -> ScheduledTask:
        if self._rate < 1.0 and not self._released:
            now = now_ns()
            if self._due_ns > now:
                if self._timer is None:
                    loop: Any = self._core.loop
                    self._timer = loop.call_later((self._due_ns - now) / 1e9, self._go_on)
                return None  # type: ignore[return-value]
        return self.inner.pop()

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        if self._rate < 1.0:
            now = now_ns()
            self._due_ns = max(self._due_ns, now - elapsed_ns - _SLACK_NS) + int(elapsed_ns / self._rate)
        self.inner.observe(task, elapsed_ns)

    def forget_task(self, task: ScheduledTask) -> None:
        self.inner.forget_task(task)

    def forget_group(self, group: Hashable) -> None:
        self.inner.forget_group(group)

    def __len__(self) -> int:
        return len(self.inner)

    def _let_begin(self, task: ScheduledTask) -> None:
        self.inner._let_begin(task)

    def _let_go(self, all_of_them: bool) -> None:
        self._released = all_of_them
        self.inner._let_go(all_of_them)

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._core.reconsider(self._queue)


def begin_pacing(core: Runnable, queue: QueueState) -> Paced:
    """Put one around the scheduler of the queue."""
    inner = queue.scheduler
    if queue.fifo is not None:
        inner = RunnableFifo()
        while True:
            task = fifo_pop(queue.fifo)
            if task is None:
                break
            inner.push(task)
    paced = Paced(inner, core, queue)
    set_owner(paced, core)
    queue.use(paced)
    return paced


def end_pacing(paced: Paced) -> None:
    """Take it away again, unless it has been already."""
    queue = paced._queue
    paced._rate = 1.0
    if queue.scheduler is paced:
        inner = paced.inner
        if type(inner) is RunnableFifo:
            fifo = RunnableFifo()
            while len(inner):
                fifo_push(fifo, inner.pop())
            queue.use(fifo)
        else:
            queue.use(inner)
    paced._go_on()
