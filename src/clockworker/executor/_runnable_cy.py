# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What is runnable: from the seam into the queues.

A step or a wake-up that the seam has seen is kept in its task's state, and the state is pushed to the scheduler of its queue.
With its first runnable task a queue becomes active in EEVDF, and may preempt: the running step is asked to end, by
`should_yield`.

*Order.* A step never overtakes a callback that the loop was given before it. Without this asyncio's own `open_connection`
breaks, and so does `call_soon(callback); await sleep(0)`. While the loop holds callbacks that came after the pump, new steps
are held back, until the pump has gone behind those. The reverse is not kept: a step waits for its queue's turn, and
callbacks are in no queue.
"""

from __future__ import annotations

import contextvars
from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._cpython_cy import holds
from clockworker.executor._eevdf_cy import Choice, Eevdf, Entity
from clockworker.executor._members_cy import Members
from clockworker.executor._nested_cy import Nested
from clockworker.executor._schedulers_cy import Scheduler
from clockworker.executor._tasks_cy import JoinHandle, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import PyObject_GC_UnTrack
    from cython.cimports.clockworker.executor._registry_cy import leave_out_if_new
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_push
    from cython.cimports.clockworker.executor._seam_cy import is_of, task_of
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._pure import is_of, task_of
    from clockworker.executor._registry_cy import leave_out_if_new
    from clockworker.executor._schedulers_cy import fifo_push

# How long a queue goes on before it is compared with others: a fiftieth of the shortest slice that is given by default, and
# so many short steps that the comparison costs nothing a step.
_GRANULARITY_NS = 20_000
# One wait in so many is measured. A prime: tasks take turns in patterns, and those that repeat after 16 are common.
_SAMPLE_EVERY = 13
_HIDES = holds("gc")  # a C global when compiled


class Runnable(Members):
    """The queues of one executor. Its subclass sees to it that turns come (`_schedule`)."""

    queues: dict[Hashable, QueueState]
    _eevdf: Choice
    _scheduled: bool  # a turn is
    _held: list[JoinHandle]  # those whose steps wait until the pump is behind these callbacks
    _step_started: int  # of the step that runs
    _preempt: bool  # the running step

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self.queues = {}
        self._eevdf = Eevdf(_GRANULARITY_NS)
        self._scheduled = False
        self._held = []
        self._step_started = 0
        self._preempt = False

    def add_queue(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        """A queue more, before the first turn. catch: panics are left to whoever awaits."""
        queue = QueueState(key, scheduler, catch)
        queue.entity = self._eevdf.add(queue, share, slice_ns)
        self.queues[key] = queue
        return queue

    def nest(self) -> Nested:
        """Before the first queue: there will be groups of queues."""
        if self.queues:
            raise UsageError("there are queues already, and they are in no group")
        nested = Nested(_GRANULARITY_NS)
        self._eevdf = nested
        return nested

    def set_share(self, queue: QueueState, share: int) -> None:
        """From the next choice on."""
        self._eevdf.set_share(queue.entity, share)

    def is_busy(self) -> bool:
        """Whether any queue has something to run."""
        return self._eevdf.total_share != 0

    def take(self, callback: Any, argument: Any, context: contextvars.Context) -> bool:
        if self.debug:
            self._check_seam_thread()
        state = self.current
        if self._spawning is not None and argument is None:
            state = self._expected(task_of(callback, argument), context)
        elif state is None or not is_of(callback, argument, state.task):
            # Not the task that runs, which yields: the most frequent of all.
            state = self._table.find(callback, argument)
            if state is None:
                state = self._adopt(task_of(callback, argument), context)
                if state is None:
                    return False
                if argument is None:
                    leave_out_if_new(state.task)
        if state.queued:
            # A future has woken its task twice. In the loop's hands that does what it would without us, and no harm here.
            return False
        if cython.compiled and argument is None and _HIDES:
            PyObject_GC_UnTrack(callback)  # as the task is, see _table_cy
        state.callback = callback
        state.argument = argument
        state.queued = True
        if self._scheduled and not self.behind:  # the frequent case, spared a call
            self._push(state)
        else:
            self._enqueue(state)
        return True

    def _enqueue(self, state: JoinHandle) -> None:
        """Its step is to run."""
        state.queued = True
        if self._scheduled:
            if self.behind:
                self._hold(state)
            else:
                self._push(state)
        else:
            self._push(state)
            self._schedule()

    def _schedule(self) -> None:
        """See to it that a turn comes."""
        raise NotImplementedError

    def _push(self, state: JoinHandle) -> None:
        queue = state.membership.queue
        queue.pushes_to_sample -= 1
        if queue.pushes_to_sample == 0:
            queue.pushes_to_sample = _SAMPLE_EVERY
            state.pushed_ns = now_ns()
        if queue.fifo is not None:
            fifo_push(queue.fifo, state)
            queue.runnable += 1
        elif queue.built_in is not None and queue.built_in._put(state):
            queue.runnable += 1
        else:
            self._push_to_other(queue, state)
        if not queue.entity.active:
            self._eevdf.activate(queue.entity)
            if self.current is not None:
                self._consider_preemption(queue.entity)

    def _push_to_other(self, queue: QueueState, state: JoinHandle) -> None:
        """To a scheduler that may fail, or may call us back."""
        scheduler = queue.scheduler
        self._calling_out += 1
        try:
            scheduler.push(state)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
            return
        finally:
            self._calling_out -= 1
        if queue.scheduler is scheduler:  # else what has taken its place has found this one too
            queue.runnable += 1

    def reconsider(self, queue: QueueState) -> None:
        """What the queue's scheduler was holding may run now."""
        if queue.runnable and not queue.entity.active and self.loop is not None:
            self._eevdf.activate(queue.entity)
            if self.current is not None:
                self._consider_preemption(queue.entity)
            if not self._scheduled:
                self._schedule()

    def let_begin(self, state: JoinHandle) -> None:
        """The task has been aborted, and has to run to end. A scheduler that is holding it lets it go."""
        queue = state.membership.queue
        scheduler = queue.scheduler
        if not state.queued or state.held or not scheduler._holds:
            return
        self._calling_out += 1
        try:
            scheduler._let_begin(state)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        finally:
            self._calling_out -= 1
        self.reconsider(queue)

    def _hold(self, state: JoinHandle) -> None:
        state.held = True
        self._held.append(state)
        if not state.membership.queue.entity.active:
            # It might have preempted the running step. It cannot before the loop has had its turn, so let that come now.
            self._turn_must_end = 0

    def _admit(self) -> None:
        """What was held back enters the queues. The pump is about to go behind all that is queued with the loop."""
        self.behind = False
        if self._held:
            held = self._held
            self._held = []
            for state in held:
                state.held = False
                self._push(state)

    def _consider_preemption(self, woken: Entity) -> None:
        running = self.current.membership.queue  # type: ignore[union-attr]
        if not self._preempt and self._eevdf.outranks(woken, running.entity):
            self._preempt = True
            running.preemptions += 1

    def should_yield(self) -> bool:
        """Whether the running step should end soon: a queue with an earlier deadline has woken, the slice is used up, or
        the loop is due its turn. False outside of a step."""
        state = self.current
        if state is None:
            return False
        if self._preempt:
            return True
        now: int = now_ns()
        return now - self._step_started >= state.membership.queue.entity.slice_ns or now >= self._turn_must_end
