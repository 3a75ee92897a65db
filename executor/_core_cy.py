# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""The core: the pump, and the tasks that are its own.

*Membership* (`_tasks_cy`) is looked up once, when a task is first seen at the seam; then the task is in a table until it is
done. The table's reference is strong: a pending task of a queue is never collected.

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
import operator
import types
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor import _registry_cy as registry
from clockworker.executor._eevdf_cy import Eevdf, Entity
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._layout import suspended
from clockworker.executor._schedulers_cy import RunnableFifo, Scheduler
from clockworker.executor._seam_cy import A_TASK, Seam
from clockworker.executor._table_cy import TaskTable
from clockworker.executor._tasks_cy import JoinHandle, Membership, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock import clock_begin, now_ns, read_clock
    from cython.cimports.clockworker.executor._look_ahead import LONG, learn_coroutine, learn_task, look_ahead
    from cython.cimports.clockworker.executor._native import (
        PyContext_Enter,
        PyContext_Exit,
        PyObject_Call,
        PyObject_GC_UnTrack,
        run_in_context,
    )
    from cython.cimports.clockworker.executor._registry_cy import leave_out
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_pop, fifo_push
    from cython.cimports.clockworker.executor._seam_cy import has_exception, is_done, is_of, task_of
    from cython.cimports.clockworker.executor._tasks_cy import MEMBERSHIP
else:
    from time import monotonic_ns as now_ns

    from clockworker.executor._registry_cy import leave_out

    fifo_pop, fifo_push = RunnableFifo.pop, RunnableFifo.push
    from clockworker.executor._seam_cy import has_exception, is_done
    from clockworker.executor._tasks_cy import MEMBERSHIP

compiled: bool = cython.compiled
if cython.compiled:
    read_clock()
    # 0: not found, and not all that the next steps need is fetched ahead.
    _few, _many = suspended()
    layout = (
        learn_task(A_TASK, A_TASK.get_coro()),
        learn_coroutine(_few[0], _few[1], _few[2], _many[0], _many[1], _many[2]),
    )
else:

    def task_of(callback: Any, argument: object) -> asyncio.Task[Any]:
        return callback.__self__  # type: ignore[no-any-return]

    def is_of(callback: Any, argument: object, task: asyncio.Task[Any]) -> bool:
        return callback.__self__ is task

    def run_in_context(
        callback: Callable[..., object], argument: object, context: contextvars.Context
    ) -> BaseException | None:
        """The exception that escapes from a step or a wake-up of a task."""
        try:
            if argument is None:
                context.run(callback)
            else:
                context.run(callback, argument)
        except BaseException as error:
            return error
        return None


# How long a queue goes on before it is compared with others: a fiftieth of the shortest slice that is given by default, and
# so many short steps that the comparison costs nothing a step.
_GRANULARITY_NS = 20_000
# While a queue sleeps, what wakes it may be waiting in the loop: turns are shorter by this factor, so that nobody begins a
# long step without having looked.
_ATTENTION = 4
# One wait in so many is measured. A prime: tasks take turns in patterns, and those that repeat after 16 are common.
_SAMPLE_EVERY = 13
# C globals when compiled: attributes of modules would be looked up at each spawn.
_Task = asyncio.Task
_CoroutineType = types.CoroutineType
_enter_task = asyncio._enter_task
_leave_task = asyncio._leave_task
_ARRIVAL = operator.attrgetter("arrival")


def _ignore(*args: Any, **keywords: Any) -> None:
    pass


async def _panic(error: BaseException) -> None:
    raise error


class WorkSource(Protocol):
    """Work that comes from beside the loop, such as the rings of other shards."""

    def poll(self) -> bool:
        """Take in what has come and send off what is waiting. True if there was anything to take in."""

    def prepare_sleep(self) -> bool:
        """Called before the core leaves the thread to the loop with nothing runnable. From here on news must come through
        the loop. False if there is news already."""


class Tracer(Protocol):
    """Told of all that the pump does, while there is one. Times are the core's clock's, in ns."""

    def step(self, queue: QueueState, state: JoinHandle, started: int, ended: int) -> None:
        """One step of a task of the queue."""

    def turn(self, started: int, ended: int) -> None:
        """One turn on the loop."""


@cython.final
@cython.cclass
class Core(Seam):
    """The pump of one executor, and its end of the seam. `Executor` is its public face."""

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
    tracer: Tracer | None
    stirred: Callable[[], None] | None  # told once, of the next work after a sleep, before it is done
    singles: int  # steps that are no task's and have not run
    _singles_of_others: set[JoinHandle]  # those in queues whose scheduler may fail

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__()
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
        self.tracer = None
        self.stirred = None
        self._decisions = 0
        self._turn_ended = 0
        self._was_idle = False
        self._step_started = 0
        self._charge_from = 0
        self._turn_must_end = 0
        self._preempt = False
        self._spawning: Membership | None = None  # set while `spawn` makes a task
        self._spawned: JoinHandle | None = None  # what the seam made of it
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._eevdf = Eevdf(_GRANULARITY_NS)
        self._table = TaskTable()
        self._keywords_for_task: dict[str, Any] = {}
        self._name_in_keywords: str | None = None
        self._constructing = False  # a task, with these keywords
        self._arrivals = 0
        self.singles = 0
        self._singles_of_others = set()
        self._scheduled = False
        self._paused = False
        self._held: list[JoinHandle] = []  # those whose steps wait until the pump is behind these callbacks
        self._stepped_back = False
        self._idle_since = 0
        # One empty context for all turns: copying the caller's would keep its variables alive.
        self._pump_context = contextvars.Context()

    # Set-up

    def add_queue(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        queue = QueueState(key, scheduler, catch)
        queue.entity = self._eevdf.add(queue, share, slice_ns)
        self.queues[key] = queue
        return queue

    def set_share(self, queue: QueueState, share: int) -> None:
        self._eevdf.set_share(queue.entity, share)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop: from now on steps of members come here."""
        if cython.compiled:
            clock_begin()
        self.take_call_soon(loop)
        registry.attach(self)
        self._get_task_factory = loop.get_task_factory
        self._keywords_for_task = {"loop": loop, "name": None}
        self._name_in_keywords = None
        self.accepting = True

    def detach(self) -> None:
        """Give the loop its own `call_soon` back. Tasks that are still pending go on as the loop's own."""
        if self.loop is None:
            return
        self.accepting = False
        self.give_call_soon_back()
        self._admit()
        for queue in self.queues.values():
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
                self.pass_on(callback, () if argument is None else (argument,), state.context)
            if queue.entity.active:
                self._eevdf.deactivate(queue.entity)
        registry.detach(self)
        for state in self._table.states():
            self._depart(state)
            if state.first_waiter is not None:
                state.release_at_end()
        self._table.clear()
        self._keywords_for_task = {}
        self.loop = None  # not before: a scheduler that fails even now is reported to it

    # From asyncio to the queues

    def take(self, callback: Any, argument: Any, context: contextvars.Context) -> bool:
        if self.debug:
            self._check_seam_thread()
        state = self.current
        membership = self._spawning
        if membership is not None and argument is None:
            self._spawning = None  # first: while memory is allocated a finalizer may spawn
            state = JoinHandle.__new__(JoinHandle)
            self._arrivals += 1
            state.begin(task_of(callback, argument), membership, context, self._arrivals)
            self._enter(state)
            self._spawned = state
            leave_out(state.task)
        elif state is None or not is_of(callback, argument, state.task):
            # Not the task that runs, which yields: the most frequent of all.
            state = self._table.find(callback, argument)
            if state is None:
                state = self._adopt(task_of(callback, argument), context)
                if state is None:
                    return False
        if cython.compiled and argument is None:
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

    def _push(self, state: JoinHandle) -> None:
        queue = state.membership.queue
        queue.pushes_to_sample -= 1
        if queue.pushes_to_sample == 0:
            queue.pushes_to_sample = _SAMPLE_EVERY
            state.pushed_ns = now_ns()
        if queue.fifo is not None:
            fifo_push(queue.fifo, state)
            queue.runnable += 1
        else:
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
        self.behind = False
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

    def is_busy(self) -> bool:
        return self._eevdf.total_share != 0

    def switch(self, membership: Membership) -> None:
        """Move the task whose step is running. What this step costs is still its old queue's."""
        state = self.current
        if state is None:
            raise UsageError("switch_to() moves the task that calls it, and the caller is in no queue of this executor")
        MEMBERSHIP.set(membership)
        self._depart(state)
        self._join(state, membership)

    def _adopt(self, task: asyncio.Task[Any], context: contextvars.Context) -> JoinHandle | None:
        """The state of a task that is seen for the first time; None if it is none of ours."""
        membership = context.get(MEMBERSHIP)
        if membership is None or membership.core is not self:
            membership = self.default
            if membership is None:
                return None
        state = JoinHandle.__new__(JoinHandle)
        self._arrivals += 1
        state.begin(task, membership, context, self._arrivals)
        self._enter(state)
        return state

    def _enter(self, state: JoinHandle) -> None:
        state.first_seen_ns = now_ns()
        self._join(state, state.membership)
        self._table.put(state)

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
        if queue.fifo is None:
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
        if self._get_task_factory() is None:
            # The constructor calls our call_soon, which need not look up what is known here.
            self._spawning = membership
            self._spawned = None
            try:
                task = self._new_task(coroutine, name, membership)
            finally:
                self._spawning = None
            state = self._spawned
            self._spawned = None
            if state is None or state.task is not task:
                # While memory was allocated, a finalizer started a task of its own: that one came first.
                state = self._table.get(task)
        else:
            if name is None:
                name = getattr(coroutine, "__qualname__", None)
            context = membership.context()
            task = loop.create_task(coroutine, name=name, context=context)
            state = self._table.get(task)
        if state is None:
            # An eager task factory has run its first step already, perhaps its last.
            state = JoinHandle.__new__(JoinHandle)
            state.begin(task, membership, membership.context(), 0)
            if not task.done():
                self._enter(state)
        state.spawned = True
        membership.queue.spawned += 1
        return state

    def spawn_step(self, membership: Membership, carrier: asyncio.Task[Any], step: Callable[[], object]) -> None:
        """Have `step` called once, in the membership's queue and group, as the only step of a task would be: for what cannot
        suspend. No task is made; while the step runs `carrier` is the current one.

        An exception that escapes from it is a panic. If the executor ends before its turn comes, it is not called.
        """
        if not self.accepting:
            raise UsageError("the executor is not running")
        state = JoinHandle.__new__(JoinHandle)
        self._arrivals += 1
        state.begin(carrier, membership, None, self._arrivals)
        state.single = True
        state.callback = step
        state.first_seen_ns = now_ns()
        self._join(state, membership)
        self.singles += 1
        queue = state.membership.queue
        queue.spawned += 1
        if queue.fifo is None:
            self._singles_of_others.add(state)
        self._enqueue(state)

    def begin_charge(self) -> None:
        """From here on time is spent for some queue's sake, outside of its steps."""
        self._charge_from = now_ns()

    def charge(self, queue: QueueState) -> None:
        """It was for this one, if that is runnable now. It counts for whose turn is next, and not in `busy_ns`."""
        if queue.entity.active:
            self._eevdf.charge(queue.entity, now_ns() - self._charge_from)

    def carrier(self, name: str) -> asyncio.Task[Any]:
        """A genuine task, to be the current one during steps that are no task's. It never runs itself and is never done."""

        async def never() -> None:
            pass

        coroutine = never()
        loop: Any = self.loop
        call_soon = loop.call_soon
        loop.call_soon = _ignore  # its first step
        try:
            task = _Task(coroutine, loop=loop, name=name)
        finally:
            loop.call_soon = call_soon
        coroutine.close()
        asyncio._unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def _run_single(self, state: JoinHandle) -> BaseException | None:
        """Call what `spawn_step` was given. Returns what ends the program."""
        if not self.accepting:
            return None
        membership = state.membership
        state.context = membership.context()
        loop: Any = self.loop
        _enter_task(loop, state.task)
        try:
            error = run_in_context(state.callback, None, state.context)
        finally:
            _leave_task(loop, state.task)
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        if not isinstance(error, asyncio.CancelledError):
            self.spawn(
                membership, _panic(error), state.task.get_name()
            )  # whose panic is dealt with as that of any task
        return None

    def _leave_single(self, state: JoinHandle) -> None:
        self.singles -= 1
        if self._singles_of_others:
            self._singles_of_others.discard(state)
        state.membership.queue.finished += 1
        self._depart(state)
        state.callback = None
        state.context = None

    def _new_task(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None, membership: Membership
    ) -> asyncio.Task[Any]:
        """A task on our loop, which has no task factory."""
        if name is None:
            # Says more than asyncio's Task-12, which in CPython 3.11 is made for each task and costs as much as its first step.
            name = getattr(coroutine, "__qualname__", None)
        # Constructing: a finalizer spawns, while memory was allocated below.
        if not cython.compiled or self._constructing:
            return _Task(coroutine, loop=self.loop, name=name, context=membership.context())
        # One dictionary of keywords for all: making it would be a tenth of the work, and most tasks are named like the last.
        # The context is no keyword: a Task copies the current one by itself.
        within = membership.context_to_copy()
        self._constructing = True
        if within is not None:
            PyContext_Enter(within)
        try:
            if name is not self._name_in_keywords:
                self._keywords_for_task["name"] = self._name_in_keywords = name
            return PyObject_Call(_Task, (coroutine,), self._keywords_for_task)  # type: ignore[no-any-return]
        finally:
            if within is not None:
                PyContext_Exit(within)
            self._constructing = False

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    def tasks(self) -> list[JoinHandle]:
        """All member tasks that are not done."""
        return self._table.states()

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

    def take_turn(self) -> None:
        """Take a turn at once, in a callback of the loop's that has nothing else to do; or later, if one has been asked for."""
        if self._scheduled or self._paused or self.loop is None:
            return
        self._stir()
        self._scheduled = True
        self.behind = False
        self._pump()

    def _schedule(self) -> None:
        if not self._paused:
            self._stir()
            self._loop_call_soon(self._pump, context=self._pump_context)
            self._scheduled = True
            self.behind = False

    def _stir(self) -> None:
        stirred = self.stirred
        if stirred is not None:
            self.stirred = None
            stirred()
        self.debug = self.loop.get_debug()  # type: ignore[union-attr]

    def _take(self, queue: QueueState) -> JoinHandle | None:
        """The queue's next task. None if its scheduler has failed and nothing was runnable after all."""
        if queue.fifo is not None:
            if cython.compiled:
                if queue.runnable >= LONG:
                    look_ahead(queue.fifo)
                else:
                    queue.fifo._ahead[0] = cython.NULL
            queue.runnable -= 1
            return fifo_pop(queue.fifo)  # type: ignore[no-any-return]
        try:
            popped = queue.scheduler.pop()
            if type(popped) is JoinHandle:
                state: JoinHandle = popped
                if state.queued and not state.held and state.membership.queue is queue:
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
        queue.use(RunnableFifo())
        queue.runnable = 0
        for state in sorted([*self._table.states(), *self._singles_of_others], key=_ARRIVAL):
            if state.queued and not state.held and state.membership.queue is queue:
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
            if self.tracer is not None:
                self.tracer.turn(started, self._turn_ended)
        self._was_idle = self._eevdf.total_share == 0
        self._admit()
        if idle:
            self._scheduled = False
        elif self.loop is not None:
            self._loop_call_soon(self._pump, context=self._pump_context)

    def _run_turn(self, now: int) -> bool:
        """Steps until the budget is spent or nothing is runnable. True if the core may sleep."""
        self._turn_must_end = now + self._driver_yield_ns
        attentive_until = now + self._driver_yield_ns // _ATTENTION
        polls = 0
        queue: QueueState = None  # type: ignore[assignment]
        while polls < self._max_polls and now < self._turn_must_end:
            if self._eevdf.asleep and now >= attentive_until and polls:
                break
            if self._eevdf.uncharged_ns >= self._eevdf.stint_ns or not polls:
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
                    if self.source.prepare_sleep():
                        return True
                    now = now_ns()  # there is news after all
                    continue
                queue = entity.item  # type: ignore[assignment]
            state = self._take(queue)
            if state is None:
                self._eevdf.deactivate(queue.entity)
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
        argument = state.argument
        state.queued = False
        if argument is not None:
            # A step is kept until the next: freed now, while its successors are made, the collector's count of new objects
            # would rise with each task of many that take turns.
            state.callback = None
            state.argument = None
        if state.first_seen_ns:
            queue.first_poll_wait.record(started - state.first_seen_ns)
            state.first_seen_ns = 0
        if state.pushed_ns:
            queue.wait.record(started - state.pushed_ns)
            state.pushed_ns = 0
        self._step_started = started
        self._preempt = False
        self.current = state
        # KeyboardInterrupt or SystemExit, which end the program, as in asyncio. All others are the task's.
        error = self._run_single(state) if state.single else run_in_context(callback, argument, state.context)
        self.current = None
        ended: int = now_ns()
        elapsed = ended - started
        self._eevdf.charge(queue.entity, elapsed)
        queue.polls += 1
        queue.busy_ns += elapsed
        queue.poll_time.record(elapsed)
        if elapsed > queue.entity.slice_ns:
            queue.slice_overruns += 1
            if queue.slow_ns and elapsed >= queue.slow_ns:
                queue.slow_polls += 1
                self.owner.was_slow(state, elapsed)
        if self.tracer is not None:
            self.tracer.step(queue, state, started, ended)
        state.service_ns += elapsed
        if state.membership.queue is queue:  # else it has moved, and the scheduler has forgotten it
            state.membership.service_ns += elapsed
            if queue.fifo is None:
                try:
                    queue.scheduler.observe(state, elapsed)
                except Exception as failure:
                    self._replace_scheduler(queue, failure)
        if error is not None:
            state.spawned = False  # nobody has to be told twice
        if state.single:
            self._leave_single(state)
        elif not state.queued and is_done(state.task):
            self._leave(state)
        # Only now: a step that makes its own queue runnable again must not make it leave and come back.
        if queue.runnable == 0:
            self._eevdf.deactivate(queue.entity)
        if error is not None:
            raise error
        return ended

    def _leave(self, state: JoinHandle) -> None:
        """The task is done."""
        task = state.task
        queue = state.membership.queue
        state.context = None
        self._table.remove(state, state.first_waiter is not None)
        self._depart(state)
        queue.finished += 1
        if state.first_waiter is not None:
            state.release(task)
        # The exception is None if it was cancelled. Not task.exception(): that would count as retrieved, and asyncio would
        # not report one that nobody awaits.
        if state.spawned and has_exception(task):
            queue.panics += 1
            if not queue.catch:
                self.owner.panicked(state)
