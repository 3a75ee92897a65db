cimport cython
from clockworker.executor._runnable_cy cimport Runnable
from clockworker.executor._schedulers_cy cimport RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._tasks_cy cimport QueueState

cdef long long _SLACK_NS
cdef double _LEAST


cdef class Paced(Scheduler):
    cdef readonly Scheduler inner
    cdef Runnable _core
    cdef QueueState _queue
    cdef double _rate
    cdef long long _due_ns
    cdef bint _released
    cdef object _timer

    cpdef push(self, ScheduledTask task)
    @cython.locals(now=cython.longlong)
    cpdef ScheduledTask pop(self)
    @cython.locals(now=cython.longlong)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    cpdef forget_task(self, ScheduledTask task)
    cpdef forget_group(self, object group)
    cpdef _let_begin(self, ScheduledTask task)
    cpdef _let_go(self, bint all_of_them)
    @cython.locals(now=cython.longlong)
    cpdef set_rate(self, double rate)
    cpdef _go_on(self)


@cython.locals(paced=Paced, inner=Scheduler, task=ScheduledTask)
cpdef Paced begin_pacing(Runnable core, QueueState queue)
@cython.locals(inner=Scheduler, fifo=RunnableFifo, queue=QueueState, task=ScheduledTask)
cpdef end_pacing(Paced paced)
