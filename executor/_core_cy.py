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

*Order.* A step never overtakes a callback that the loop was given before it. Without this asyncio's own `open_connection`
breaks, and so does `call_soon(callback); await sleep(0)`. While the loop holds callbacks that came after the pump, new steps
are held back, until the pump has gone behind those. The reverse is not kept: a step waits for its queue's turn, and
callbacks are in no queue.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from collections.abc import Coroutine, Generator, Hashable
from typing import Any, Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import TaskCancelled, TaskPanicked, UsageError
from clockworker.executor._eevdf_cy import Eevdf, Entity
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._outcome import Ok
from clockworker.executor._schedulers_cy import RunnableFifo, ScheduledTask, Scheduler

if cython.compiled:
    from cython.cimports.clockworker.executor._native import (
        PyCFunction_CheckExact,
        PyCFunction_GET_FUNCTION,
        PyContext_Enter,
        PyContext_Exit,
        bound_self,
        now_ns,
        step_holds,
        step_task,
    )
else:
    from time import monotonic_ns as now_ns

compiled: bool = cython.compiled

MEMBERSHIP: contextvars.ContextVar[Membership] = contextvars.ContextVar("clockworker.membership")


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
        self.step = step
        self.step_type = type(step)
        self.wakeup_name = wakeup.__name__
        self.wakeup = wakeup
        wakeup(future)


# C globals when compiled: attributes of modules would be looked up at each spawn.
_Task = asyncio.Task
_CoroutineType = types.CoroutineType
_is_done = asyncio.Task.done  # unbound: no look-up by name at every step
_copy_context = contextvars.copy_context
_callbacks = _TaskCallbacks()
_STEP_TYPE = _callbacks.step_type
if cython.compiled:
    _WAKEUP_FUNCTION = PyCFunction_GET_FUNCTION(_callbacks.wakeup)
    # The type is private, but its first field has been the task since 3.7; a look at one tells if it still is.
    _STEP_LAYOUT_KNOWN = step_holds(_callbacks.step, _callbacks.step.__self__)
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
    finished: int
    panics: int
    slice_overruns: int  # steps that took longer than the queue's slice
    preemptions: int  # steps during which a queue with an earlier deadline became runnable
    poll_time: Histogram
    first_poll_wait: Histogram

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
        self.finished = 0
        self.panics = 0
        self.slice_overruns = 0
        self.preemptions = 0
        self.poll_time = Histogram()
        self.first_poll_wait = Histogram()


class Membership:
    """A place in a queue, with or without a group; the value of the context variable."""

    core: Core
    queue: QueueState
    group: Hashable
    live: int  # tasks of the group; the group is dropped with the last
    service_ns: int  # CPU time of the group's tasks while it has lived
    alone: contextvars.Context | None  # one in which this is the only variable; of a queue's own membership only

    def __init__(self, core: Core, queue: QueueState, group: Hashable) -> None:
        self.service_ns = 0
        self.alone = None
        self.core = core
        self.queue = queue
        self.group = group
        self.live = 0


class JoinHandle(ScheduledTask):
    """A spawned task, to wait for or to abort. Dropping the handle leaves the task running.

    `await handle` gives the task's value, raises the task's own exception, or `TaskCancelled` if the task was aborted. It
    may be awaited more than once, by several tasks. Cancelling one who waits does not touch the task.

    task: the genuine asyncio task.
    """

    # One object is what the user holds, what schedulers see (the base), and where the core keeps the step that waits to
    # run: a task costs one allocation here. Tasks that were not spawned but inherited their queue have one too.
    membership: Membership
    callback: Any  # the pending step or wake-up; None while it waits for something or runs
    arguments: tuple[Any, ...]
    context: contextvars.Context
    held: bool  # back, with its step: it is not in the scheduler yet
    spawned: bool  # by `spawn`: then an exception that escapes it is a panic
    first_seen_ns: int  # 0 once it has been polled
    waiters: list[asyncio.Future[None]] | None

    # Instead of a constructor, whose arguments would be packed and parsed at every spawn.
    def _begin(self, task: asyncio.Task[Any], membership: Membership, arrival: int) -> None:
        self.key = 0
        self.tie = 0
        self.position = -1
        self.task = task
        self.group = membership.group
        self.arrival = arrival
        self.service_ns = 0
        self.slot = None
        self.next = None
        self.membership = membership
        self.callback = None
        self.arguments = ()
        self.context = None  # type: ignore[assignment]
        self.held = False
        self.spawned = False
        self.first_seen_ns = 0
        self.waiters = None

    def __await__(self) -> Generator[Any, None, Any]:
        task = self.task
        if not _is_done(task):
            yield from self._new_waiter()
        try:
            return task.result()
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
        raise TaskCancelled(f"{task.get_name()} was aborted")

    async def outcome(self) -> Ok[Any] | TaskPanicked | TaskCancelled:
        """Wait, and return what became of the task instead of raising it, for `match`."""
        task = self.task
        if not task.done():
            await self._new_waiter()
        if task.cancelled():
            return TaskCancelled(f"{task.get_name()} was aborted")
        exception = task.exception()
        return Ok(task.result()) if exception is None else TaskPanicked(exception)

    def abort(self) -> bool:
        """Cancel the task at its next await, or before its first step. False if it was done already.

        Raises UsageError from a thread other than the executor's.
        """
        self.membership.core.check_thread("abort")
        return self.task.cancel()

    def done(self) -> bool:
        """True once the task has returned, raised or been cancelled."""
        return self.task.done()

    __class_getitem__ = classmethod(types.GenericAlias)  # type: ignore[var-annotated]  # as type checkers know it

    def __repr__(self) -> str:
        return f"<JoinHandle of {self.task!r}>"

    def _new_waiter(self) -> asyncio.Future[None]:
        # A future of our own instead of the task: cancelling one who waits on a task cancels the task.
        waiter: asyncio.Future[None] = self.task.get_loop().create_future()
        if self.waiters is None:
            self.waiters = [waiter]
            if self.membership.core.loop is None:
                self.task.add_done_callback(self.release)
        else:
            self.waiters.append(waiter)
        return waiter

    def release(self, task: asyncio.Task[Any]) -> None:
        """Wake those who wait: the task is done. The core calls this, and once it has detached the task itself does."""
        for waiter in self.waiters:  # type: ignore[union-attr]
            if not waiter.done():
                waiter.set_result(None)
        self.waiters = None


class Core:
    """The seam and the pump of one executor. `Executor` is its public face."""

    loop: asyncio.AbstractEventLoop | None
    queues: dict[Hashable, QueueState]
    default: Membership | None  # of tasks that bring none; None: those are not ours
    current: JoinHandle | None  # whose step runs
    owner: Any  # the Executor; told of panics
    accepting: bool
    pumping: bool
    source: WorkSource | None
    idle_poll_ns: int
    turns: int
    driver_ns: int  # in which tasks were runnable and the loop had its turn
    idle_ns: int  # in which nothing was runnable
    decision_time: Histogram  # of one choice in 16

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
        self.driver_ns = 0
        self.idle_ns = 0
        self.decision_time = Histogram()
        self._decisions = 0
        self._turn_ended = 0
        self._was_idle = False
        self._step_started = 0
        self._turn_must_end = 0
        self._preempt = False
        self._spawning: Membership | None = None  # set while `spawn` makes a task
        self._spawned: JoinHandle | None = None  # what call_soon made of it
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._eevdf = Eevdf()
        self._table: dict[asyncio.Task[Any], JoinHandle] = {}
        self._arrivals = 0
        self._scheduled = False
        self._paused = False
        self._behind = False  # the loop holds callbacks that came after the pump: new steps must not overtake them
        self._held: list[JoinHandle] = []  # those whose steps wait until the pump is behind these callbacks
        self._stepped_back = False
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
        self._get_task_factory = loop.get_task_factory
        self._thread = threading.get_ident()
        self._debug = loop.get_debug()
        self.accepting = True

    def detach(self) -> None:
        """Give the loop its own `call_soon` back. Tasks that are still pending go on as the loop's own."""
        loop = self.loop
        if loop is None:
            return
        self.accepting = False
        if self._had_call_soon is not None:
            loop.call_soon = self._had_call_soon  # type: ignore[method-assign]
        else:
            del loop.call_soon
        self._admit()
        for queue in self.queues.values():
            while queue.runnable:
                state = self._take(queue)
                if state is None:
                    break
                callback = state.callback
                state.callback = None
                self._loop_call_soon(callback, *state.arguments, context=state.context)
            if queue.entity.active:
                self._eevdf.deactivate(queue.entity)
        for state in self._table.values():
            self._depart(state)
            if state.waiters is not None:
                state.task.add_done_callback(state.release)
        self._table.clear()
        self.loop = None  # not before: a scheduler that fails even now is reported to it

    # From asyncio to the queues

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        """In place of the loop's `call_soon`. Steps and wake-ups of members return None: their handles have no user."""
        return self._route(callback, args, context)

    def _route(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> Any:
        task: Any
        if cython.compiled:
            if type(callback) is _STEP_TYPE and not args:
                task = step_task(callback) if _STEP_LAYOUT_KNOWN else callback.__self__  # type: ignore[attr-defined]
            elif (
                PyCFunction_CheckExact(callback)
                and PyCFunction_GET_FUNCTION(callback) == _WAKEUP_FUNCTION
                and len(args) == 1
            ):
                task = bound_self(callback)
            else:
                return self._pass(callback, args, context)
        else:
            if type(callback) is _STEP_TYPE or (
                type(callback) is types.BuiltinFunctionType and callback.__name__ == _WAKEUP_NAME
            ):
                task = callback.__self__  # type: ignore[attr-defined]
            else:
                return self._pass(callback, args, context)
        if self._debug:
            self._check_thread("call_soon")
        state = self.current
        if self._spawning is not None and type(callback) is _STEP_TYPE:
            state = JoinHandle.__new__(JoinHandle)
            self._arrivals += 1
            state._begin(task, self._spawning, self._arrivals)
            self._enter(state)
            self._spawning = None
            self._spawned = state
        elif state is None or state.task is not task:  # else a task that yields, the most frequent of all
            state = self._table.get(task)
            if state is None:
                state = self._adopt(task, context)
                if state is None:
                    return self._pass(callback, args, context)
        state.callback = callback
        state.arguments = args
        state.context = _copy_context() if context is None else context
        if self._behind:
            self._hold(state)
            return None
        self._push(state)
        if not self._scheduled:
            self._schedule()
        return None

    def _pass(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> Any:
        """To the loop with what is not ours."""
        if self._scheduled:
            self._behind = True
        return self._loop_call_soon(callback, *args, context=context)

    def _push(self, state: JoinHandle) -> None:
        queue = state.membership.queue
        try:
            queue.scheduler.push(state)
            queue.runnable += 1
        except Exception as error:
            self._replace_scheduler(queue, error)
        if not queue.entity.active:
            self._eevdf.activate(queue.entity)
            if self.current is not None:
                self._consider_preemption(queue.entity)

    def _hold(self, state: JoinHandle) -> None:
        state.held = True
        self._held.append(state)
        if not state.membership.queue.entity.active:
            # It might have preempted the running step. It cannot before the loop has had its turn, so let that come now.
            self._turn_must_end = 0

    def _admit(self) -> None:
        """What was held back enters the queues. The pump is about to go behind all that is queued with the loop."""
        self._behind = False
        if self._held:
            held = self._held
            self._held = []
            for state in held:
                state.held = False
                self._push(state)

    def _consider_preemption(self, woken: Entity) -> None:
        running = self.current.membership.queue  # type: ignore[union-attr]
        if woken.eligible and woken.deadline < running.entity.deadline and not self._preempt:
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

    def switch(self, membership: Membership) -> None:
        """Move the task whose step is running. What this step costs is still its old queue's."""
        state = self.current
        if state is None:
            raise UsageError("switch_to() moves the task that calls it, and the caller is in no queue of this executor")
        MEMBERSHIP.set(membership)
        self._depart(state)
        self._join(state, membership)

    def _adopt(self, task: asyncio.Task[Any], context: contextvars.Context | None) -> JoinHandle | None:
        """The state of a task that is seen for the first time; None if it is none of ours."""
        membership = None
        if context is not None:
            membership = context.get(MEMBERSHIP)
        if membership is None or membership.core is not self:
            membership = self.default
            if membership is None:
                return None
        state = JoinHandle.__new__(JoinHandle)
        self._arrivals += 1
        state._begin(task, membership, self._arrivals)
        self._enter(state)
        return state

    def _enter(self, state: JoinHandle) -> None:
        state.first_seen_ns = now_ns()
        self._join(state, state.membership)
        self._table[state.task] = state

    def _join(self, state: JoinHandle, membership: Membership) -> None:
        queue = membership.queue
        if membership.group is not None:
            # A group may have ended and come back while a context still held the old membership.
            membership = queue.groups.setdefault(membership.group, membership)
        state.membership = membership
        state.group = membership.group
        membership.live += 1
        queue.live += 1

    def _depart(self, state: JoinHandle) -> None:
        membership = state.membership
        queue = membership.queue
        queue.live -= 1
        membership.live -= 1
        last = membership.live == 0 and membership.group is not None
        if last:
            queue.groups.pop(membership.group, None)
        try:
            queue.scheduler.forget_task(state)
            if last:
                queue.scheduler.forget_group(membership.group)
        except Exception as error:
            self._replace_scheduler(queue, error)

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, Any], name: str | None) -> JoinHandle:
        """A new task in the membership's queue and group, its first step queued."""
        loop = self.loop
        if not self.accepting or loop is None:
            if asyncio.iscoroutine(coroutine):
                coroutine.close()
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        if type(coroutine) is not _CoroutineType and not asyncio.iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        context = self.context(membership)
        if self._get_task_factory() is None:
            # The constructor calls our call_soon, which need not look up what is known here.
            self._spawning = membership
            self._spawned = None
            try:
                if name is None:
                    task = _Task(coroutine, loop=loop, context=context)
                else:
                    task = _Task(coroutine, loop=loop, context=context, name=name)
            finally:
                self._spawning = None
            state = self._spawned
            self._spawned = None
            if state is None or state.task is not task:
                # While memory was allocated, a finalizer started a task of its own: that one came first.
                state = self._table.get(task)
        else:
            task = loop.create_task(coroutine, name=name, context=context)
            state = self._table.get(task)
        if state is None:
            # An eager task factory has run its first step already, perhaps its last.
            state = JoinHandle.__new__(JoinHandle)
            state._begin(task, membership, 0)
            if not task.done():
                self._enter(state)
        state.spawned = True
        membership.queue.spawned += 1
        return state

    def context(self, membership: Membership) -> contextvars.Context:
        """A copy of the current context in which whatever is started has this membership."""
        context = _copy_context()
        if len(context) == 0 and membership.group is None:
            # The most frequent case: copies of one context share what is in it.
            if membership.alone is None:
                membership.alone = contextvars.Context()
                membership.alone.run(MEMBERSHIP.set, membership)
            return membership.alone.copy()
        if context.get(MEMBERSHIP) is not membership:
            context.run(MEMBERSHIP.set, membership)
        return context

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    def tasks(self) -> list[JoinHandle]:
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

    def _schedule(self) -> None:
        if self._paused:
            return
        self._debug = self.loop.get_debug()  # type: ignore[union-attr]
        self._loop_call_soon(self._pump, context=self._pump_context)
        self._scheduled = True

    def _take(self, queue: QueueState) -> JoinHandle | None:
        """The queue's next task. None if its scheduler has failed and nothing was runnable after all."""
        try:
            popped = queue.scheduler.pop()
            if type(popped) is JoinHandle:
                state: JoinHandle = popped
                if state.callback is not None and not state.held and state.membership.queue is queue:
                    queue.runnable -= 1
                    return state
            raise UsageError(
                f"{type(queue.scheduler).__name__}.pop() of queue {queue.key!r} returned {popped!r}, "
                "which is not a task that it was holding"
            )
        except Exception as error:
            self._replace_scheduler(queue, error)
        if queue.runnable == 0:
            return None
        return self._take(queue)

    def _replace_scheduler(self, queue: QueueState, error: Exception) -> None:
        """A scheduler has failed. What it was holding is known here too, so no task is lost: a RunnableFifo goes on with it."""
        failed = type(queue.scheduler).__name__
        queue.scheduler = RunnableFifo()
        queue.runnable = 0
        for state in self._table.values():
            if state.callback is not None and not state.held and state.membership.queue is queue:
                state.next = None
                queue.scheduler.push(state)
                queue.runnable += 1
        self.loop.call_exception_handler(  # type: ignore[union-attr]
            {
                "message": f"the scheduler {failed} of queue {queue.key!r} failed; a RunnableFifo has taken its place",
                "exception": error,
            }
        )

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
            self._loop_call_soon(self._pump, context=self._pump_context)
            return
        self._stepped_back = False
        started = now_ns()
        if self.turns:
            if self._was_idle:
                self.idle_ns += started - self._turn_ended
            else:
                self.driver_ns += started - self._turn_ended
        self.turns += 1
        self.pumping = True
        try:
            idle = self._run_turn(started)
        except BaseException:
            # KeyboardInterrupt or SystemExit on the way out of the loop, or a broken scheduler. What is runnable stays so.
            if self.loop is not None:
                self._admit()
                self._schedule()
            raise
        finally:
            self.pumping = False
            self._turn_ended = now_ns()
        self._was_idle = self._eevdf.total_share == 0
        self._admit()
        if idle:
            self._scheduled = False
        elif self.loop is not None:
            self._loop_call_soon(self._pump, context=self._pump_context)

    def _run_turn(self, now: int) -> bool:
        """Steps until the budget is spent or nothing is runnable. True if the core may sleep."""
        self._turn_must_end = now + self._driver_yield_ns
        polls = 0
        while polls < self._max_polls and now < self._turn_must_end:
            entity = self._eevdf.pick()
            if entity is None:
                if self.source is None:
                    return not self._held
                news = self.source.poll()
                if self._eevdf.total_share:
                    continue
                if self._held:
                    return False
                if news or polls or self._idle_since == 0:
                    self._idle_since = now
                if now - self._idle_since < self.idle_poll_ns:
                    return False
                self._idle_since = 0
                return self.source.prepare_sleep()
            queue: QueueState = entity.item  # type: ignore[assignment]
            state = self._take(queue)
            if state is None:
                self._eevdf.deactivate(entity)
                continue
            if self._decisions & 15 == 0:
                decided = now_ns()
                self.decision_time.record(decided - now)
                now = decided
            self._decisions += 1
            now = self._run_step(queue, state, now)
            polls += 1
        if self.source is not None:
            self.source.poll()
        return False

    def _run_step(self, queue: QueueState, state: JoinHandle, started: int) -> int:
        """One step of one task of the queue. Returns the time at its end."""
        callback = state.callback
        arguments = state.arguments
        context = state.context
        state.callback = None
        state.arguments = ()
        state.context = None  # type: ignore[assignment]
        if state.first_seen_ns:
            queue.first_poll_wait.record(started - state.first_seen_ns)
            state.first_seen_ns = 0
        self._step_started = started
        self._preempt = False
        self.current = state
        try:
            if cython.compiled:
                PyContext_Enter(context)
                try:
                    callback(*arguments)
                finally:
                    PyContext_Exit(context)
            else:
                context.run(callback, *arguments)
        except (KeyboardInterrupt, SystemExit):
            state.spawned = False  # it ends the program, as in asyncio; nobody has to be told twice
            raise
        finally:
            self.current = None
            ended: int = now_ns()
            elapsed = ended - started
            self._eevdf.charge(queue.entity, elapsed)
            queue.polls += 1
            queue.busy_ns += elapsed
            queue.poll_time.record(elapsed)
            if elapsed > queue.entity.slice_ns:
                queue.slice_overruns += 1
            state.service_ns += elapsed
            if state.membership.queue is queue:  # else it has moved, and the scheduler has forgotten it
                state.membership.service_ns += elapsed
                try:
                    queue.scheduler.observe(state, elapsed)
                except Exception as error:
                    self._replace_scheduler(queue, error)
            if state.callback is None and _is_done(state.task):
                self._leave(state)
            # Only now: a step that makes its own queue runnable again must not make it leave and come back.
            if queue.runnable == 0:
                self._eevdf.deactivate(queue.entity)
        return ended

    def _leave(self, state: JoinHandle) -> None:
        """The task is done."""
        task = state.task
        queue = state.membership.queue
        del self._table[task]
        self._depart(state)
        queue.finished += 1
        if state.waiters is not None:
            state.release(task)
        # The exception is None if it was cancelled. Not task.exception(): that would count as retrieved, and asyncio would
        # not report one that nobody awaits.
        if state.spawned and task._exception is not None:
            queue.panics += 1
            if not queue.catch:
                self.owner.panicked(state)
