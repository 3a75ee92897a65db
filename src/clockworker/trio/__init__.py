"""The executor on trio: the queues, schedulers and statistics that it has on asyncio, between trio's own tasks.

Not imported with `clockworker`: `from clockworker import trio`, with the extra of that name. In reading order:

    _executor    Executor, run, QueuesInstrument: the ways to get one
    _handles     handles of running queues and groups, to start tasks
    _tasks       JoinHandle, to wait for a task
    _seam        the seam in trio's run queue, through which its tasks come
    _gate        the gate: which tasks are an executor's, and the place of each
    _steps_cy    into the queues, and out of them one step at a time

Policy is the executor's own (`clockworker.executor`: EEVDF, the schedulers, steal, histograms), as it is. Queues are declared
by `clockworker.Queue`, and results and errors are `clockworker`'s: `Ok`, `TaskCancelled`, `TaskPanicked`.
"""

from clockworker.trio._executor import (
    Executor,
    QueuesInstrument,
    current_executor,
    run,
    should_yield,
    yield_maybe,
)
from clockworker.trio._handles import GroupHandle, QueueHandle
from clockworker.trio._tasks import JoinHandle

__all__ = [
    "Executor",
    "GroupHandle",
    "JoinHandle",
    "QueueHandle",
    "QueuesInstrument",
    "current_executor",
    "run",
    "should_yield",
    "yield_maybe",
]
