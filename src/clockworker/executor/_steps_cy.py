# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Steps: a turn of them, and each.

A turn picks a queue (EEVDF), the queue's scheduler picks a task, it runs that one step, charges it, and so on until its
budget is spent. A source of work beside the loop (the mesh of rings) is polled once a turn, and for `idle_poll` after
everything has run dry: then again and again before the loop has its turn, in which it asks the kernel for sockets and timers,
and which would be the better part of the time. A call between shards that poll takes a third less.

Who polls in vain does so for half as long the next time, and after a few times not at all, until something comes as soon after
the core has fallen asleep as a poll would have waited for it (so do KVM's halts: `halt_poll_ns`). Else each request that comes
alone, from a socket, would cost a shard a whole poll for peers that say nothing: five times what the request costs.

A step is charged for what it had: how long it took, less what others had meanwhile (_steal_cy). All that is counted of a step
is that: `busy_ns`, what schedulers observe, whether it was slow. Budgets and waits go by the wall clock, since it is that by
which the loop and other queues wait for a step to end. So a turn, or `should_yield`, may end the run of a queue whose time was
stolen; the queue was charged for nothing, and is next again.
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._cpython_cy import A_TASK, holds, switch_off
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._layout import suspended
from clockworker.executor._members_cy import shown
from clockworker.executor._meter_cy import Meter
from clockworker.executor._protocols import Tracer
from clockworker.executor._singles_cy import Singles
from clockworker.executor._steal_cy import Steal
from clockworker.executor._tasks_cy import JoinHandle, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._look_ahead import LONG, learn_coroutine, learn_task, look_ahead
    from cython.cimports.clockworker.executor._native import run_in_context
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_pop
    from cython.cimports.clockworker.executor._seam_cy import is_done

    layout = (0, 0)  # 0: not found, and not fetched ahead
    if holds("lookahead"):
        _few, _many = suspended()
        layout = (
            learn_task(A_TASK, A_TASK.get_coro()),
            learn_coroutine(_few[0], _few[1], _few[2], _many[0], _many[1], _many[2]),
        )
        if not all(layout):
            switch_off("lookahead", "they are not where the samples have them")
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._pure import run_in_context
    from clockworker.executor._schedulers_cy import fifo_pop
    from clockworker.executor._seam_cy import is_done


# While a queue sleeps, what wakes it may be waiting in the loop: turns are shorter by this factor, so that nobody begins a
# long step without having looked. Rejected: long turns beside queues that would not come first anyway. What comes by sockets
# waits for the end of the turn, too.
_ATTENTION = 4
# For how long nothing may come and nothing be runnable before the loop has its turn: some turns of the loop, and nothing beside
# what sockets and timers wait for while something is. As long as something comes the turn goes on, as it does with steps.
_LOOK_NS = 10_000


class WorkSource:
    """Work that comes from beside the loop, such as the rings of other shards.

    A subclass in Python defines `poll` and `prepare_sleep`. One that is compiled overrides `look` instead of `poll`: the core
    calls it again and again while it waits, and to find a method by its name takes as long as all that it does.
    """

    def look(self) -> bool:
        """`poll`, as the core calls it."""
        return self.poll()

    def poll(self) -> bool:
        """Take in what has come and send off what is waiting. True if there was anything to take in."""
        raise NotImplementedError

    def prepare_sleep(self) -> bool:
        """Called before the core leaves the thread to the loop with nothing runnable. From here on news must come through
        the loop. False if there is news already."""
        raise NotImplementedError

    def turn_failed(self) -> None:
        """Called when a turn ends in an exception: it ended without the look that ends others, and the next may be long in
        coming."""


class Steps(Singles):
    """The steps of one executor."""

    source: WorkSource | None
    idle_poll_ns: int
    patience_ns: int  # of the next idle poll: `idle_poll_ns`, or less while polling brings nothing
    idle_ns: int  # in which nothing was runnable
    tracer: Tracer | None
    decision_time: Histogram  # of one choice in 16
    steal: Steal
    _driver_yield_ns: int
    _max_polls: int
    _decisions: int
    _idle_since: int
    _asleep_since: int
    _charge_from: int
    _turn_ended: int  # when; 0 from a turn's begin until that is known; -1: there was none yet
    _lingers: bool  # the next turn has been asked for, though nothing is runnable
    _doubt: int  # how many chances to do so pass after one in vain
    _chances: int  # that are to pass

    def __init__(self, owner: Any, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(owner)
        self.source = None
        self.idle_poll_ns = 0
        self.patience_ns = 0
        self.idle_ns = 0
        self.tracer = None
        self.decision_time = Histogram()
        self.steal = Steal(Meter())
        self._driver_yield_ns = driver_yield_ns
        self._max_polls = max_polls
        self._decisions = 0
        self._idle_since = 0
        self._asleep_since = 0
        self._charge_from = 0
        self._turn_ended = -1
        self._lingers = False
        self._doubt = 0
        self._chances = 0

    def _run_turn(self, now: int) -> bool:
        """Steps until the budget is spent or nothing is runnable. True if the core may sleep."""
        self._turn_must_end = now + self._driver_yield_ns
        attentive_until = now + self._driver_yield_ns // _ATTENTION
        polls = 0
        polls_before = 0
        look_until = 0
        queue: QueueState = None  # type: ignore[assignment]
        while polls < self._max_polls and now < self._turn_must_end:
            if self._eevdf.asleep and now >= attentive_until and polls:
                break
            if self._eevdf.uncharged_ns >= self._eevdf.stint_ns or not polls:
                entity = self._eevdf.pick()
                if entity is None:
                    if self.source is None:
                        self._turn_ended = now
                        return not self._held and not self._may_linger()
                    if self._carrier is not None:
                        self._leave_carrier()
                    news = self.source.look()
                    if news and (self._idle_since or now - self._asleep_since < self.idle_poll_ns):
                        self.patience_ns = self.idle_poll_ns  # polling has found it, or would have
                    if self._eevdf.total_share:
                        came = now_ns()  # what has come is no part of the step that it has made runnable
                        if came - now >= self.steal.long_ns:
                            self._passed(came - now, came)
                        now = came
                        continue
                    if self._held:
                        return False
                    if news or polls != polls_before or self._idle_since == 0:
                        self._idle_since = now
                        look_until = 0
                    polls_before = polls
                    if now - self._idle_since < self.patience_ns:
                        if look_until == 0:
                            look_until = now + _LOOK_NS
                        if self.behind or now >= look_until:  # behind: a callback waits for the loop's turn
                            return False
                        looked = now_ns()
                        self.idle_ns += looked - now
                        if looked - now >= self.steal.long_ns:
                            self._passed(looked - now, looked)
                        now = looked
                        continue
                    if self._may_linger():
                        return False
                    self._idle_since = 0
                    if self.source.prepare_sleep():
                        self._asleep_since = now
                        self.patience_ns = self.patience_ns >> 1 if self.patience_ns > _LOOK_NS else 0
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
                if decided - now >= self.steal.long_ns:
                    self._passed(decided - now, decided)
                now = decided
            self._decisions += 1
            now = self._run_step(queue, state, now)
            if state.single:
                self._spare_single(state)
            polls += 1
        if self._carrier is not None:
            self._leave_carrier()
        if self.source is not None:
            self.source.look()
        ended: int = now_ns()
        self._turn_ended = ended
        if ended - now >= self.steal.long_ns:
            self._passed(ended - now, ended)
        return False

    def _may_linger(self) -> bool:
        """Nothing is runnable: whether the next turn is to come all the same, behind a callback that this one gave the loop."""
        if not self.behind:
            return False
        if self._chances:
            self._chances -= 1
            return False
        self._lingers = True
        return True

    def _take(self, queue: QueueState) -> JoinHandle | None:
        """The queue's next task. None if nothing may run: its scheduler holds what it has, or has failed and had nothing."""
        if queue.suspended is not None:  # what was cut is finished before anything else
            cut, queue.suspended = queue.suspended, None
            queue.runnable -= 1
            return cut
        if queue.fifo is not None:
            if cython.compiled:
                if queue.runnable >= LONG:
                    look_ahead(queue.fifo)
                else:
                    queue.fifo._ahead[0] = cython.NULL
            state = fifo_pop(queue.fifo)
            if state is not None:
                queue.runnable -= 1
            return state  # type: ignore[no-any-return]
        if queue.built_in is not None and queue.runnable:
            popped = queue.built_in._get()
            if type(popped) is JoinHandle:
                state = popped
                if state.queued and not state.held and state.membership.queue is queue:
                    queue.runnable -= 1
                    return state
            self._refuse(queue, popped)
        while queue.runnable and queue.fifo is None:
            scheduler = queue.scheduler
            state = self._take_from_other(queue)
            if state is not None:
                queue.runnable -= 1
                return state
            if queue.scheduler is scheduler:  # which holds all that it has
                return None
        return None if queue.runnable == 0 else self._take(queue)

    def _take_from_other(self, queue: QueueState) -> JoinHandle | None:
        """From a scheduler that may fail, or may call us back. None: ask again, if anything is runnable and the scheduler is
        another one now."""
        scheduler = queue.scheduler
        try:
            popped = scheduler.pop()
            if queue.scheduler is not scheduler:
                return (
                    None  # it has failed further down, and what has taken its place has found all that it was holding
                )
            if popped is None and scheduler._holds:
                return None
            if type(popped) is JoinHandle:
                state: JoinHandle = popped
                if state.queued and not state.held and state.membership.queue is queue:
                    return state
            raise not_held(queue, popped)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        return None

    def _refuse(self, queue: QueueState, popped: object) -> None:
        """What a built-in scheduler has returned: others than the core have had their hands in it."""
        scheduler = queue.scheduler
        try:
            raise not_held(queue, popped)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)

    def _run_step(self, queue: QueueState, state: JoinHandle, started: int) -> int:
        """One step of one task of the queue. Returns the time at its end.

        First the step, then what it cost in all of our books, then whoever is told: those may raise what they like
        (`_members_cy`), and may make the queue runnable again. Last of all the queue leaves if it has nothing more.
        """
        if queue.sliced:
            return self._run_slice(queue, state, started)
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
        # What a step lets out is not the task's own: KeyboardInterrupt and SystemExit, as in asyncio, or the doing of a future.
        if state.single:
            error = self._run_single(state)
        else:
            if self._carrier is not None:
                self._leave_carrier()
            error = run_in_context(callback, argument, state.context)
        self.current = None
        ended: int = now_ns()
        elapsed = ended - started
        stolen = 0
        if elapsed >= self.steal.long_ns:
            stolen = self._stolen(elapsed, ended, True)
            queue.stolen_ns += stolen
            elapsed -= stolen  # from here on it is what the step had
            ended = now_ns()  # the next step does not pay for the reading
        self._eevdf.charge(queue.entity, elapsed)
        queue.polls += 1
        queue.busy_ns += elapsed
        queue.poll_time.record(elapsed)
        state.service_ns += elapsed
        if state.membership.queue is queue:  # else it has moved, and the scheduler has forgotten it
            state.membership.service_ns += elapsed
            if queue.fifo is None and (queue.built_in is None or not queue.built_in._charge(state, elapsed)):
                self._observe(queue, state, elapsed)
        if elapsed > queue.entity.slice_ns:
            queue.slice_overruns += 1
            if queue.slow_ns and elapsed >= queue.slow_ns:
                queue.slow_polls += 1
                self._tell_of_slow(state, elapsed)
        if self.tracer is not None:
            self._trace_step(queue, state, started, started + elapsed + stolen, stolen)
        if error is not None:
            self._let_out(state, error)
        if state.single:
            self._leave_single(state)
        elif not state.queued and is_done(state.task):
            self._leave(state)
        # Only now: a step that makes its own queue runnable again must not make it leave and come back.
        if queue.runnable == 0:
            self._eevdf.deactivate(queue.entity)
        return ended

    def _run_slice(self, queue: QueueState, state: JoinHandle, started: int) -> int:
        """So much of a step of a preemptive queue. Returns the time at its end."""
        raise NotImplementedError

    # What is not ours

    def _stolen(self, elapsed: int, now: int, of_step: bool) -> int:
        """Of a long step, or of long work beside the steps. Nothing, if the meter fails."""
        try:
            return self.steal.of(elapsed, now) if of_step else self.steal.of_work(elapsed, now)
        except BaseException as error:
            self.report("what others had of the thread's time could not be read", error)
            return 0

    def _passed(self, gap: int, now: int) -> None:
        """A gap between steps."""
        try:
            self.steal.passed(gap, now)
        except BaseException as error:
            self.report("what others had of the thread's time could not be read", error)

    def _observe(self, queue: QueueState, state: JoinHandle, elapsed: int) -> None:
        scheduler = queue.scheduler
        try:
            scheduler.observe(state, elapsed)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)

    def _tell_of_slow(self, state: JoinHandle, elapsed: int) -> None:
        try:
            self.owner.was_slow(state, elapsed)
        except BaseException as error:
            self.report("reporting a slow step failed", error)

    def _trace_step(self, queue: QueueState, state: JoinHandle, started: int, ended: int, stolen: int) -> None:
        tracer = self.tracer
        try:
            # Seldom is anything stolen: a step costs no look at what else the tracer has.
            stolen_step = getattr(tracer, "stolen_step", None) if stolen else None
            if stolen_step is None:
                tracer.step(queue, state, started, ended)  # type: ignore[union-attr]
            else:
                stolen_step(queue, state, started, ended, stolen)
        except BaseException as error:
            self._drop_tracer(tracer, error)

    def _trace_turn(self, started: int, ended: int) -> None:
        tracer = self.tracer
        try:
            tracer.turn(started, ended)  # type: ignore[union-attr]
        except BaseException as error:
            self._drop_tracer(tracer, error)

    def _drop_tracer(self, tracer: Tracer | None, error: BaseException) -> None:
        if self.tracer is tracer:
            self.tracer = None
        self.report(f"the tracer {type(tracer).__name__} failed, and is told of nothing more", error)

    def _let_out(self, state: JoinHandle, error: BaseException) -> None:
        """What a step has let out."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            state.spawned = False  # nobody has to be told twice
            self.end_program(error)
        else:
            self.report("a step let out an exception that is not its task's: what it waits for has failed", error)

    # Time beside the steps

    def begin_charge(self) -> None:
        """From here on time is spent for some queue's sake, outside of its steps."""
        self._charge_from = now_ns()

    def charge(self, queue: QueueState) -> None:
        """It was for this one, if that is runnable now. It counts for whose turn is next, and not in `busy_ns`. From here on it
        is spent for another's."""
        now: int = now_ns()
        elapsed = now - self._charge_from
        if elapsed >= self.steal.long_ns:
            elapsed -= self._stolen(elapsed, now, False)
        if queue.entity.active:
            self._eevdf.charge(queue.entity, elapsed)
        self._charge_from = now


def not_held(queue: QueueState, popped: object) -> UsageError:
    return UsageError(
        f"{type(queue.scheduler).__name__}.pop() of queue {shown(queue.key)} returned {shown(popped)}, "
        "which is not a task that it was holding"
    )
