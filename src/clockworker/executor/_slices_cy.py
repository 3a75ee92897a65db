# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Slices: a step of a preemptive queue is cut where it has had its time, and goes on when the queue's turn comes again.

Where it runs, and what cuts it, is a *fiber* (`_fiber_cy`). Here each slice is charged like a step. `queue.suspended` is what
was cut; it is taken before the scheduler is asked (`_take`), so what was cut is finished before any other step of the queue
begins, and steps of one queue never interleave but at awaits.

*How long.* A queue's own `slice`; else a millisecond, and four of them when nobody has wanted the core for a while: no other
queue was runnable, and the loop's turns took no longer than empty ones. That long a slice is while nobody else is owed the
core.

*Other queues.* EEVDF knows how long the one that runs would be its choice (`Choice.stays`), and a slice is no longer than
that, if it is no shorter than 250 us. So a queue that has become runnable, meanwhile or before, waits only as long as it has
to, and one that is not owed the core causes no cut.

*The loop.* If callbacks wait for the turn to end when a slice begins, it lasts 250 us. For what comes from outside, the
alarm's handler looks now and then whether the loop has events or callbacks, in C, and without a cut if it has none. A request
takes several turns of the loop, to be accepted, to be read, to be answered: each of them would wait for a slice to end. How
often it is worth looking is `_visits_cy`'s to say. Timers are not seen, and wait for a slice; nor are other shards' calls.

Short steps pay for no look: the first slice of a step has none, unless the queue's last one was long.

The promise, the price, and what is not protected are in docs/preemption.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor import _alarm_cy, _fiber_cy
from clockworker.executor._eevdf_cy import Entity
from clockworker.executor._fiber_cy import Fiber
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._steps_cy import Steps
from clockworker.executor._tasks_cy import JoinHandle, QueueState
from clockworker.executor._visits_cy import Visits

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._fiber_cy import current_tasks, cut_by, rules
    from cython.cimports.clockworker.executor._locks_cy import forget_all, held
    from cython.cimports.clockworker.executor._native import PyThread_get_thread_ident
    from cython.cimports.clockworker.executor._seam_cy import is_done
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._fiber_cy import current_tasks, cut_by, rules
    from clockworker.executor._seam_cy import is_done

_DEFAULT_NS = 1_000_000
# Alone a slice is longer, after so many in which nobody came; by this factor.
_QUIET = 8
_GROWTH = 4
_DOUBT = 4  # so many quiet ones are as good as one in which somebody may have come
# A turn of the loop in which something was done takes so much longer than an empty one.
_NOISE_NS = 5_000
# At least so long is a slice that somebody waits for.
_SHORTEST_NS = 250_000
_main_thread = threading.main_thread().ident or 0


@contextlib.contextmanager
def _as_running(loop: Any) -> Iterator[None]:
    """For a step of a loop that may not be running, and may be closed by a task of another. From CPython 3.14 on the current
    task is a field of the thread, and of the loop that runs there."""
    outer = asyncio._get_running_loop()
    if current_tasks is not None or outer is loop:
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
    visits: Visits  # of whom the loop knows
    _loop_close: Any
    _our_close: Any
    _loop_run_forever: Any
    _our_run_forever: Any

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(owner, driver_yield_ns, max_polls)
        self._slicing = False
        self.visits = Visits()
        self._loop_close = None
        self._our_close = None
        self._loop_run_forever = None
        self._our_run_forever = None

    def make_preemptive(self, queue: QueueState, slice_ns: int) -> None:
        """Steps of the queue are cut from the next `attach` on. slice_ns: 0 for the default."""
        queue.preemptive = True
        queue.fiber = Fiber(self, queue, slice_ns or _DEFAULT_NS, slice_ns == 0)
        queue.whole_step = Histogram()

    def take_call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """With what cuts, if any queue is preemptive."""
        preemptive = [queue for queue in self.queues.values() if queue.preemptive]
        if not preemptive:
            Steps.take_call_soon(self, loop)
            return
        _fiber_cy.begin()
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
            _fiber_cy.end()
            raise
        self._slicing = True
        backend = backend_of(loop)
        for queue in preemptive:
            queue.sliced = True
            fiber: Fiber = queue.fiber
            fiber.backend = backend
        self._loop_close = loop.close
        self._our_close = self.close_loop
        loop.close = self._our_close  # type: ignore[method-assign]
        self._loop_run_forever = loop.run_forever
        self._our_run_forever = self.run_loop_forever
        loop.run_forever = self._our_run_forever  # type: ignore[method-assign]

    def run_loop_forever(self) -> None:
        """In place of the loop's `run_forever`, which its `run_until_complete` calls too: a loop may be made in one thread and
        run in another, where nothing can be cut. Raises ConfigurationError there."""
        _fiber_cy.check_main_thread()
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
        _fiber_cy.end()
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
        look_ns = self.visits.look_ns()
        if fiber.state is None:
            if not fiber.was_long:
                look_ns = 0
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
            if fiber.may_grow and slice_ns and self._is_quiet(fiber, started):
                slice_ns *= _GROWTH
                look_ns = 0
            if self._carrier is not None:
                self._leave_carrier()
            self._enter_again(fiber)
        due_ns = 0
        if slice_ns:
            due_ns = started + slice_ns
            if slice_ns > _SHORTEST_NS:
                if self._eevdf.total_share != queue.entity.share:
                    due_ns = self._stays_until(queue.entity, started, due_ns)
                if self.behind:
                    due_ns = min(due_ns, started + _SHORTEST_NS)
        self._step_started = started
        self._preempt = False
        self.current = state
        queue.sliced = False
        try:
            if fiber.go(started, due_ns, look_ns):
                self._turn_must_end = 0
                self.visits.note(now_ns())
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
        fiber.was_long = fiber.elapsed_ns >= _SHORTEST_NS
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

    def _stays_until(self, entity: Entity, started: int, due_ns: int) -> int:
        """Until when, of a slice that began and ends so, no other queue should have the core."""
        elapsed = _SHORTEST_NS
        while started + elapsed < due_ns:
            if not self._eevdf.stays(entity, elapsed):
                return started + elapsed
            elapsed += _SHORTEST_NS
        return due_ns

    def _consider_preemption(self, woken: Entity) -> None:
        Steps._consider_preemption(self, woken)
        if self._slicing:
            queue = self.current.membership.queue  # type: ignore[union-attr]
            if queue.preemptive:
                fiber: Fiber = queue.fiber
                cut_by(self._stays_until(queue.entity, self._step_started, self._step_started + fiber.slice_ns))

    def _is_quiet(self, fiber: Fiber, now: int) -> bool:
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
        return fiber.quiet > _QUIET and self.visits.have_paused(now)

    def _leave_for_now(self, fiber: Fiber) -> None:
        """The step was cut: asyncio has no current task."""
        loop: Any = self.loop
        self._carrier = None
        if "task" not in rules:
            return
        if current_tasks is not None:
            fiber.task = current_tasks.pop(loop, None)
        else:
            fiber.task = asyncio.current_task(loop)
            if fiber.task is not None:
                asyncio._leave_task(loop, fiber.task)

    def _enter_again(self, fiber: Fiber) -> None:
        """The step goes on, with the task that it had."""
        task, fiber.task = fiber.task, None
        if task is not None:
            loop: Any = self.loop
            if current_tasks is not None:
                current_tasks[loop] = task
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


def backend_of(loop: asyncio.AbstractEventLoop) -> int:
    """The descriptor that the loop asks for events, and that can itself be asked whether there are any. -1: there is none."""
    try:
        selector = getattr(loop, "_selector", None)
        descriptor = loop._get_backend_id() if selector is None else selector.fileno()  # type: ignore[attr-defined]
        return descriptor if type(descriptor) is int else -1
    except (AttributeError, OSError, ValueError):
        return -1
