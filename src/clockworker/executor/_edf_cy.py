# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""EDF: the task whose deadline is earliest goes first.

Liu and Layland, Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment, 1973; Dertouzos, 1974, proved that
on one processor, whenever any order meets all deadlines, this one does. That holds where a task can be interrupted at any time;
here it is between steps, so a deadline can be missed by as much as the longest step.

Where there is more work than time it is the other way round: who is latest goes first, and makes all others late. So EDF is for
a load that fits. An executor cannot know which job to give up; whoever sets a deadline does, and gives up the job when that
has passed (`cw.deadline` ends calls to other shards, `asyncio.timeout` ends the rest).

*Where deadlines come from*, the earliest of these: the `with cw.deadline(seconds)` in which the task runs or was started, also
on another shard, from where a call brings it along; and what the scheduler was told of the task's group, counted from when
its job came. A job is a task and what it has started in its group, as in `_jobs_cy`, and is due as a whole: else what it waits
for would be due later than the job itself. When the job is late already, what it starts has a time of its own: so what a task
that runs for ever starts, for each message one, is not late from the first.

Deadlines in contexts are of those who set them (`clockworker.ipc`), which stands above this package: it tells how to read one
(`read_contexts_by`).
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor._heap_cy import Heap
from clockworker.executor._jobs_cy import Job
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler, owner_of
from clockworker.executor._tasks_cy import JoinHandle

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._jobs_cy import find_job, number_of
    from cython.cimports.clockworker.executor._orders_cy import PUSH_BITS
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._jobs_cy import find_job, number_of
    from clockworker.executor._orders_cy import PUSH_BITS

_PUSH_MASK = (1 << PUSH_BITS) - 1
NEVER = (1 << 63) - 1
_LONGEST_S = 1e9

Within = float | Mapping[Any, float] | Callable[[Any], float | None]


class _Reader:
    """How to find a deadline in a context: 0 if there is none."""

    read: Callable[[contextvars.Context], int] = staticmethod(lambda context: 0)


def read_contexts_by(read: Callable[[contextvars.Context], int]) -> None:
    """Nanoseconds of CLOCK_MONOTONIC, or 0."""
    _Reader.read = staticmethod(read)


@cython.final
@cython.cclass
class DatedJob(Job):
    """A job and when it is due. NEVER, if it is not."""

    group: Hashable
    deadline_ns: int

    def __init__(self, number: int, group: Hashable, deadline_ns: int) -> None:
        super().__init__(number)
        self.group = group
        self.deadline_ns = deadline_ns


class EDF(Scheduler):
    """Earliest deadline first.

    within: seconds from a job's coming in which it is to be done, for jobs that have no earlier deadline by `cw.deadline`: one
        number for all, or by group in a mapping or a function. None, or a group that is not there: no deadline. What is no
        number of seconds counts as none, and is reported once to the loop's exception handler.

    Who has no deadline runs when all who have one wait. Equals go in the order in which they came.

    Raises ConfigurationError for a `within` that is none of these.
    """

    _heap: Heap
    _jobs: dict[int, Job]
    _within: Within | None
    _complained: bool
    _pushes: int

    def __init__(self, within: Within | None = None) -> None:
        self._heap = Heap()
        self._jobs = {}
        self._within = checked_within(within)
        self._complained = False
        self._pushes = 0

    def push(self, task: ScheduledTask) -> None:
        job = self._job_of(task)
        deadline_ns = job.deadline_ns
        if type(task) is JoinHandle:
            state: JoinHandle = task
            if state.context is not None:
                in_context = _Reader.read(state.context)
                if 0 < in_context < deadline_ns:
                    deadline_ns = in_context
        self._pushes = (self._pushes + 1) & _PUSH_MASK
        task.key = deadline_ns
        task.tie = (task.tie & ~_PUSH_MASK) | self._pushes
        self._heap.push(task)

    def pop(self) -> ScheduledTask:
        if self._heap.count == 0:
            raise IndexError("pop from an empty scheduler")
        task: ScheduledTask = self._heap.top()
        self._heap.remove(task)
        return task

    def forget_task(self, task: ScheduledTask) -> None:
        if task.slot is not None:
            job: DatedJob = task.slot  # type: ignore[assignment]
            task.slot = None
            task.key = 0  # means something else to the scheduler of another queue
            job.tasks -= 1
            if job.tasks == 0 and self._jobs.get(job.number) is job:
                del self._jobs[job.number]

    def __len__(self) -> int:
        return self._heap.count

    def _job_of(self, task: ScheduledTask) -> DatedJob:
        job: Any
        if task.slot is None:
            now = now_ns()
            job = find_job(self._jobs, task)
            if job is None or job.deadline_ns <= now or job.group is not task.group:
                deadline_ns = brought_by(task)
                within = self._within_for(task.group)
                if within is not None:
                    deadline_ns = min(deadline_ns, now + round(within * 1e9))
                job = DatedJob(number_of(task), task.group, deadline_ns)
                self._jobs[job.number] = job
            job.tasks += 1
            task.slot = job
        return task.slot  # type: ignore[return-value]

    def _within_for(self, group: Hashable) -> float | None:
        within: Any = self._within
        if within is None:
            return None
        try:
            if isinstance(within, Mapping):
                within = within.get(group)
            elif callable(within):
                within = within(group)
            return None if within is None else check_seconds(within)
        except BaseException as error:
            owner = owner_of(self)
            if owner is None:
                raise
            if not self._complained:
                self._complained = True
                owner.report("in which time a job is to be done could not be found; it has no deadline", error)
            return None


def brought_by(task: ScheduledTask) -> int:
    """The deadline of what the task runs, if that has one: a call of another shard, whose context comes with its first step."""
    if type(task) is not JoinHandle:
        return NEVER
    state: JoinHandle = task
    runs: Any = state.callback if state.single else state.task.get_coro()
    deadline_ns = getattr(runs, "deadline_ns", 0)
    return deadline_ns if type(deadline_ns) is int and 0 < deadline_ns < NEVER else NEVER


def check_seconds(within: object) -> float:
    """Of a deadline, and no more than can be counted. Raises `ConfigurationError`."""
    if isinstance(within, bool) or not isinstance(within, int | float) or math.isnan(within) or within < 0:
        raise ConfigurationError(f"within is {within!r}; it must be seconds from 0, or None for no deadline")
    return min(within, _LONGEST_S)


def checked_within(within: Any) -> Any:
    """Raises ConfigurationError for what is no time, and no mapping or function that gives one."""
    if isinstance(within, Mapping):
        for each in within.values():
            check_seconds(each)
    elif within is not None and not callable(within):
        check_seconds(within)
    return within
