# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Steps: runnable tasks go into the queues of their executor, and come out of them one step at a time.

A task that belongs to no queue passes: trio runs its step in its next pass, before those that are gated. A task of a queue is
pushed to the queue's scheduler. A `Turn` is trio's batch of one pass: at each `pop()` EEVDF picks a queue, and the queue's
scheduler a task, whose one step trio runs; then the step is charged, and so on until the turn's budget is spent, nothing is
runnable, or the task that comes next has had a step in this turn. Then trio looks for sockets and deadlines, and takes the next
turn. So between two steps of one task trio has looked, which is its own rule, and part of what a checkpoint is: a deadline that
has passed is seen at the next one. The task that would have been next goes back, since what trio finds may come before it.

A step is timed from trio's `pop()` to its next question whether there is more, so what trio does after a step (delivering a
cancellation, ending a task) is its task's. What others had of the core meanwhile is taken off (`_steal_cy`).

This is what is done for every step, and compiled. What is done once a task is its subclass's (`_gate`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._eevdf_cy import Eevdf
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._members_cy import shown
from clockworker.executor._meter_cy import Meter
from clockworker.executor._running_queue_cy import RunningQueue
from clockworker.executor._schedulers_cy import RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._steal_cy import Steal

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_pop, fifo_push
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._schedulers_cy import fifo_pop, fifo_push

# As on asyncio: how long a queue goes on before it is compared with others; one wait in so many is measured, and one decision
# in 16; while a queue sleeps, what wakes it may be waiting in the kernel, and turns are shorter by this factor.
_GRANULARITY_NS = 20_000
_SAMPLE_EVERY = 13
_ATTENTION = 4
_NONE = -2


@cython.final
@cython.cclass
class QueueState(RunningQueue):
    """One queue of an executor on trio."""

    builtin: bool  # the scheduler is Clockworker's own: in C when compiled, where no signal's handler runs

    def use(self, scheduler: Scheduler) -> None:
        """Take the scheduler, which is empty."""
        RunningQueue.use(self, scheduler)
        self.builtin = type(scheduler).__module__.startswith("clockworker.executor.")


@cython.final
@cython.cclass
class Membership:
    """A place for tasks: a queue, with or without a group; the value of the context variable."""

    gate: Any
    queue: QueueState
    group: Hashable
    live: int  # tasks of the group, which is dropped with the last
    service_ns: int  # CPU time of its tasks while it has lived

    def __init__(self, gate: Any, queue: QueueState, group: Hashable) -> None:
        self.gate = gate
        self.queue = queue
        self.group = group
        self.live = 0
        self.service_ns = 0


@cython.final
@cython.cclass
class Place(ScheduledTask):
    """A task of a queue: what schedulers see (the base), and what is kept of it here. A task that moves gets another."""

    membership: Membership
    handle: Any  # its JoinHandle; None: it was not spawned, and has inherited its queue
    queued: bool  # its step is; else it waits for something, runs, or is done
    first_seen_ns: int  # 0 once it has been polled
    pushed_ns: int  # into its queue, if this wait is measured; else 0
    turn: int  # in which it has had its last step

    def __init__(self, task: Any, membership: Membership, handle: Any, arrival: int, tie: int) -> None:
        ScheduledTask.__init__(self, task, membership.group, arrival)
        self.tie = tie
        self.membership = membership
        self.handle = handle
        self.queued = False
        self.first_seen_ns = now_ns()
        self.pushed_ns = 0
        self.turn = 0


class Steps:
    """The run queue of one run of trio, with the steps of one executor (`_seam`)."""

    runner: Any  # trio's, of the run that this serves; None before and after
    places: dict[Any, Place]  # by task, until it is done
    paused: bool  # what is in the queues stays there
    current: Place | None  # whose step runs
    turns: int
    driver_ns: int  # in which tasks were runnable and trio had its turn
    idle_ns: int  # in which nothing was runnable
    decision_time: Histogram  # of one choice in 16
    _eevdf: Eevdf
    _steal: Steal
    _driver_yield_ns: int
    _max_polls: int
    _passing: list[Any]  # runnable tasks of no queue
    _runnable: int  # in the queues
    _next: Place | None  # whose step comes now
    _running: QueueState | None  # whose step runs: the queue that is charged
    _step_started: int
    _preempt: bool  # the running step
    _polls: int  # in this turn; -1: it has not begun; _NONE: it has none
    _decisions: int
    _turn_must_end: int
    _attentive_until: int
    _turn_ended: int
    _was_idle: bool

    def __init__(self, driver_yield_ns: int, max_polls: int) -> None:
        self.runner = None
        self.places = {}
        self.paused = False
        self.current = None
        self.turns = 0
        self.driver_ns = 0
        self.idle_ns = 0
        self.decision_time = Histogram()
        self._eevdf = Eevdf(_GRANULARITY_NS)
        self._steal = Steal(Meter())
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._passing = []
        self._runnable = 0
        self._next = None
        self._running = None
        self._step_started = 0
        self._preempt = False
        self._polls = 0
        self._decisions = 0
        self._turn_must_end = 0
        self._attentive_until = 0
        self._turn_ended = 0
        self._was_idle = False

    def add_queue(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        """A queue more, before the first run."""
        queue = QueueState(key, scheduler, catch)
        queue.entity = self._eevdf.add(queue, share, slice_ns)
        return queue

    def set_share(self, queue: QueueState, share: int) -> None:
        """From the next step on."""
        self._eevdf.set_share(queue.entity, share)

    # What trio asks of its run queue

    def append(self, task: Any) -> None:
        """The task is runnable."""
        place = self.places.get(task)
        if place is None:
            place = self._adopt(task)
            if place is None:
                if self.paused and self.runner.main_task_outcome is not None:
                    self.paused = False  # the run ends, and waits for what is held
                self._passing.append(task)
                return
        place.queued = True
        queue = place.membership.queue
        queue.pushes_to_sample -= 1
        if queue.pushes_to_sample == 0:
            queue.pushes_to_sample = _SAMPLE_EVERY
            place.pushed_ns = now_ns()
        if queue.fifo is not None:
            fifo_push(queue.fifo, place)
        elif not (self._push_to(queue, place) if queue.builtin else self._push_protected(queue, place)):
            return
        queue.runnable += 1
        self._runnable += 1
        if not queue.entity.active:
            self._activate(queue)

    def __len__(self) -> int:
        return len(self._passing) + (0 if self.paused else self._runnable)

    def clear(self) -> None:
        """The turn has been taken, with all that was here."""

    def begin_turn(self) -> Turn:
        """The batch of this pass."""
        turn = Turn(self, self._passing)
        self._passing = []
        # In a run's first pass trio makes its main task, and promises a host that this has not begun when the pass is over.
        self._polls = -1 if self.runner.main_task is not None else _NONE
        return turn

    # Into the queues

    def _activate(self, queue: QueueState) -> None:
        self._eevdf.activate(queue.entity)
        running = self._running
        if (
            running is not None
            and not self._preempt
            and queue.entity.eligible
            and queue.entity.deadline < running.entity.deadline
        ):
            self._preempt = True
            running.preemptions += 1

    def take_over(self, queue: QueueState, fifo: RunnableFifo, held: list[Place]) -> None:
        """In the place of a scheduler that has failed, with all that it was holding."""
        queue.use(fifo)
        for place in held:
            place.next = None
            fifo_push(fifo, place)
        self._runnable += len(held) - queue.runnable
        queue.runnable = len(held)
        if held and not queue.entity.active:
            self._activate(queue)

    # Out of the queues

    def choose(self) -> bool:
        """Whether this turn has one more step; then it is known whose."""
        if self.runner is None or self.paused or self._polls == _NONE or (self._polls < 0 and self._runnable == 0):
            return False
        now = self._step_started  # the time at the end of the step before
        if self._polls < 0:
            now = self._begin_steps()
        elif (
            self._polls >= self._max_polls
            or now >= self._turn_must_end
            or (self._polls and now >= self._attentive_until and self._eevdf.asleep)
        ):
            return self._end_turn(now)
        while True:
            entity = self._eevdf.pick()
            if entity is None:
                return self._end_turn(now)
            queue: QueueState = entity.item  # type: ignore[assignment]
            place = self._take(queue)
            if place is not None:
                break
            self._eevdf.deactivate(entity)
        if place.turn == self.turns:
            self._put_back(queue, place)
            return self._end_turn(now)
        if self._decisions & 15 == 0:
            decided = now_ns()
            self.decision_time.record(decided - now)
            now = decided
        self._decisions += 1
        self._step_started = now
        self._next = place
        self._running = queue
        return True

    def _begin_steps(self) -> int:
        started: int = now_ns()
        gap = started - self._turn_ended
        if gap >= self._steal.long_ns or started < self._steal.alert_until:
            self._steal.passed(gap, started)
            started = now_ns()  # no step pays for it
        if self.turns:
            if self._was_idle:
                self.idle_ns += gap
            else:
                self.driver_ns += gap
        self.turns += 1
        self._polls = 0
        self._turn_must_end = started + self._driver_yield_ns
        self._attentive_until = started + self._driver_yield_ns // _ATTENTION
        return started

    def _end_turn(self, now: int) -> bool:
        if self._polls:
            self._turn_ended = now
            self._was_idle = self._runnable == 0
        return False

    def _take(self, queue: QueueState) -> Place | None:
        """The queue's next task. None if its scheduler has failed and nothing was runnable after all."""
        place: Place
        while queue.runnable:
            if queue.fifo is not None:
                place = fifo_pop(queue.fifo)
            else:
                found = self._take_from(queue)
                if found is None:
                    continue
                place = found
            queue.runnable -= 1
            self._runnable -= 1
            place.queued = False
            return place
        return None

    def _put_back(self, queue: QueueState, place: Place) -> None:
        """It was taken, and does not run now."""
        place.queued = True
        fifo = queue.fifo
        if fifo is not None:  # where it was
            place.next = fifo._first
            fifo._first = place
            if fifo._count == 0:
                fifo._last = place
            fifo._count += 1
        elif not self._push_to(queue, place):
            return
        queue.runnable += 1
        self._runnable += 1

    def begin_step(self) -> Any:
        """The task whose step trio is to run now."""
        if self._next is None or self._running is None:
            raise IndexError("nothing was chosen")
        place: Place = self._next
        queue: QueueState = self._running
        self._next = None
        started = self._step_started
        if place.first_seen_ns:
            queue.first_poll_wait.record(started - place.first_seen_ns)
            place.first_seen_ns = 0
        if place.pushed_ns:
            queue.wait.record(started - place.pushed_ns)
            place.pushed_ns = 0
        place.turn = self.turns
        self._preempt = False
        self.current = place
        return place.task

    def end_step(self) -> None:
        """trio is through with the step. What it cost goes into all of our books."""
        place: Place = self.current  # type: ignore[assignment]
        queue: QueueState = self._running  # type: ignore[assignment]
        self.current = None
        self._running = None
        if self.runner is None or queue is None:  # the step has ended the executor
            return
        ended: int = now_ns()
        elapsed = ended - self._step_started
        if elapsed >= self._steal.long_ns:
            stolen = self._steal.of(elapsed, ended)
            queue.stolen_ns += stolen
            elapsed -= stolen
            ended = now_ns()  # the next step does not pay for the reading
        self._step_started = ended
        self._polls += 1
        queue.polls += 1
        queue.busy_ns += elapsed
        queue.poll_time.record(elapsed)
        place.service_ns += elapsed
        self._eevdf.charge(queue.entity, elapsed)
        membership = place.membership
        if membership.queue is queue:  # else it has moved, and the scheduler has forgotten it
            membership.service_ns += elapsed
            if queue.fifo is None:
                self._observe(queue, place, elapsed)
        if elapsed > queue.entity.slice_ns:
            queue.slice_overruns += 1
            if queue.slow_ns and elapsed >= queue.slow_ns:
                queue.slow_polls += 1
                self._tell_of_slow(place, elapsed)
        if not place.queued and place.task not in self.runner.tasks:
            self._leave(place)
        # Only now: a step that makes its own queue runnable again must not make it leave and come back.
        if queue.runnable == 0:
            self._eevdf.deactivate(queue.entity)

    def should_yield(self) -> bool:
        """Whether the running step should end soon: a queue with an earlier deadline has woken, the slice is used up, or trio
        is due its turn. False outside of a step."""
        running = self._running
        if running is None or self.current is None:
            return False
        if self._preempt:
            return True
        now: int = now_ns()
        return now - self._step_started >= running.entity.slice_ns or now >= self._turn_must_end

    # Schedulers, which may fail

    def _push_to(self, queue: QueueState, place: Place) -> bool:
        """False: what has taken the scheduler's place has found and counted this one too."""
        scheduler = queue.scheduler
        try:
            scheduler.push(place)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        return queue.scheduler is scheduler

    def _take_from(self, queue: QueueState) -> Place | None:
        """None: ask again, if anything is runnable."""
        scheduler = queue.scheduler
        try:
            popped = scheduler.pop()
            if isinstance(popped, Place):
                place: Place = popped
                if place.queued and place.membership.queue is queue:
                    return place
            raise UsageError(
                f"{type(scheduler).__name__}.pop() of queue {shown(queue.key)} returned {shown(popped)}, "
                "which is not a task that it was holding"
            )
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        return None

    def _observe(self, queue: QueueState, place: Place, elapsed: int) -> None:
        scheduler = queue.scheduler
        try:
            scheduler.observe(place, elapsed)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)

    # What the subclass does, once a task

    def _adopt(self, task: Any) -> Place | None:
        """The place of a task that is seen for the first time; None if it is none of ours."""
        raise NotImplementedError

    def _leave(self, place: Place) -> None:
        """The task is done."""
        raise NotImplementedError

    def _push_protected(self, queue: QueueState, place: Place) -> bool:
        """`_push_to`, where no KeyboardInterrupt comes: trio does not expect one of what makes a task runnable."""
        raise NotImplementedError

    def _replace_scheduler(self, queue: QueueState, scheduler: Scheduler, error: BaseException) -> None:
        """It has failed."""
        raise NotImplementedError

    def _tell_of_slow(self, place: Place, elapsed: int) -> None:
        """The step took as long as its queue's limit, or longer."""
        raise NotImplementedError


@cython.final
@cython.cclass
class Turn:
    """The batch of one pass of trio's loop: the tasks that pass, which trio may put in any order; when they are through, those
    that are gated."""

    steps: Steps
    passing: list[Any]

    def __init__(self, steps: Steps, passing: list[Any]) -> None:
        if steps is None or passing is None:
            raise TypeError("a turn is of a run queue, with its tasks that pass")
        self.steps = steps
        self.passing = passing

    def __bool__(self) -> bool:
        steps = self.steps
        if steps.current is not None:
            steps.end_step()
        return len(self.passing) != 0 or steps.choose()

    def pop(self) -> Any:
        """The task whose step is next. IndexError if there is none."""
        return self.passing.pop() if self.passing else self.steps.begin_step()

    def reverse(self) -> None:
        self.passing.reverse()

    def sort(self, *, key: Any) -> None:
        self.passing.sort(key=key)

    # What random.shuffle asks for.

    def __len__(self) -> int:
        return len(self.passing)

    def __getitem__(self, index: int) -> Any:
        return self.passing[index]

    def __setitem__(self, index: int, task: Any) -> None:
        self.passing[index] = task
