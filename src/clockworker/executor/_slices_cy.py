# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Slices: a step of a preemptive queue is cut where it has had its time, and goes on when the queue's turn comes again.

    alarm       when (`_alarm_cy`)
    refusal     where not: a lock is held (`_locks_cy`), guarded code (`_guard_cy`), `no_preempt`, and what is below
    fiber       what is cut

A *fiber* is a greenlet in which all steps of one queue run, one after the other. The signal's handler, which the interpreter
calls between two instructions of the step, switches to the greenlet that runs the loop, the *hub*. There the slice is charged
like a step. `queue.suspended` is what was cut; it is taken before the scheduler is asked (`_take`), so what was cut is finished
before any other step of the queue begins, and steps of one queue never interleave but at awaits. greenlet keeps for each fiber
what belongs to a stack of Python: frames, the exception that is handled, the context, the depth of recursion. asyncio's current
task is changed here.

To other code a cut is what another thread would be: somebody runs between two instructions. Only that the thread is the same,
so locks have the same owner, hence the rules, and `threading.local` shows the foreground's values.

*How long.* A queue's own `slice`; else a millisecond, and four of them when nobody has wanted the core for a while: no other
queue was runnable, and the loop's turns took no longer than empty ones. Whoever comes then waits for up to four, once.

*Refused* cuts are tried again after 200 us, and half as often each time, down to 2 ms; one that was refused because of a lock
is made when the lock is released.

The promise, the price, and what is not protected are in docs/preemption.md.

Rejected: a thread for each step, with a baton: nothing stops a thread at its eval breaker and keeps it there. A fiber for each
task, so that short steps overtake long ones of their queue: then any two steps may interleave.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor import _alarm_cy, _locks_cy
from clockworker.executor._cpython_cy import find_current_tasks, holds
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._preempt import NO_PREEMPT
from clockworker.executor._steps_cy import Steps
from clockworker.executor._tasks_cy import JoinHandle, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._alarm_cy import (
        alarm,
        alarm_drain,
        alarm_due,
        alarm_now,
        alarm_now_due,
    )
    from cython.cimports.clockworker.executor._clock_cy import is_wound, now_ns
    from cython.cimports.clockworker.executor._greenlet import (
        current_greenlet,
        import_greenlet,
        new_greenlet,
        switch_deep,
        switch_to,
    )
    from cython.cimports.clockworker.executor._guard_cy import is_guarded, is_tracing
    from cython.cimports.clockworker.executor._locks_cy import forget_all, held, is_any_held
    from cython.cimports.clockworker.executor._native import PyThread_get_thread_ident, run_in_context
    from cython.cimports.clockworker.executor._seam_cy import is_done
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._seam_cy import is_done

_DEFAULT_NS = 1_000_000
# Alone a slice is longer, after so many in which nobody came; by this factor.
_QUIET = 16
_GROWTH = 4
_DOUBT = 4  # so many quiet ones are as good as one in which somebody may have come
# A turn of the loop in which something was done takes so much longer than an empty one.
_NOISE_NS = 5_000
_RETRY_NS = 200_000
_LOOK_EVERY = 64  # cuts
_NEVER_NS = 1 << 62
_LONGEST_RETRY_NS = 2_000_000

_current_tasks = find_current_tasks() if holds("current") else None
# Switched off one by one by tests (`switch_rule`).
_rules = {"lock", "guarded", "no_preempt", "tracing", "gc", "executor", "task"}
_by_hand = False  # a test asks for each cut (`ask`), and no alarm rings

_running: Fiber | None = None  # in which a slice runs
_users = 0  # executors with preemptive queues that have their loops
_main_thread = threading.main_thread().ident or 0
_collecting = False  # garbage: finalizers run, of whatever the collector has found


@cython.final
@cython.cclass
class Fiber:
    """Where the steps of one preemptive queue run."""

    core: Slices
    queue: QueueState
    slice_ns: int
    may_grow: bool  # the slice, when nobody else wants the core
    greenlet: Any  # None: not begun yet
    at: Any  # the greenlet to go on in: another if the step has begun its own
    hub: Any  # the greenlet that waits for the slice to end
    state: JoinHandle | None  # whose step it has begun
    callback: Any
    argument: Any
    cuttable: bool
    finished: bool  # the step
    error: BaseException | None  # that the step has let out
    task: Any  # asyncio's current one, when the step was cut
    thrown: BaseException | None  # into the step, when it goes on
    elapsed_ns: int  # of the step, in all of its slices
    slices: int
    retry_ns: int
    cpu_ns: int  # of the thread, when the step was cut
    decisions: int  # the core's, then
    quiet: int  # slices in which nobody came, less _DOUBT for each in which somebody may have
    shortest_gap_ns: int  # of CPU time, between two of them

    def __init__(self, core: Slices, queue: QueueState, slice_ns: int) -> None:
        self.core = core
        self.queue = queue
        self.slice_ns = slice_ns or _DEFAULT_NS
        self.may_grow = slice_ns == 0
        self.greenlet = None
        self.at = None
        self.hub = None
        self.state = None
        self.callback = None
        self.argument = None
        self.cuttable = False
        self.finished = True
        self.error = None
        self.task = None
        self.thrown = None
        self.elapsed_ns = 0
        self.slices = 0
        self.retry_ns = 0
        self.cpu_ns = 0
        self.decisions = 0
        self.quiet = 0
        self.shortest_gap_ns = 0

    def run(self) -> None:
        """What the greenlet does: one step, each time that it is switched to with one."""
        while self.state is not None:
            if self.state.single:
                self.error = self.core._run_single(self.state)
            else:
                self.error = run_in_context(self.callback, self.argument, self.state.context)
            self.callback = None
            self.argument = None
            self.finished = True
            switch_to(self.hub)

    def go(self, slice_ns: int, started: int) -> None:
        """Run the step until it is cut, or finished. slice_ns: 0 if it is not to be cut.

        A loop that runs within a step (nest_asyncio) cuts nothing.
        """
        global _running
        outer = _running
        self.finished = False
        self.hub = current_greenlet()
        if outer is not None:
            outer_could = outer.cuttable
            outer.cuttable = False
        else:
            self.cuttable = slice_ns != 0
            self.retry_ns = _RETRY_NS
            _running = self
            held.tracking = True
            if slice_ns and not _by_hand and not is_wound():
                alarm_due(cython.address(alarm), started + slice_ns)
            else:
                alarm.due_ns = _NEVER_NS
        try:
            if self.greenlet is None:
                self.greenlet = self.at = new_greenlet(self.run)
                switch_deep(self.greenlet)
            else:
                switch_to(self.at)
        except BaseException:
            self.greenlet = None  # it has ended, and the step with it
            self.finished = True
            raise
        finally:
            if outer is not None:
                outer.cuttable = outer_could
            else:
                held.tracking = False
                alarm.due_ns = 0
                _running = None
            self.hub = None
            if self.finished:
                self.at = self.greenlet

    def end(self) -> None:
        """No more steps: the greenlet ends, and another loop's steps get a new one."""
        greenlet, self.greenlet, self.at = self.greenlet, None, None
        if greenlet is not None:
            switch_to(greenlet)

    def refusal(self, frame: Any) -> str | None:
        """Why the step is not to be cut here; None if it is. frame: the innermost, if there is any in Python."""
        state: JoinHandle = self.state  # type: ignore[assignment]
        if not self.cuttable:
            return "loop"
        if state.membership.queue is not self.queue:
            return "moved"
        if self.core.is_within() and "executor" in _rules:
            return "executor"
        if _collecting and "gc" in _rules:
            return "gc"
        if is_tracing() and "tracing" in _rules:
            return "tracing"
        mark = NO_PREEMPT.get()
        if mark is not None and "no_preempt" in _rules and mark() is current_task(self.core.loop):
            return "no_preempt"
        if is_any_held() and "lock" in _rules:
            held.wanted = True
            return "lock"
        if is_guarded(frame) and "guarded" in _rules:
            return "guarded"
        return None

    def cut(self) -> None:
        """Leave the step for the hub. It goes on here."""
        self.at = current_greenlet()
        switch_to(self.hub)
        if self.thrown is not None:
            error, self.thrown = self.thrown, None
            raise error


def current_task(loop: Any) -> Any:
    """asyncio's current task of the loop."""
    return asyncio.current_task(loop) if _current_tasks is None else _current_tasks.get(loop)


def on_alarm(number: int, frame: Any) -> None:
    """The signal's handler, which the interpreter calls between two instructions of the main thread."""
    fiber = _running
    if frame is not None and type(frame) is not FrameType:
        raise TypeError("on_alarm is called by the interpreter alone")
    alarm_drain(cython.address(alarm))
    now = alarm_now()
    if fiber is None or now < alarm.due_ns:
        return  # the slice has ended meanwhile, and this may be the next one
    reason = fiber.refusal(frame)
    if reason is None:
        if fiber.queue.cuts % _LOOK_EVERY == 0:
            _alarm_cy.stand_in()  # a loop may have begun to run, or to handle signals
        fiber.cut()
        return
    refusals = fiber.queue.refusals
    refusals[reason] = refusals.get(reason, 0) + 1
    if _by_hand or is_wound():
        alarm.due_ns = _NEVER_NS
        return
    alarm_due(cython.address(alarm), now + fiber.retry_ns)
    fiber.retry_ns = min(2 * fiber.retry_ns, _LONGEST_RETRY_NS)


def ask() -> None:
    """As if the slice that runs had had its time: it is cut when this returns, if nothing forbids it. For tests."""
    if _running is not None and _running.cuttable:
        alarm_now_due(cython.address(alarm))


def cut_by_hand(on: bool) -> None:
    """Whether only `ask` cuts. For tests."""
    global _by_hand
    _by_hand = on


def switch_rule(name: str, on: bool) -> None:
    """Whether cuts are refused by this rule: off, a test shows what it is good for."""
    if on:
        _rules.add(name)
    else:
        _rules.remove(name)


def _on_collection(phase: str, info: object) -> None:
    global _collecting
    _collecting = phase == "start"


# Of the process: one alarm, for all executors of the main thread.


def _check_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "preemptive queues run in the main thread, for signals come there, and this loop is of the thread "
            f"{threading.current_thread().name!r}"
        )


def _begin() -> None:
    global _users
    _check_main_thread()
    if _users == 0:
        import_greenlet()
        _alarm_cy.begin(on_alarm)
        _locks_cy.wrap()
        gc.callbacks.append(_on_collection)
    _users += 1


def _end() -> None:
    global _users
    if _users:
        _users -= 1
        if _users == 0:
            _stop(False)


def _stop(forked: bool) -> None:
    global _collecting
    gc.callbacks.remove(_on_collection)
    _collecting = False
    _locks_cy.unwrap()
    _alarm_cy.end(forked)


def _forked() -> None:
    """In a child process: nothing is cut any more, for the alarm is its parent's."""
    global _running, _users
    if _users:
        _users = 0
        _running = None  # in whose step it was forked: what that goes on with is not cut
        _stop(True)


os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def _as_running(loop: Any) -> Iterator[None]:
    """For a step of a loop that may not be running, and may be closed by a task of another. From CPython 3.14 on the current
    task is a field of the thread, and of the loop that runs there."""
    outer = asyncio._get_running_loop()
    if _current_tasks is not None or outer is loop:
        yield
        return
    task: Any = None if outer is None else asyncio.current_task(outer)
    if task is not None:
        asyncio._leave_task(outer, task)  # type: ignore[arg-type]
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)
        if task is not None:
            asyncio._enter_task(outer, task)  # type: ignore[arg-type]


class Slices(Steps):
    """The preemptive queues of one executor."""

    _slicing: bool  # they run
    _loop_close: Any
    _our_close: Any
    _loop_run_forever: Any
    _our_run_forever: Any

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(owner, driver_yield_ns, max_polls)
        self._slicing = False
        self._loop_close = None
        self._our_close = None
        self._loop_run_forever = None
        self._our_run_forever = None

    def make_preemptive(self, queue: QueueState, slice_ns: int) -> None:
        """Steps of the queue are cut from the next `attach` on. slice_ns: 0 for the default."""
        queue.preemptive = True
        queue.fiber = Fiber(self, queue, slice_ns)
        queue.whole_step = Histogram()

    def is_within(self) -> bool:
        """Whether the step is within the executor, or in what the executor has called."""
        return self._spawning is not None or self._calling_out != 0

    def take_call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """With what cuts, if any queue is preemptive."""
        preemptive = [queue for queue in self.queues.values() if queue.preemptive]
        if not preemptive:
            Steps.take_call_soon(self, loop)
            return
        _begin()
        try:
            Steps.take_call_soon(self, loop)
            try:
                _alarm_cy.watch(loop)
            except NotImplementedError:
                self.give_call_soon_back()
                raise ConfigurationError(
                    f"preemptive queues need a loop that has add_reader, and {type(loop).__qualname__} has none"
                ) from None
        except BaseException:
            _end()
            raise
        self._slicing = True
        for queue in preemptive:
            queue.sliced = True
        self._loop_close = loop.close
        self._our_close = self.close_loop
        loop.close = self._our_close  # type: ignore[method-assign]
        self._loop_run_forever = loop.run_forever
        self._our_run_forever = self.run_loop_forever
        loop.run_forever = self._our_run_forever  # type: ignore[method-assign]

    def run_loop_forever(self) -> None:
        """In place of the loop's `run_forever`, which its `run_until_complete` calls too: a loop may be made in one thread and
        run in another, where nothing can be cut. Raises ConfigurationError there."""
        _check_main_thread()
        self._loop_run_forever()

    def close_loop(self) -> None:
        """In place of the loop's `close`. What is in the middle of a step raises CancelledError there."""
        loop = self.loop
        close = self._loop_close
        try:
            if loop is not None and not loop.is_running():
                self.detach()
        finally:
            close()

    def detach(self) -> None:
        """Leave the loop."""
        raise NotImplementedError

    def end_slices(self) -> None:
        """Nothing is cut any more. What was cut raises CancelledError there, and has its step to the end."""
        if not self._slicing:
            return
        self._slicing = False
        for queue in self.queues.values():
            if queue.sliced:
                queue.sliced = False
                self._end_fiber(queue)
        loop: Any = self.loop
        _alarm_cy.watch_no_more(loop)
        _end()
        # What is not ours any more somebody has wrapped.
        own = getattr(loop, "__dict__", {})
        if own.get("close") is self._our_close:
            del loop.close
            if loop.close != self._loop_close:
                loop.close = self._loop_close
        if own.get("run_forever") is self._our_run_forever:
            del loop.run_forever
            if loop.run_forever != self._loop_run_forever:
                loop.run_forever = self._loop_run_forever
        self._our_close = None
        self._our_run_forever = None

    def _end_fiber(self, queue: QueueState) -> None:
        fiber: Fiber = queue.fiber
        try:
            if queue.suspended is not None:
                fiber.thrown = asyncio.CancelledError()
                with _as_running(self.loop):
                    self._run_slice(queue, self._take(queue), now_ns())  # type: ignore[arg-type]
            fiber.end()
        except BaseException as error:
            self.report("the step that was cut could not be ended", error)

    def _run_slice(self, queue: QueueState, state: JoinHandle, started: int) -> int:
        """One slice of a step: `_run_step`, of a preemptive queue. What is counted of a step is counted when it has ended."""
        fiber: Fiber = queue.fiber
        if PyThread_get_thread_ident() != _main_thread and fiber.state is None:
            # A loop that has its own way to run, without `run_forever`, runs in a thread where no signal comes: nothing is cut.
            queue.sliced = False
            try:
                return self._run_step(queue, state, started)
            finally:
                queue.sliced = self._slicing
        slice_ns = fiber.slice_ns if self._slicing else 0
        if fiber.state is None:
            state.queued = False
            fiber.callback = state.callback
            fiber.argument = state.argument
            if fiber.argument is not None:
                state.callback = None
                state.argument = None
            if state.first_seen_ns:
                queue.first_poll_wait.record(started - state.first_seen_ns)
                state.first_seen_ns = 0
            if state.pushed_ns:
                queue.wait.record(started - state.pushed_ns)
                state.pushed_ns = 0
            fiber.state = state
            fiber.elapsed_ns = 0
            fiber.slices = 0
            fiber.quiet = 0
            if self._carrier is not None and not state.single:
                self._leave_carrier()
        else:
            if fiber.may_grow and slice_ns and self._is_quiet(fiber):
                slice_ns *= _GROWTH
            if self._carrier is not None:
                self._leave_carrier()
            self._enter_again(fiber)
        self._step_started = started
        self._preempt = False
        self.current = state
        queue.sliced = False
        try:
            fiber.go(slice_ns, started)
        except BaseException as error:
            fiber.error = error
        queue.sliced = self._slicing
        self.current = None
        cut = not fiber.finished
        if cut:
            self._leave_for_now(fiber)
        ended: int = now_ns()
        elapsed = ended - started
        stolen = 0
        if elapsed >= self.steal.long_ns:
            stolen = self._stolen(elapsed, ended, True)
            queue.stolen_ns += stolen
            elapsed -= stolen
            ended = now_ns()
        self._eevdf.charge(queue.entity, elapsed)
        queue.busy_ns += elapsed
        queue.poll_time.record(elapsed)
        fiber.elapsed_ns += elapsed
        fiber.slices += 1
        state.service_ns += elapsed
        if state.membership.queue is queue:
            state.membership.service_ns += elapsed
            if queue.fifo is None:
                self._observe(queue, state, elapsed)
        if elapsed > queue.entity.slice_ns:
            queue.slice_overruns += 1
            if queue.slow_ns and elapsed >= queue.slow_ns:  # it was not cut for so long
                queue.slow_polls += 1
                self._tell_of_slow(state, elapsed)
        if self.tracer is not None:
            self._trace_slice(queue, state, started, started + elapsed + stolen, stolen, cut)
        if cut:
            queue.cuts += 1
            queue.suspended = state
            queue.runnable += 1
            if fiber.may_grow:
                fiber.decisions = self._decisions
                fiber.cpu_ns = self.steal.meter.cpu_ns()
            return ended
        fiber.state = None
        if held.count:
            forget_all()
        queue.polls += 1
        queue.whole_step.record(fiber.elapsed_ns)
        if fiber.slices > 1 and queue.slow_ns and fiber.elapsed_ns >= queue.slow_ns:
            self._tell_of_long(state, fiber.elapsed_ns, fiber.slices)
        if fiber.error is not None:
            let_out, fiber.error = fiber.error, None
            self._let_out(state, let_out)
        if state.single:
            self._leave_single(state)
        elif not state.queued and is_done(state.task):
            self._leave(state)
        if queue.runnable == 0:
            self._eevdf.deactivate(queue.entity)
        return ended

    def _is_quiet(self, fiber: Fiber) -> bool:
        """Whether nobody has wanted the core for a while: no other step ran, no other queue is runnable, and the loop's turns,
        in which it would have looked after sockets and timers, took no longer than empty ones do."""
        gap = self.steal.meter.cpu_ns() - fiber.cpu_ns
        if fiber.shortest_gap_ns == 0 or gap < fiber.shortest_gap_ns:
            fiber.shortest_gap_ns = gap
        if self._decisions != fiber.decisions + 1 or self._eevdf.total_share != fiber.queue.entity.share:
            fiber.quiet = 0
        elif gap <= 2 * fiber.shortest_gap_ns + _NOISE_NS:
            fiber.quiet = min(fiber.quiet + 1, 2 * _QUIET)
        else:  # or so it seems: caches may have been cold
            fiber.quiet = max(fiber.quiet - _DOUBT, 0)
        return fiber.quiet > _QUIET

    def _leave_for_now(self, fiber: Fiber) -> None:
        """The step was cut: asyncio has no current task."""
        loop: Any = self.loop
        self._carrier = None
        if "task" not in _rules:
            return
        if _current_tasks is not None:
            fiber.task = _current_tasks.pop(loop, None)
        else:
            fiber.task = asyncio.current_task(loop)
            if fiber.task is not None:
                asyncio._leave_task(loop, fiber.task)

    def _enter_again(self, fiber: Fiber) -> None:
        """The step goes on, with the task that it had."""
        task, fiber.task = fiber.task, None
        if task is not None:
            loop: Any = self.loop
            if _current_tasks is not None:
                _current_tasks[loop] = task
            else:
                asyncio._enter_task(loop, task)
            if fiber.state.single and task is fiber.state.task:  # type: ignore[union-attr]
                self._carrier = task

    def _tell_of_long(self, state: JoinHandle, elapsed: int, slices: int) -> None:
        try:
            self.owner.was_long(state, elapsed, slices)
        except BaseException as error:
            self.report("reporting a long step failed", error)

    def _trace_slice(
        self, queue: QueueState, state: JoinHandle, started: int, ended: int, stolen: int, cut: bool
    ) -> None:
        cut_step = getattr(self.tracer, "cut_step", None) if cut else None
        if cut_step is None:
            self._trace_step(queue, state, started, ended, stolen)
            return
        try:
            cut_step(queue, state, started, ended, stolen)
        except BaseException as error:
            self._drop_tracer(self.tracer, error)
