"""The executor: one thread of one event loop, divided fairly between weighted queues of tasks.

It works on any asyncio loop, alone; shards and rings need it, and it knows nothing of them. In reading order:

    _queue          Queue and QueueGroup, the declarations
    _handles_cy     handles of running queues and groups, to spawn tasks; _group_handle, of groups of queues
    _join           JoinHandle, to wait for a task, as type checkers see it; _outcome, what became of it
    _executor       Executor; _loops, run, new_event_loop, current_executor
    _seam_cy        the seam in `call_soon`, through which asyncio's tasks come
    _members_cy     which tasks are ours, and the place of each; _task_maker_cy, making them
    _runnable_cy    into the queues
    _singles_cy     steps of no task
    _steps_cy       out of the queues: which step is next, and running it; what is polled beside the loop
    _slices_cy      steps of preemptive queues, in pieces; _visits_cy, how often it is worth looking who waits
    _fiber_cy       where they run, and are cut; _alarm_cy, when; _locks_cy and _guard_cy, where not
    _core_cy        the pump: when turns come. With the six above it makes one object, the core of an executor
    _controlled     Controlled: a queue's share by a goal; _paced_cy, a queue that is held to a part of the core
    _preempt        no_preempt, never_preempt; whether there can be preemptive queues
    _protocols      whom the core tells of what it does
    _tasks_cy       what the core keeps of queues (_running_queue_cy), tasks and those who wait; JoinHandle itself
    _table_cy       the tasks by identity; _page_table.pxd, in the order of memory
    _registry_cy    asyncio's set of all tasks, and ours
    _eevdf_cy       policy: which queue is next; _nested_cy, where queues are in groups
    _schedulers_cy  policy: which task of the queue is next; _orders_cy, by arrival and by attained service
    _fair_groups_cy FairGroups: EEVDF between the groups of a queue; _fair_fifo_cy, so many jobs of a group at a time
    _edf_cy         EDF, by deadlines; _fair_srpt_cy, by what is expected to remain; _jobs_cy, what is one job
    _heap_cy        heaps for policies, and a line
    _histogram_cy   durations in log-linear buckets
    _stats          what stats() returns
    _look_ahead.pxd what the next steps of a long queue will touch is fetched into the cache
    _clock_cy       the clock that times steps
    _steal_cy       what others had of a step's time; _meter_cy asks the kernel
    _cpython_cy     what we assume of CPython, tried at import, and switched off where it is not so; _layout, samples to try
    _greenlet.pxd, _lock_methods.pxd  C of _fiber_cy and _locks_cy
    _native.pxd     C that the compiled modules (`_cy`) use; _pure, some of it in Python
    _seal_cy        compiled types whose instances come complete or not at all
"""

from clockworker.executor._controlled import Controlled
from clockworker.executor._core_cy import compiled
from clockworker.executor._cpython_cy import switched_off
from clockworker.executor._edf_cy import EDF
from clockworker.executor._executor import Executor
from clockworker.executor._fair_fifo_cy import FairFifo
from clockworker.executor._fair_groups_cy import FairGroups
from clockworker.executor._fair_srpt_cy import FairSRPT
from clockworker.executor._group_handle import QueueGroupHandle
from clockworker.executor._handles_cy import GroupHandle, QueueHandle
from clockworker.executor._heap_cy import HeapNode
from clockworker.executor._join import JoinHandle
from clockworker.executor._loops import current_executor, new_event_loop, run, should_yield, yield_maybe
from clockworker.executor._meter_cy import Meter
from clockworker.executor._orders_cy import LAS, QLAS, ArrivalFifo, _ServiceScheduler
from clockworker.executor._outcome import Ok
from clockworker.executor._preempt import never_preempt, no_preempt
from clockworker.executor._queue import Queue, QueueGroup
from clockworker.executor._running_queue_cy import RunningQueue
from clockworker.executor._schedulers_cy import RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._seal_cy import seal_package
from clockworker.executor._stats import DurationStats, ExecutorStats, QueueGroupStats, QueueStats
from clockworker.executor._steps_cy import WorkSource

__all__ = [
    "EDF",
    "LAS",
    "QLAS",
    "ArrivalFifo",
    "Controlled",
    "DurationStats",
    "Executor",
    "ExecutorStats",
    "FairFifo",
    "FairGroups",
    "FairSRPT",
    "GroupHandle",
    "JoinHandle",
    "Ok",
    "Queue",
    "QueueGroup",
    "QueueGroupHandle",
    "QueueGroupStats",
    "QueueHandle",
    "QueueStats",
    "RunnableFifo",
    "ScheduledTask",
    "Scheduler",
    "compiled",
    "current_executor",
    "never_preempt",
    "new_event_loop",
    "no_preempt",
    "run",
    "should_yield",
    "switched_off",
    "yield_maybe",
]

seal_package(
    __name__,
    but={
        HeapNode,
        ScheduledTask,
        Scheduler,
        RunnableFifo,
        ArrivalFifo,
        _ServiceScheduler,
        LAS,
        QLAS,
        FairGroups,
        FairFifo,
        EDF,
        FairSRPT,
        RunningQueue,
        WorkSource,
        Meter,
    },
)
