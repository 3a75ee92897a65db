cimport cython
from clockworker.executor._eevdf_cy cimport Choice, Eevdf, Entity
from clockworker.executor._members_cy cimport Members
from clockworker.executor._nested_cy cimport Nested
from clockworker.executor._schedulers_cy cimport RunnableFifo, Scheduler
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState

cdef int _SAMPLE_EVERY
cdef bint _HIDES


cdef class Runnable(Members):
    cdef readonly dict queues
    cdef Choice _eevdf
    cdef bint _scheduled
    cdef list _held
    cdef long long _step_started
    cdef bint _preempt

    @cython.locals(queue=QueueState)
    cpdef QueueState add_queue(self, object key, long long share, long long slice_ns, Scheduler scheduler, bint catch)
    cpdef Nested nest(self)
    cpdef set_share(self, QueueState queue, long long share)
    cpdef bint is_busy(self)
    @cython.locals(state=JoinHandle)
    cdef bint take(self, object callback, object argument, object context) except -1
    cdef int _enqueue(self, JoinHandle state) except -1
    cdef int _schedule(self) except -1
    @cython.locals(queue=QueueState)
    cdef int _push(self, JoinHandle state) except -1
    @cython.locals(scheduler=Scheduler)
    cdef _push_to_other(self, QueueState queue, JoinHandle state)
    cpdef reconsider(self, QueueState queue)
    @cython.locals(queue=QueueState, scheduler=Scheduler)
    cpdef let_begin(self, JoinHandle state)
    cdef int _hold(self, JoinHandle state) except -1
    @cython.locals(held=list, state=JoinHandle)
    cdef int _admit(self) except -1
    @cython.locals(running=QueueState)
    cdef int _consider_preemption(self, Entity woken) except -1
    @cython.locals(state=JoinHandle, now=cython.longlong)
    cpdef bint should_yield(self) except? -1
