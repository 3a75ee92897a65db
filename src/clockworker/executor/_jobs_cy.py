# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""Jobs: a task and all that it has started in its group.

Some schedulers promise something of a whole piece of work: that so many of them are begun at a time, when one should be done,
how long it will take. A task that waits for others that it has started is one piece of work with them. If each had a place of
its own, a job that may not begin would be waited for by one that has begun, for ever.

Each task has two numbers, both of arrivals (`Members._give_place`): `arrival` is that of the first ancestor in the queue;
the upper bits of `tie` are those of the ancestor that this one started, or its own. So what a job starts has the job's arrival;
and if the first ancestor is in another group, as a task is that takes messages and spawns a job for each, the second number
tells its jobs apart.
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._heap_cy import HeapNode
from clockworker.executor._schedulers_cy import ScheduledTask

if cython.compiled:
    from cython.cimports.clockworker.executor._orders_cy import PUSH_BITS
else:
    from clockworker.executor._orders_cy import PUSH_BITS


class Job(HeapNode):
    """Base of what a scheduler keeps of a job, in the `slot` of each of its tasks."""

    number: int  # by which it is found
    tasks: int  # that have come and are not forgotten

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.tasks = 0


def find_job(jobs: dict[int, Job], task: ScheduledTask) -> Job | None:
    """The job of a task that has none yet, among those of its group; None: it is a new one, of `number_of(task)`."""
    found = jobs.get(task.arrival)
    if found is None:
        found = jobs.get(number_of(task))
    return found


def number_of(task: ScheduledTask) -> int:
    """When it arrived, among all tasks of the executor: `tie` without the count of pushes."""
    number: int = task.tie >> PUSH_BITS
    return number
