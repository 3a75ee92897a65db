# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Fibers: where the steps of a preemptive queue run, and what cuts them.

    alarm       when (`_alarm_cy`)
    refusal     where not: a lock is held (`_locks_cy`), guarded code (`_guard_cy`), `no_preempt`, and what is below
    fiber       what is cut

A *fiber* is a greenlet in which all steps of one queue run, one after the other. The signal's handler, which the interpreter
calls between two instructions of the step, switches to the greenlet that runs the loop, the *hub*. greenlet keeps for each
fiber what belongs to a stack of Python: frames, the exception that is handled, the context, the depth of recursion. asyncio's
current task is `_slices_cy`'s to change.

To other code a cut is what another thread would be: somebody runs between two instructions. Only that the thread is the same,
so locks have the same owner, hence the rules, and `threading.local` shows the foreground's values.

*Refused* cuts are tried again after 200 us, and half as often each time, down to 2 ms; one that was refused because of a lock
is made when the lock is released.

The alarm, and what tracks locks, are the process's: they are there while any executor has a preemptive queue and a loop.

Rejected: a thread for each step, with a baton: nothing stops a thread at its eval breaker and keeps it there. A fiber for each
task, so that short steps overtake long ones of their queue: then any two steps may interleave.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from types import FrameType
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor import _alarm_cy, _locks_cy
from clockworker.executor._cpython_cy import find_current_tasks, holds
from clockworker.executor._preempt import NO_PREEMPT
from clockworker.executor._singles_cy import Singles
from clockworker.executor._tasks_cy import JoinHandle, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._alarm_cy import (
        NEVER_NS,
        alarm,
        alarm_again,
        alarm_drain,
        alarm_due,
        alarm_now,
        alarm_now_due,
        alarm_slice,
        alarm_sooner,
    )
    from cython.cimports.clockworker.executor._clock_cy import is_wound
    from cython.cimports.clockworker.executor._greenlet import (
        current_greenlet,
        import_greenlet,
        new_greenlet,
        switch_deep,
        switch_to,
    )
    from cython.cimports.clockworker.executor._guard_cy import is_guarded, is_tracing
    from cython.cimports.clockworker.executor._locks_cy import held, is_any_held
    from cython.cimports.clockworker.executor._native import run_in_context

_RETRY_NS = 200_000
_LONGEST_RETRY_NS = 2_000_000
_LOOK_EVERY = 64  # cuts

current_tasks = find_current_tasks() if holds("current") else None
# Switched off one by one by tests (`switch_rule`).
rules = {"lock", "guarded", "no_preempt", "tracing", "gc", "executor", "task"}
_by_hand = False  # a test asks for each cut (`ask`), and no alarm rings

_running: Fiber | None = None  # in which a slice runs
_users = 0  # executors with preemptive queues that have their loops
_collecting = False  # garbage: finalizers run, of whatever the collector has found


@cython.final
@cython.cclass
class Fiber:
    """Where the steps of one preemptive queue run."""

    core: Singles
    queue: QueueState
    backend: int  # what the loop asks for events, or -1
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
    # How long its slices are is `_slices_cy`'s to say.
    slice_ns: int
    may_grow: bool  # the slice, when nobody else wants the core
    was_long: bool  # the step before
    cpu_ns: int  # of the thread, when the step was cut
    decisions: int  # the core's, then
    quiet: int  # slices in which nobody came, less some for each in which somebody may have
    shortest_gap_ns: int  # of CPU time, between two of them

    def __init__(self, core: Singles, queue: QueueState, slice_ns: int, may_grow: bool) -> None:
        self.core = core
        self.queue = queue
        self.backend = -1
        self.slice_ns = slice_ns
        self.may_grow = may_grow
        self.was_long = False
        self.cpu_ns = 0
        self.decisions = 0
        self.quiet = 0
        self.shortest_gap_ns = 0
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

    def go(self, started: int, due_ns: int, look_ns: int) -> bool:
        """Run the step until it is cut, or finished. True if the loop had something to do when it was cut.

        due_ns: when it is cut, at the latest; 0 if it is not to be cut. look_ns: how often somebody looks whether the loop has
        something to do, to cut it then; 0: nobody does.

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
            self.cuttable = due_ns != 0
            self.retry_ns = _RETRY_NS
            _running = self
            held.tracking = True
            alarm.behind = cython.address(self.core.behind)
            alarm.backend = self.backend
            alarm.every_ns = look_ns
            alarm.wanted = False
            if due_ns and not _by_hand and not is_wound():
                alarm_slice(cython.address(alarm), started, due_ns, started + look_ns if look_ns else NEVER_NS)
            else:
                alarm.looks_ns = NEVER_NS
                alarm.due_ns = NEVER_NS
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
                alarm.behind = cython.NULL
                _running = None
            self.hub = None
            if self.finished:
                self.at = self.greenlet
        return alarm.wanted and not self.finished and outer is None

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
        if (self.core._spawning is not None or self.core._calling_out) and "executor" in rules:
            return "executor"
        if _collecting and "gc" in rules:
            return "gc"
        if is_tracing() and "tracing" in rules:
            return "tracing"
        mark = NO_PREEMPT.get()
        if mark is not None and "no_preempt" in rules and mark() is current_task(self.core.loop):
            return "no_preempt"
        if is_any_held() and "lock" in rules:
            held.wanted = True
            return "lock"
        if is_guarded(frame) and "guarded" in rules:
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
    return asyncio.current_task(loop) if current_tasks is None else current_tasks.get(loop)


def cut_by(due_ns: int) -> None:
    """The slice that runs is to be cut then, if it was not to be before."""
    if not _by_hand and not is_wound():
        alarm_sooner(cython.address(alarm), due_ns)


def on_alarm(number: int, frame: Any) -> None:
    """The signal's handler, which the interpreter calls between two instructions of the main thread."""
    fiber = _running
    if frame is not None and type(frame) is not FrameType:
        raise TypeError("on_alarm is called by the interpreter alone")
    alarm_drain(cython.address(alarm))
    if fiber is None:
        return  # the slice has ended meanwhile
    now = alarm_now()
    if now < alarm.due_ns:
        alarm_again(cython.address(alarm))  # this is the next one already
        return
    reason = fiber.refusal(frame)
    if reason is None:
        if fiber.queue.cuts % _LOOK_EVERY == 0:
            _alarm_cy.stand_in()  # a loop may have begun to run, or to handle signals
        fiber.cut()
        return
    refusals = fiber.queue.refusals
    refusals[reason] = refusals.get(reason, 0) + 1
    if _by_hand or is_wound():
        alarm.due_ns = NEVER_NS
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
        rules.add(name)
    else:
        rules.remove(name)


def _on_collection(phase: str, info: object) -> None:
    global _collecting
    _collecting = phase == "start"


# Of the process: one alarm, for all executors of the main thread.


def check_main_thread() -> None:
    """Raise ConfigurationError in another thread."""
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "preemptive queues run in the main thread, for signals come there, and this loop is of the thread "
            f"{threading.current_thread().name!r}"
        )


def begin() -> None:
    """Another executor has a loop and preemptive queues. Raises ConfigurationError where nothing can be cut."""
    global _users
    check_main_thread()
    if _users == 0:
        import_greenlet()
        _alarm_cy.begin(on_alarm)
        _locks_cy.wrap()
        gc.callbacks.append(_on_collection)
    _users += 1


def end() -> None:
    """It has no more."""
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
