# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""FairFifo: groups are fair, and within a group who comes first is served first, so many jobs at a time.

What a queue of jobs for several customers wants. Between groups it is FairGroups: a customer who brings ten thousand jobs has
no more of the core than one who brings ten. Within a group jobs begin in the order in which they came, and no more than `limit`
of them are at work at a time: begun and not done, also while they wait for a database. The oldest one that is runnable goes
first, so jobs are done one after the other, and the mean time to completion of jobs of like size is half of what it is when all
run at once (Schrage and Miller, 1966, for the extreme; Wierman and Harchol-Balter, 2003, for whom that is unfair).

A job is a task and all that it starts in its group (`_jobs_cy`). So a job that waits for its own tasks never waits for its own
place.

A limit means that a pop may find nothing: all that is runnable has to wait until a job is done. Then it returns None, and the
queue is as if it had nothing to run. The end of a job is the end of a step of this queue, after which the queue is asked again.
A job that is aborted while it waits need not wait for its place: it only ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor._fair_groups_cy import FairGroup, FairGroups
from clockworker.executor._heap_cy import Heap
from clockworker.executor._jobs_cy import Job
from clockworker.executor._schedulers_cy import ScheduledTask

if cython.compiled:
    from cython.cimports.clockworker.executor._fair_groups_cy import _SLICE_NS
    from cython.cimports.clockworker.executor._jobs_cy import find_job, number_of
    from cython.cimports.clockworker.executor._orders_cy import PUSH_BITS
else:
    from clockworker.executor._fair_groups_cy import _SLICE_NS
    from clockworker.executor._jobs_cy import find_job, number_of
    from clockworker.executor._orders_cy import PUSH_BITS

_PUSH_MASK = (1 << PUSH_BITS) - 1
MAX_LIMIT = 1_000_000


@cython.final
@cython.cclass
class Line(FairGroup):
    """A group. `runnable` has the tasks of jobs that have not begun, in the order in which they came."""

    jobs: dict[int, Job]  # by number; of groups of one, all of these
    begun: Heap  # the runnable tasks of those that have, the oldest first
    at_work: int  # how many have begun and are not done

    def __init__(self, key: Hashable, jobs: dict[int, Job]) -> None:
        super().__init__(key)
        self.jobs = jobs
        self.begun = Heap()
        self.at_work = 0


@cython.final
@cython.cclass
class LineJob(Job):
    """A job of a group."""

    line: Line
    begun: bool

    def __init__(self, number: int, line: Line) -> None:
        super().__init__(number)
        self.line = line
        self.begun = False


class FairFifo(FairGroups):
    """Groups have equal parts of the queue's time; within a group first come, first served, `limit` jobs at a time.

    limit: how many jobs of a group may have begun and not be done, 1 or more. A job is a task and all that it starts in its
        group; those that wait for their place count as runnable.
    shares: of groups, as `FairGroups` has them; equal unless given.

    A task without a group is a group of its own, with what it starts. Raises ConfigurationError for another limit or shares.
    """

    _limit: int
    _released: bool  # the limit is out of force
    _pushes: int
    _alone: dict[int, Job]  # those without a group

    def __init__(self, limit: int = 1, shares: Mapping[Any, int] | Callable[[Any], int | None] | None = None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
            raise ConfigurationError(f"limit is {limit!r}; it must be a whole number from 1 to {MAX_LIMIT:,}")
        super().__init__(shares)
        self._holds = True
        self._limit = limit
        self._released = False
        self._pushes = 0
        self._alone = {}

    @property
    def limit(self) -> int:
        """How many jobs of a group are at work at a time."""
        return self._limit

    def push(self, task: ScheduledTask) -> None:
        job = self._job_of(task)
        line = job.line
        if job.begun:
            task.key = task.arrival
            self._pushes = (self._pushes + 1) & _PUSH_MASK
            task.tie = (task.tie & ~_PUSH_MASK) | self._pushes
            line.begun.push(task)
        else:
            line.runnable.append(task)
        self._count += 1
        if not line.entity.active and self._has(line):
            self._wake(line)

    def forget_task(self, task: ScheduledTask) -> None:
        if task.slot is None:
            return
        job = self._job_of(task)
        task.slot = None
        task.key = 0  # means something else to the scheduler of another queue
        line = job.line
        job.tasks -= 1
        if job.tasks == 0:
            line.jobs.pop(job.number, None)
            if job.begun:
                line.at_work -= 1
                if not line.entity.active and self._has(line):
                    self._wake(line)
        self._rest(line)

    def _let_begin(self, task: ScheduledTask) -> None:
        job = self._job_of(task)
        line = job.line
        if not job.begun and task in line.runnable:
            line.runnable.remove(task)
            self._count -= 1
            job.begun = True
            line.at_work += 1
            self.push(task)

    def _let_go(self, all_of_them: bool) -> None:
        self._released = all_of_them
        for line in self._groups.values():
            if not line.entity.active and self._has(line):
                self._wake(line)

    def _group_of(self, task: ScheduledTask) -> FairGroup:
        return self._job_of(task).line

    def _job_of(self, task: ScheduledTask) -> LineJob:
        # Looked up once a task, as everywhere.
        job: LineJob
        if task.slot is None:
            line: Line
            if task.group is None:
                jobs = self._alone
            else:
                line = self._group(task.group)  # type: ignore[assignment]
                jobs = line.jobs
            job = find_job(jobs, task)
            if job is None:
                if task.group is None:
                    line = self._new_group(None)
                job = LineJob(number_of(task), line)
                jobs[job.number] = job
            job.tasks += 1
            task.slot = job
        return task.slot  # type: ignore[return-value]

    def _new_group(self, key: Hashable) -> FairGroup:
        line = Line(key, self._alone if key is None else {})
        line.entity = self._eevdf.add(line, 1, _SLICE_NS)
        return line

    def _has(self, group: FairGroup) -> bool:
        line: Line = group  # type: ignore[assignment]
        if line.begun.count:
            return True
        return len(line.runnable) != 0 and (line.at_work < self._limit or self._released)

    def _next(self, group: FairGroup) -> ScheduledTask:
        line: Line = group  # type: ignore[assignment]
        task: ScheduledTask
        if line.begun.count:
            task = line.begun.top()
            line.begun.remove(task)
        else:
            task = line.runnable.popleft()
            job = self._job_of(task)
            if not job.begun:
                job.begun = True
                line.at_work += 1
        return task
