# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The core: when turns come, and what makes one executor of all its parts.

*The pump* is one callback on the real loop, there only while something is runnable. It takes a turn of steps; then the loop
has its own, for sockets and timers.

*Lingering.* A turn that ends with nothing runnable, but has given the loop a callback, asks for the next turn all the same,
behind that callback. Most such callbacks wake the task that gave them: then its step runs in the same round of the loop, and
needs no round more, which is the better part of what a lone wake-up costs. It still comes behind all that the loop was given
before. If nothing has come, that was in vain; then as many chances pass, one, three, seven and up to 63, before the next is
taken.

The core is one object. Its parts are classes, each in a module of its own, and each adds to the one before:

    Seam        what asyncio asks of its loop for the sake of a task
    Members     which tasks are ours, and the place of each
    Runnable    into the queues
    Singles     steps of no task
    Steps       out of the queues: which step is next, and running it
    Slices      steps of preemptive queues, in pieces
    Core        when

Rejected: an object for each part. A step goes through most of them in some hundred nanoseconds, and they share what they know
of it; from one object to another each field would be an indirection, and each call one through a table. What is done for every
step is in two modules only, Runnable's on its way into a queue and that of Steps from there on: calls within one are cheapest.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor import _clock_cy as clock
from clockworker.executor import _registry_cy as registry
from clockworker.executor._members_cy import check_schedulers
from clockworker.executor._schedulers_cy import Scheduler, set_owner
from clockworker.executor._slices_cy import Slices
from clockworker.executor._tasks_cy import QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import PyThread_get_thread_ident, call_in_context, new_pump
else:
    from threading import get_ident as PyThread_get_thread_ident

    from clockworker.executor._clock_cy import now_ns

compiled: bool = cython.compiled

# When turns behind callbacks are in vain, at most so many chances pass.
_LONGEST_DOUBT = 63
# Whether the loop is in debug mode is looked up in one turn of so many.
_LOOK_EVERY = 16
_CONTEXT = ("context",)

_attaching = threading.Lock()  # of two threads' executors with one scheduler, one is the first


@cython.final
@cython.cclass
class Core(Slices):
    """The pump of one executor, and its end of the seam. `Executor` is its public face."""

    turns: int
    driver_ns: int  # in which tasks were runnable and the loop had its turn
    stirred: Callable[[], None] | None  # told once, of the next work after a sleep, before it is done
    _was_idle: bool
    _paused: bool
    _stepped_back: bool
    _schedulers: list[Scheduler]  # that work for us while we have a loop
    _pump_context: contextvars.Context
    _pump_callback: Callable[[], None] | None  # `_pump`, while we have a loop

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(owner, driver_yield_ns, max_polls)
        self.turns = 0
        self.driver_ns = 0
        self.stirred = None
        self._was_idle = False
        self._paused = False
        self._stepped_back = False
        self._schedulers = []
        # One empty context for all turns: copying the caller's would keep its variables alive.
        self._pump_context = contextvars.Context()
        self._pump_callback = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop: from now on steps of members come here."""
        clock.begin()
        with _attaching:
            check_schedulers(self.queues.values(), self)
            self.take_call_soon(loop)
            for queue in self.queues.values():
                set_owner(queue.scheduler, self)
                self._schedulers.append(queue.scheduler)
        self._pump_callback = new_pump(core_pump, self) if cython.compiled else self._pump  # type: ignore[name-defined]  # noqa: F821
        self._turn_ended = now_ns()
        self.steal.begin(self._turn_ended)
        registry.attach(self)
        self._maker.attach(loop)
        self._get_task_factory = loop.get_task_factory
        self.accepting = True

    def is_attached(self) -> bool:
        """Whether it has a loop that may still run."""
        return self.loop is not None and not self.loop.is_closed()

    def detach(self) -> None:
        """Give the loop its own `call_soon` back. Tasks that are still pending go on as the loop's own."""
        if self.loop is None:
            return
        self.accepting = False
        self.give_call_soon_back()
        self._admit()
        self.end_slices()
        for queue in self.queues.values():
            if queue.scheduler._holds:
                self._let_all_go(queue, True)
            while queue.runnable:
                state = self._take(queue)
                if state is None:
                    break
                callback, argument = state.callback, state.argument
                state.queued = False
                if state.single:
                    self._leave_single(state)
                    continue
                state.callback = None
                state.argument = None
                try:
                    self.pass_on(callback, () if argument is None else (argument,), state.context)
                except BaseException as error:
                    self.report("a task could not be given back to its loop", error)
            if queue.scheduler._holds:
                self._let_all_go(queue, False)
            if queue.entity.active:
                self._eevdf.deactivate(queue.entity)
        registry.detach(self)
        for state in self._table.states():
            self._depart(state)
            if state.first_waiter is not None:
                state.release_at_end()
        self._table.clear()
        self._spare.clear()
        self._maker.detach()
        self.steal.meter.close()
        for scheduler in self._schedulers:
            set_owner(scheduler, None)
        self._schedulers.clear()
        self._pump_callback = None
        self.loop = None  # not before: a scheduler that fails even now is reported to it
        self._end_program()

    def _let_all_go(self, queue: QueueState, all_of_them: bool) -> None:
        scheduler = queue.scheduler
        try:
            scheduler._let_go(all_of_them)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)

    def pause(self) -> None:
        """Take no more turns. What becomes runnable is kept."""
        self._paused = True

    def resume(self) -> None:
        """Take turns again."""
        self._paused = False
        if self._eevdf.total_share:
            self.wake()

    def wake(self) -> None:
        """Make sure that a turn comes, though nothing may be runnable: the source has something to do."""
        if not self._scheduled and self.loop is not None:
            self._schedule()

    def take_turn(self) -> None:
        """Take a turn at once, in a callback of the loop's that has nothing else to do; or later, if one has been asked for."""
        if self._scheduled or self._paused or self.loop is None or self.current is not None:
            return
        if self.stirred is not None:
            self._stir()
        self._scheduled = True
        self.behind = False
        self._pump()

    def _schedule(self) -> None:
        if not self._paused:
            if self.stirred is not None:
                self._stir()
            self._ask_for_turn()
            self._scheduled = True
            self.behind = False

    def _ask_for_turn(self) -> None:
        """Of the loop."""
        if cython.compiled:
            call_in_context(self._loop_call_soon, self._pump_callback, self._pump_context, _CONTEXT)
        else:
            self._loop_call_soon(self._pump_callback, context=self._pump_context)

    def _stir(self) -> None:
        stirred, self.stirred = self.stirred, None
        try:
            stirred()  # type: ignore[misc]
        except BaseException as error:
            self.report("who waited for work failed when told of it", error)

    def _pump(self) -> None:
        """One turn."""
        if self.loop is None or self._paused:
            self._scheduled = False
            self._admit()
            return
        if self._held and not self._stepped_back:
            # Some steps came after callbacks that came after this turn was asked for: once, the callbacks go first, so that
            # the steps need not wait for a whole turn of others.
            self._stepped_back = True
            self._admit()
            self._ask_for_turn()
            return
        self._stepped_back = False
        if self._lingers:
            self._lingers = False
            if self._eevdf.total_share:
                self._doubt = 0
            else:
                self._doubt = self._chances = min(2 * self._doubt + 1, _LONGEST_DOUBT)
                if self.source is None:
                    self._scheduled = False
                    self.behind = False
                    return
        self._thread = PyThread_get_thread_ident()
        started = now_ns()
        if started - self._turn_ended >= self.steal.long_ns or started < self.steal.alert_until:
            self._passed(started - self._turn_ended, started)
            started = now_ns()  # no step pays for it
        if self.turns:
            if self._was_idle:
                self.idle_ns += started - self._turn_ended
            else:
                self.driver_ns += started - self._turn_ended
        if self.turns % _LOOK_EVERY == 0:
            self.debug = self.loop.get_debug()
        self.turns += 1
        self._turn_ended = 0
        try:
            idle = self._run_turn(started)
        except BaseException:
            # The source of work has failed. What is runnable stays so.
            self.current = None
            if self.source is not None:
                self.source.turn_failed()
            if self.loop is not None:
                self._admit()
                self._schedule()
            self._end_turn(started)
            raise
        self._end_turn(started)
        self._was_idle = self._eevdf.total_share == 0
        self._admit()
        if idle:
            self._scheduled = False
        elif self.loop is not None:
            self._ask_for_turn()
        if self._ending is not None:
            self._end_program()

    def _end_turn(self, started: int) -> None:
        if self._carrier is not None:
            self._leave_carrier()
        if self._turn_ended == 0:
            self._turn_ended = now_ns()
        if self.tracer is not None:
            self._trace_turn(started, self._turn_ended)

    def _end_program(self) -> None:
        """Raise what ends it, on the way out of the loop, if something does."""
        error, self._ending = self._ending, None
        if error is not None:
            raise error
