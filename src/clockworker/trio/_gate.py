"""The gate: runnable tasks go into the queues of their executor, and come out of them one step at a time.

It is the run queue of one run of trio (`_seam`). A task that belongs to no queue passes: trio runs its step in its next pass,
before those that are gated. A task of a queue is pushed to the queue's scheduler. A `Turn` is trio's batch of one pass: at each
`pop()` EEVDF picks a queue, and the queue's scheduler a task, whose one step trio runs; then the step is charged, and so on until
the turn's budget is spent or nothing is runnable. Then trio looks for sockets and deadlines, and takes the next turn.

A step is timed from trio's `pop()` to its next question whether there is more, so what trio does after a step (delivering a
cancellation, ending a task) is its task's. What others had of the core meanwhile is taken off (`_steal_cy`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import trio
from trio.lowlevel import enable_ki_protection

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._members_cy import shown
from clockworker.executor._meter_cy import Meter
from clockworker.executor._schedulers_cy import Scheduler, owner_of, set_owner
from clockworker.executor._steal_cy import Steal
from clockworker.trio import _seam
from clockworker.trio._books import Books, Owner, now_ns, report
from clockworker.trio._tasks import Place, QueueState

# One wait in so many is measured; one decision in 16.
_SAMPLE_EVERY = 13
# While a queue sleeps, what wakes it may be waiting in the kernel: turns are shorter by this factor.
_ATTENTION = 4


class Gate(Books):
    """The queues of one executor on trio. `Executor` is its public face."""

    def __init__(self, owner: Owner, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(owner)
        self.turns = 0
        self.driver_ns = 0  # in which tasks were runnable and trio had its turn
        self.idle_ns = 0  # in which nothing was runnable
        self.decision_time = Histogram()
        self.paused = False
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._steal = Steal(Meter())
        self._passing: list[trio.lowlevel.Task] = []  # runnable, and in no queue
        self._runnable = 0  # in the queues
        self._next: Place | None = None  # whose step comes now
        self._running: QueueState | None = None  # whose step runs: the queue that is charged
        self._step_started = 0
        self._preempt = False  # the running step
        self._polls = 0  # in this turn
        self._decisions = 0
        self._turn_must_end = 0
        self._attentive_until = 0
        self._turn_ended = 0
        self._was_idle = False

    # Coming and going

    def attach(self) -> None:
        """Take the caller's run: from now on steps of members come here."""
        self._check_schedulers()
        runner = _seam.current_runner()
        self._thread = threading.get_ident()
        self.runner = runner
        try:
            _seam.put_in_place(runner, self)
        except BaseException:
            self.runner = None
            raise
        for queue in self.queues.values():
            set_owner(queue.scheduler, self)
        self._turn_ended = now_ns()
        self._steal.begin(self._turn_ended)

    def _check_schedulers(self) -> None:
        for queue in self.queues.values():
            owner = owner_of(queue.scheduler)
            if owner is not None and owner is not self and owner.is_attached():
                raise ConfigurationError(
                    f"the scheduler of queue {shown(queue.key)} works for another executor, which is running: "
                    f"an instance serves one queue of one executor; make a {type(queue.scheduler).__name__}() for each"
                )

    def is_attached(self) -> bool:
        """Whether it has a run."""
        return self.runner is not None

    def detach(self) -> None:
        """Give the run its own queue back. Tasks that are still there go on as trio's own."""
        if self.runner is None:
            return
        runner, self.runner = self.runner, None
        self.nursery = None
        left = [*self._passing]
        for queue in self.queues.values():
            while queue.runnable and (place := self._take(queue)) is not None:
                left.append(place.task)  # type: ignore[arg-type]  # trio's
            if queue.entity.active:
                self._eevdf.deactivate(queue.entity)
            set_owner(queue.scheduler, None)
        self._passing.clear()
        self._next = None
        _seam.take_out(runner, left)
        for place in self.places.values():
            self._depart(place)
        if self.places:
            self.places.clear()
            self.owner.emptied()
        self._steal.meter.close()

    # What trio asks of its run queue

    @enable_ki_protection
    def append(self, task: trio.lowlevel.Task) -> None:
        """The task is runnable."""
        place = self.places.get(task)
        if place is None:
            place = self._adopt(task)
            if place is None:
                self._passing.append(task)
                return
        place.queued = True
        queue = place.membership.queue
        queue.pushes_to_sample -= 1
        if queue.pushes_to_sample == 0:
            queue.pushes_to_sample = _SAMPLE_EVERY
            place.pushed_ns = now_ns()
        if queue.fifo is not None:
            queue.fifo.append(place)
        elif not self._push_to_other(queue, place):
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
        self._polls = -1
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

    def _push_to_other(self, queue: QueueState, place: Place) -> bool:
        """To a scheduler that may fail. False: what has taken its place has found this one too."""
        scheduler = queue.scheduler
        try:
            scheduler.push(place)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
            if not queue.entity.active:
                self._activate(queue)
        return queue.scheduler is scheduler

    def _counts(self, queue: QueueState, runnable: int) -> None:
        self._runnable += runnable - queue.runnable
        queue.runnable = runnable

    # Out of the queues

    def choose(self) -> bool:
        """Whether this turn has one more step; then it is known whose."""
        if self.runner is None or self.paused or (self._polls < 0 and not self._runnable):
            return False
        now = self._step_started  # the time at the end of the step before
        if self._polls < 0:
            now = self._begin_turn()
        elif self._polls >= self._max_polls or now >= self._turn_must_end:
            return self._end_turn(now)
        elif self._polls and now >= self._attentive_until and self._eevdf.asleep:
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
        if self._decisions & 15 == 0:
            decided = now_ns()
            self.decision_time.record(decided - now)
            now = decided
        self._decisions += 1
        self._step_started = now
        self._next = place
        self._running = queue
        return True

    def _begin_turn(self) -> int:
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
        while queue.runnable:
            if queue.fifo is not None:
                place = queue.fifo.popleft()
            else:
                found = self._take_from_other(queue)
                if found is None:
                    continue
                place = found
            queue.runnable -= 1
            self._runnable -= 1
            place.queued = False
            return place
        return None

    def _take_from_other(self, queue: QueueState) -> Place | None:
        """From a scheduler that may fail. None: ask again, if anything is runnable."""
        scheduler = queue.scheduler
        try:
            popped = scheduler.pop()
            if type(popped) is Place and popped.queued and popped.membership.queue is queue:
                return popped
            raise UsageError(
                f"{type(scheduler).__name__}.pop() of queue {shown(queue.key)} returned {shown(popped)}, "
                "which is not a task that it was holding"
            )
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        return None

    def begin_step(self) -> Any:
        """The task whose step trio is to run now."""
        place, self._next = self._next, None
        assert place is not None and self._running is not None
        started = self._step_started
        if place.first_seen_ns:
            self._running.first_poll_wait.record(started - place.first_seen_ns)
            place.first_seen_ns = 0
        if place.pushed_ns:
            self._running.wait.record(started - place.pushed_ns)
            place.pushed_ns = 0
        self._preempt = False
        self.current = place
        return place.task

    def end_step(self) -> None:
        """trio is through with the step. What it cost goes into all of our books."""
        place, queue = self.current, self._running
        assert place is not None and queue is not None
        self.current = None
        self._running = None
        if self.runner is None:  # the step has ended the executor
            return
        ended = now_ns()
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
                self._call(self.owner.was_slow, place, elapsed)
        if not place.queued and place.task not in self.runner.tasks and place.task in self.places:
            self._leave(place)
        # Only now: a step that makes its own queue runnable again must not make it leave and come back.
        if queue.runnable == 0:
            self._eevdf.deactivate(queue.entity)

    def should_yield(self) -> bool:
        """Whether the running step should end soon: a queue with an earlier deadline has woken, the slice is used up, or trio is
        due its turn. False outside of a step."""
        if self._running is None or self.current is None:
            return False
        if self._preempt:
            return True
        now = now_ns()
        return now - self._step_started >= self._running.entity.slice_ns or now >= self._turn_must_end

    # What is not ours

    def _observe(self, queue: QueueState, place: Place, elapsed: int) -> None:
        scheduler = queue.scheduler
        try:
            scheduler.observe(place, elapsed)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)

    def _call(self, told: Callable[..., None], *args: object) -> None:
        try:
            told(*args)
        except BaseException as error:
            report("reporting a slow step failed", error)


class Turn(list[Any]):
    """The batch of one pass of trio's loop: as a list, the tasks that pass; when they are through, the gate's own."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate, passing: list[trio.lowlevel.Task]) -> None:
        super().__init__(passing)
        self._gate = gate

    def __bool__(self) -> bool:
        gate = self._gate
        if gate.current is not None:
            gate.end_step()
        return len(self) != 0 or gate.choose()

    def pop(self, index: Any = -1) -> Any:
        return super().pop(index) if len(self) else self._gate.begin_step()
