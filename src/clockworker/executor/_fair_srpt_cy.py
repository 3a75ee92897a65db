# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""FairSRPT: the job that will be done soonest goes first, as far as the history of its group tells; and none waits for ever.

Shortest remaining processing time first has the least mean time to completion of all orders (Schrage, 1968). It wants to know
how long each job will take. A server does not, but it knows what kind each is, its route or its command, and how long those
have taken that came before: that is the *group* here. The estimate of what remains of a job that has had a is the mean of S - a
over those of its group's last 32 jobs whose total S was more than a: shortest *expected* remaining processing time (SERPT),
which for groups of one size each is SRPT. Where none was longer, it is taken to need as much again as it has had, as with heavy
tails, where the expected rest grows with what is behind. So a group without history goes as under LAS, and so does a job that
turns out to be longer than any.

The best by theory is Gittins' index, the best ratio of chance to be done soon to cost of trying (Gittins, 1979; Aalto, Ayesta
and Righter, 2009). It differs from SERPT where one group has very different jobs, at a search through the history for each.
Rejected: to order groups by their mean alone, which lets a long job of a short group pass all others; and exponentially
weighted means of the total, less what was attained, which fall below zero and say nothing then.

*Fair*: under SRPT the longest jobs pay, and with more work than time they wait for ever. So each job has a limit to its
slowdown, the ratio of service and waiting to service alone. One that has waited for so long that its limit is reached goes
first, among its equals the one whose limit was reached first. What it has expected grows with what it has had, so one that
never ends is given its small part and no more; and sleeping is no waiting.

A job is a task and what it has started in its group (`_jobs_cy`); its tasks share one account.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Hashable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor._heap_cy import Heap, HeapNode
from clockworker.executor._jobs_cy import Job
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._jobs_cy import find_job, number_of
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._jobs_cy import find_job, number_of

_KEPT = 32  # totals of a group: enough for a mean to within a sixth of its deviation, few enough to be looked at for each step
_GROUPS = 1_024  # whose history is kept; clients may choose groups
_NEVER = (1 << 63) - 1
_LONGEST_NS = 1 << 56  # two years; no estimate is longer


@cython.final
@cython.cclass
class History:
    """The totals of the last jobs of a group, in nanoseconds."""

    count: int  # of all that there were

    def __init__(self) -> None:
        self.count = 0
        if not cython.compiled:
            self._totals = [0] * _KEPT

    def remaining_ns(self, attained_ns: int) -> int:
        """What a job that has had so much is expected to need yet."""
        left = 0
        longer = 0
        for number in range(min(self.count, _KEPT)):
            total = self._totals[number]
            if total > attained_ns:
                left += total - attained_ns
                longer += 1
        return left // longer if longer else attained_ns

    def record(self, total_ns: int) -> None:
        """A job is done."""
        self._totals[self.count % _KEPT] = total_ns
        self.count += 1


@cython.final
@cython.cclass
class Due(HeapNode):
    """The other place of a job: `key` is when it will have waited for as long as its limit lets it."""

    job: SizedJob

    def __init__(self, job: SizedJob) -> None:
        super().__init__()
        self.job = job


@cython.final
@cython.cclass
class SizedJob(Job):
    """`key` is what is expected to remain, in nanoseconds; `tie` counts jobs."""

    group: Hashable
    history: History
    runnable: deque[ScheduledTask]
    service_ns: int
    waited_ns: int  # runnable, and another was running
    entered_ns: int  # when it last began to wait
    due: Due

    def __init__(self, number: int, group: Hashable, history: History) -> None:
        super().__init__(number)
        self.group = group
        self.history = history
        self.runnable = deque()
        self.service_ns = 0
        self.waited_ns = 0
        self.entered_ns = 0
        self.due = Due(self)


class FairSRPT(Scheduler):
    """Shortest expected remaining time first, by the history of the group; none is slowed down by more than `slowdown`.

    slowdown: 1 or more: a job whose service and waiting together have reached so many times its expected service goes before
        all others. math.inf: never.

    Tasks without a group share the history of all such tasks, and each is a job of its own with what it starts. Raises
    ConfigurationError for a slowdown below 1.
    """

    _slowdown: float
    _heap: Heap  # of jobs that are runnable, by what is expected to remain
    _due: Heap  # of the same, by when they have waited enough
    _histories: dict[Hashable, History]
    _jobs: dict[Hashable, dict[int, Job]]  # by group and number
    _count: int
    _begun: int  # jobs

    def __init__(self, slowdown: float = 20.0) -> None:
        if isinstance(slowdown, bool) or not isinstance(slowdown, int | float) or not slowdown >= 1:
            raise ConfigurationError(f"slowdown is {slowdown!r}; it must be a number from 1, or math.inf for no limit")
        self._slowdown = slowdown
        self._heap = Heap()
        self._due = Heap()
        self._histories = {}
        self._jobs = {}
        self._count = 0
        self._begun = 0

    @property
    def slowdown(self) -> float:
        """The limit: so many times its expected service may a job's service and waiting be together."""
        return self._slowdown

    def push(self, task: ScheduledTask) -> None:
        job = self._job_of(task)
        job.runnable.append(task)
        self._count += 1
        if job.position < 0:
            self._enter(job, now_ns())

    def pop(self) -> ScheduledTask:
        if self._count == 0:
            raise IndexError("pop from an empty scheduler")
        now = now_ns()
        job: SizedJob = self._heap.top()
        if self._slowdown != math.inf:
            overdue: Due = self._due.top()
            if overdue.key <= now:
                job = overdue.job
        self._heap.remove(job)
        self._due.remove(job.due)
        job.waited_ns += max(0, now - job.entered_ns)
        task: ScheduledTask = job.runnable.popleft()
        self._count -= 1
        if job.runnable:
            self._enter(job, now)
        return task

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        job = self._job_of(task)
        job.service_ns += max(0, min(elapsed_ns, _LONGEST_NS - job.service_ns))
        if job.position >= 0:
            self._rank(job, now_ns())
            self._heap.update(job)
            self._due.update(job.due)

    def forget_task(self, task: ScheduledTask) -> None:
        if task.slot is None:
            return
        job = self._job_of(task)
        task.slot = None
        job.tasks -= 1
        if job.tasks == 0:
            jobs = self._jobs[job.group]
            jobs.pop(job.number, None)
            if not jobs:
                del self._jobs[job.group]
            if job.service_ns and not is_cancelled(task):
                job.history.record(job.service_ns)

    def __len__(self) -> int:
        return self._count

    def _job_of(self, task: ScheduledTask) -> SizedJob:
        # Looked up once a task, as everywhere.
        if task.slot is None:
            jobs = self._jobs.get(task.group)
            if jobs is None:
                jobs = self._jobs[task.group] = {}
            job: SizedJob = find_job(jobs, task)
            if job is None:
                job = SizedJob(number_of(task), task.group, self._history_of(task.group))
                self._begun += 1
                job.tie = job.due.tie = self._begun
                jobs[job.number] = job
            job.tasks += 1
            task.slot = job
        return task.slot  # type: ignore[return-value]

    def _history_of(self, group: Hashable) -> History:
        history = self._histories.get(group)
        if history is None:
            if len(self._histories) >= _GROUPS:
                del self._histories[next(iter(self._histories))]
            history = self._histories[group] = History()
        return history

    def _enter(self, job: SizedJob, now: int) -> None:
        job.entered_ns = now
        self._rank(job, now)
        self._heap.push(job)
        self._due.push(job.due)

    def _rank(self, job: SizedJob, now: int) -> None:
        job.key = job.history.remaining_ns(job.service_ns)
        expected_ns = job.service_ns + job.key
        patience = (self._slowdown - 1) * expected_ns - job.waited_ns
        job.due.key = _NEVER if patience > _LONGEST_NS else job.entered_ns + int(max(0.0, patience))


def is_cancelled(task: ScheduledTask) -> bool:
    """Whether it was aborted, so that what it has had is not what such jobs take."""
    asyncios: object = task.task  # or trio's, which says nothing of it
    return isinstance(asyncios, asyncio.Task) and asyncios.done() and asyncios.cancelled()
