# cython: language_level=3, annotation_typing=False
"""The core: between asyncio and its tasks.

*The seam.* CPython's `asyncio.Task` asks its loop for every step and every wake-up by `loop.call_soon(callback, ...)`, where
`callback.__self__` is the task. An instance attribute `call_soon` on the loop sees them all, on asyncio's loops and on
uvloop's; what is not a step or a wake-up of a member passes straight through. Tasks stay genuine `asyncio.Task`s.
Rejected: driving coroutines ourselves (nothing in the ecosystem would recognise the current task), a custom task factory
(sees births, not wake-ups), and subclassing a loop (a loop for each loop).

*Membership* of a queue and group is a context variable, so all that a task starts, through any library, is in the same
queue. It is read once, when a task is first seen; then the task is in a table until it is done. The table's reference is
strong: a pending task of a queue is never collected.

*The pump* is one callback on the real loop, there only while something is runnable. It picks a queue (EEVDF), the queue's
scheduler picks a task, it runs that one step, charges it, and so on until its budget is spent; then the loop has its turn
for sockets and timers. A source of work beside the loop (the mesh of rings) is polled once a turn, and for `idle_poll`
after everything has run dry.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from collections.abc import Coroutine, Hashable
from typing import Any, Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._eevdf_cy import Eevdf, Entity
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler

if cython.compiled:
    from cython.cimports.clockworker.executor._native import (
        PyCFunction_CheckExact,
        PyCFunction_GET_FUNCTION,
        PyContext_Enter,
        PyContext_Exit,
        bound_self,
        now_ns,
    )
else:
    from time import monotonic_ns as now_ns

compiled: bool = cython.compiled

MEMBERSHIP: contextvars.ContextVar[Membership] = contextvars.ContextVar("clockworker.membership")

_NO_ARGUMENT = object()


class _TaskCallbacks:
    """What the C Task hands to call_soon, found by asking one."""

    step_type: type
    wakeup_name: str

    def __init__(self) -> None:
        seen: list[Any] = []

        class Recorder:
            def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
                seen.append(callback)

            def get_debug(self) -> bool:
                return False

        async def wait(future: asyncio.Future[None]) -> None:
            await future

        loop: Any = Recorder()
        future: asyncio.Future[None] = asyncio.Future(loop=loop)
        asyncio.Task(wait(future), loop=loop)
        step = seen.pop()
        step()
        future.set_result(None)
        wakeup = seen.pop()
        self.step_type = type(step)
        self.wakeup_name = wakeup.__name__
        self.wakeup = wakeup
        wakeup(future)


_callbacks = _TaskCallbacks()
_STEP_TYPE = _callbacks.step_type
if cython.compiled:
    _WAKEUP_FUNCTION = PyCFunction_GET_FUNCTION(_callbacks.wakeup)
else:
    _WAKEUP_NAME = _callbacks.wakeup_name


class WorkSource(Protocol):
    """Work that comes from beside the loop, such as the rings of other shards."""

    def poll(self) -> bool:
        """Take in what has come and send off what is waiting. True if there was anything to take in."""

    def prepare_sleep(self) -> bool:
        """Called before the core leaves the thread to the loop with nothing runnable. From here on news must come through
        the loop. False if there is news already."""


class QueueState:
    """One queue while it runs: its entity in the policy, its scheduler, its counters."""

    key: Hashable
    scheduler: Scheduler
    entity: Entity
    catch: bool  # panics are left to whoever awaits
    groups: dict[Hashable, Membership]
    runnable: int
    live: int
    polls: int
    busy_ns: int
    spawned: int
    panics: int

    def __init__(self, key: Hashable, scheduler: Scheduler, entity: Entity, catch: bool) -> None:
        self.key = key
        self.scheduler = scheduler
        self.entity = entity
        self.catch = catch
        self.groups = {}
        self.runnable = 0
        self.live = 0
        self.polls = 0
        self.busy_ns = 0
        self.spawned = 0
        self.panics = 0


class Membership:
    """A place in a queue, with or without a group; the value of the context variable."""

    core: Core
    queue: QueueState
    group: Hashable
    live: int  # tasks of the group; the group is dropped with the last

    def __init__(self, core: Core, queue: QueueState, group: Hashable) -> None:
        self.core = core
        self.queue = queue
        self.group = group
        self.live = 0


class TaskState(ScheduledTask):
    """A member task: what schedulers see of it, and the step that it waits to run."""

    core: Core
    membership: Membership
    callback: Any  # the pending step or wake-up; None while it waits for something or runs
    argument: Any
    context: contextvars.Context
    spawned: bool  # by `spawn`: then an exception that escapes it is a panic
    waiters: list[asyncio.Future[None]] | None

    def __init__(self, task: asyncio.Task[Any], membership: Membership, arrival: int) -> None:
        self.key = 0
        self.tie = 0
        self.position = -1
        self.task = task
        self.group = membership.group
        self.arrival = arrival
        self.service_ns = 0
        self.slot = None
        self.next = None
        self.core = membership.core
        self.membership = membership
        self.callback = None
        self.argument = None
        self.context = None  # type: ignore[assignment]
        self.spawned = False
        self.waiters = None


class Core:
    """The seam and the pump of one executor. `Executor` is its public face."""

    loop: asyncio.AbstractEventLoop | None
    queues: dict[Hashable, QueueState]
    default: Membership | None  # of tasks that bring none; None: those are not ours
    current: TaskState | None  # whose step runs
    owner: Any  # the Executor; told of panics
    accepting: bool
    pumping: bool
    source: WorkSource | None
    idle_poll_ns: int
    turns: int

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        self.loop = None
        self.queues = {}
        self.default = None
        self.current = None
        self.owner = owner
        self.accepting = False
        self.pumping = False
        self.source = None
        self.idle_poll_ns = 0
        self.turns = 0
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._eevdf = Eevdf()
        self._table: dict[asyncio.Task[Any], TaskState] = {}
        self._arrivals = 0
        self._scheduled = False
        self._idle_since = 0
        self._thread = 0
        self._debug = False
        # One empty context for all turns: copying the caller's would keep its variables alive.
        self._pump_context = contextvars.Context()

    # Set-up

    def add_queue(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        queue = QueueState(key, scheduler, None, catch)  # type: ignore[arg-type]
        queue.entity = self._eevdf.add(queue, share, slice_ns)
        self.queues[key] = queue
        return queue

    def set_share(self, queue: QueueState, share: int) -> None:
        self._eevdf.set_share(queue.entity, share)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop's `call_soon`."""
        if isinstance(getattr(loop.call_soon, "__self__", None), Core):
            raise UsageError("this loop has an executor already: leave its `async with` first, or use its queues")
        self._had_call_soon = getattr(loop, "__dict__", {}).get("call_soon")
        self._loop_call_soon = loop.call_soon
        try:
            loop.call_soon = self.call_soon  # type: ignore[method-assign, assignment]
        except AttributeError:
            raise UsageError(
                f"{type(loop).__module__}.{type(loop).__qualname__} does not let its call_soon be replaced; "
                "asyncio's own loops and uvloop's do"
            ) from None
        self.loop = loop
        self._thread = threading.get_ident()
        self._debug = loop.get_debug()
        self.accepting = True

    def detach(self) -> None:
        """Give the loop its own `call_soon` back. Tasks that are still pending go on as the loop's own."""
        loop = self.loop
        if loop is None:
            return
        self.accepting = False
        self.loop = None
        if self._had_call_soon is not None:
            loop.call_soon = self._had_call_soon  # type: ignore[method-assign]
        else:
            del loop.call_soon
        for queue in self.queues.values():
            while queue.runnable:
                state: TaskState = self._take(queue)
                callback = state.callback
                state.callback = None
                if state.argument is _NO_ARGUMENT:
                    self._loop_call_soon(callback, context=state.context)
                else:
                    self._loop_call_soon(callback, state.argument, context=state.context)
        self._table.clear()

    # From asyncio to the queues

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        """In place of the loop's `call_soon`. Steps and wake-ups of members return None: their handles have no user."""
        return self._route(callback, args, context)

    def _route(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> Any:
        task: Any
        if cython.compiled:
            if type(callback) is _STEP_TYPE and not args:
                task = callback.__self__  # type: ignore[attr-defined]
            elif (
                PyCFunction_CheckExact(callback)
                and PyCFunction_GET_FUNCTION(callback) == _WAKEUP_FUNCTION
                and len(args) == 1
            ):
                task = bound_self(callback)
            else:
                return self._loop_call_soon(callback, *args, context=context)
        else:
            if type(callback) is _STEP_TYPE or (
                type(callback) is types.BuiltinFunctionType and callback.__name__ == _WAKEUP_NAME
            ):
                task = callback.__self__  # type: ignore[attr-defined]
            else:
                return self._loop_call_soon(callback, *args, context=context)
        if self._debug:
            self._check_thread("call_soon")
        state = self._table.get(task)
        if state is None:
            state = self._adopt(task, context)
            if state is None:
                return self._loop_call_soon(callback, *args, context=context)
        state.callback = callback
        state.argument = args[0] if args else _NO_ARGUMENT
        state.context = contextvars.copy_context() if context is None else context
        queue = state.membership.queue
        queue.scheduler.push(state)
        queue.runnable += 1
        if not queue.entity.active:
            self._eevdf.activate(queue.entity)
        if not self._scheduled:
            self._schedule()
        return None

    def _adopt(self, task: asyncio.Task[Any], context: contextvars.Context | None) -> TaskState | None:
        """The state of a task that is seen for the first time; None if it is none of ours."""
        membership = None
        if context is not None:
            membership = context.get(MEMBERSHIP)
        if membership is None or membership.core is not self:
            membership = self.default
            if membership is None:
                return None
        return self._enter(task, membership)

    def _enter(self, task: asyncio.Task[Any], membership: Membership) -> TaskState:
        queue = membership.queue
        if membership.group is not None:
            # A group may have ended and come back while a context still held the old membership.
            membership = queue.groups.setdefault(membership.group, membership)
        self._arrivals += 1
        state = TaskState(task, membership, self._arrivals)
        membership.live += 1
        queue.live += 1
        self._table[task] = state
        return state

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, Any], name: str | None) -> TaskState:
        """A new task in the membership's queue and group, its first step queued."""
        loop = self.loop
        if not self.accepting or loop is None:
            if asyncio.iscoroutine(coroutine):
                coroutine.close()
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        if type(coroutine) is not types.CoroutineType and not asyncio.iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        context = contextvars.copy_context()
        if context.get(MEMBERSHIP) is not membership:
            context.run(MEMBERSHIP.set, membership)
        if loop.get_task_factory() is None:
            task = asyncio.Task(coroutine, loop=loop, name=name, context=context)
        else:
            task = loop.create_task(coroutine, name=name, context=context)
        state = self._table.get(task)
        if state is None:
            # An eager task factory has run its first step already, perhaps its last.
            state = TaskState(task, membership, 0) if task.done() else self._enter(task, membership)
        state.spawned = True
        membership.queue.spawned += 1
        return state

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    def tasks(self) -> list[TaskState]:
        """All member tasks that are not done."""
        return list(self._table.values())

    def check_thread(self, what: str) -> None:
        if threading.get_ident() != self._thread:
            raise UsageError(f"{what} was called from another thread: use loop.call_soon_threadsafe({what}, ...)")

    def _check_thread(self, what: str) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"Non-thread-safe operation: {what} of an event loop with an executor was called from another thread"
            )

    # The pump

    def wake(self) -> None:
        """Make sure that a turn comes, though nothing may be runnable: the source has something to do."""
        if not self._scheduled and self.loop is not None:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._debug = self.loop.get_debug()  # type: ignore[union-attr]
        self._loop_call_soon(self._pump, context=self._pump_context)

    def _take(self, queue: QueueState) -> TaskState:
        popped = queue.scheduler.pop()
        if type(popped) is TaskState:
            state: TaskState = popped
            if state.callback is not None and state.membership.queue is queue:
                queue.runnable -= 1
                return state
        raise UsageError(
            f"{type(queue.scheduler).__name__}.pop() of queue {queue.key!r} returned {popped!r}, "
            "which is not a task that it was holding"
        )

    def _pump(self) -> None:
        """One turn."""
        if self.loop is None:
            self._scheduled = False
            return
        self.turns += 1
        self.pumping = True
        try:
            idle = self._run_turn()
        except BaseException:
            # KeyboardInterrupt or SystemExit on the way out of the loop, or a broken scheduler. What is runnable stays so.
            if self.loop is not None:
                self._schedule()
            raise
        finally:
            self.pumping = False
        if idle:
            self._scheduled = False
        elif self.loop is not None:
            self._loop_call_soon(self._pump, context=self._pump_context)

    def _run_turn(self) -> bool:
        """Steps until the budget is spent or nothing is runnable. True if the core may sleep."""
        now = now_ns()
        ends = now + self._driver_yield_ns
        polls = 0
        while polls < self._max_polls and now < ends:
            entity = self._eevdf.pick()
            if entity is None:
                if self.source is None:
                    return True
                news = self.source.poll()
                if self._eevdf.total_share:
                    continue
                if news or polls or self._idle_since == 0:
                    self._idle_since = now
                if now - self._idle_since < self.idle_poll_ns:
                    return False
                self._idle_since = 0
                return self.source.prepare_sleep()
            now = self._run_step(entity, now)
            polls += 1
        if self.source is not None:
            self.source.poll()
        return False

    def _run_step(self, entity: Entity, started: int) -> int:
        """One step of one task of the queue. Returns the time at its end."""
        queue: QueueState = entity.item  # type: ignore[assignment]
        state = self._take(queue)
        callback = state.callback
        argument = state.argument
        context = state.context
        state.callback = None
        state.argument = None
        state.context = None  # type: ignore[assignment]
        self.current = state
        try:
            if cython.compiled:
                PyContext_Enter(context)
                try:
                    if argument is _NO_ARGUMENT:
                        callback()
                    else:
                        callback(argument)
                finally:
                    PyContext_Exit(context)
            elif argument is _NO_ARGUMENT:
                context.run(callback)
            else:
                context.run(callback, argument)
        except (KeyboardInterrupt, SystemExit):
            state.spawned = False  # it ends the program, as in asyncio; nobody has to be told twice
            raise
        finally:
            self.current = None
            ended: int = now_ns()
            elapsed = ended - started
            self._eevdf.charge(entity, elapsed)
            queue.polls += 1
            queue.busy_ns += elapsed
            state.service_ns += elapsed
            queue.scheduler.observe(state, elapsed)
            if state.callback is None and state.task.done():
                self._leave(state)
            # Only now: a step that makes its own queue runnable again must not make it leave and come back.
            if queue.runnable == 0:
                self._eevdf.deactivate(entity)
        return ended

    def _leave(self, state: TaskState) -> None:
        """The task is done."""
        task = state.task
        membership = state.membership
        queue = membership.queue
        self._table.pop(task, None)
        queue.live -= 1
        queue.scheduler.forget_task(state)
        membership.live -= 1
        if membership.live == 0 and membership.group is not None:
            queue.groups.pop(membership.group, None)
            queue.scheduler.forget_group(membership.group)
        if state.waiters is not None:
            for waiter in state.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            state.waiters = None
        # Not task.exception(): that would count as retrieved, and asyncio would not report one that nobody awaits.
        if state.spawned and not task.cancelled() and task._exception is not None:
            queue.panics += 1
            if not queue.catch:
                self.owner.panicked(state)
