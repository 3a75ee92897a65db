cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._eevdf_cy cimport Entity
from clockworker.executor._fiber_cy cimport Fiber
from clockworker.executor._steps_cy cimport Steps
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState
from clockworker.executor._visits_cy cimport Visits

cdef long long _DEFAULT_NS, _NOISE_NS, _SHORTEST_NS
cdef unsigned long _main_thread
cdef int _QUIET, _GROWTH, _DOUBT


cdef class Slices(Steps):
    cdef bint _slicing
    cdef readonly Visits visits
    cdef object _loop_close
    cdef object _our_close
    cdef object _loop_run_forever
    cdef object _our_run_forever

    cpdef make_preemptive(self, QueueState queue, long long slice_ns)
    @cython.locals(queue=QueueState, fiber=Fiber, backend=cython.int)
    cpdef take_call_soon(self, object loop)
    cpdef run_loop_forever(self)
    cpdef close_loop(self)
    cpdef detach(self)
    @cython.locals(queue=QueueState)
    cpdef end_slices(self)
    @cython.locals(fiber=Fiber)
    cdef int _end_fiber(self, QueueState queue) except -1
    @cython.locals(
        fiber=Fiber, slice_ns=cython.longlong, look_ns=cython.longlong, due_ns=cython.longlong, cut=cython.bint, ended=cython.longlong, elapsed=cython.longlong, stolen=cython.longlong
    )
    cdef int64_t _run_slice(self, QueueState queue, JoinHandle state, long long started) except? -1
    @cython.locals(elapsed=cython.longlong)
    cdef int64_t _stays_until(self, Entity entity, long long started, long long due_ns) except? -1
    @cython.locals(queue=QueueState, fiber=Fiber)
    cdef int _consider_preemption(self, Entity woken) except -1
    @cython.locals(gap=cython.longlong)
    cdef bint _is_quiet(self, Fiber fiber, long long now) except -1
    cdef _leave_for_now(self, Fiber fiber)
    cdef int _enter_again(self, Fiber fiber) except -1
    cdef int _tell_of_long(self, JoinHandle state, long long elapsed, long long slices) except -1
    cdef _trace_slice(
        self, QueueState queue, JoinHandle state, long long started, long long ended, long long stolen, bint cut
    )
