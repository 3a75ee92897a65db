cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._steps_cy cimport Steps
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState

cdef class Fiber
cdef class Slices(Steps)

cdef dict _current_tasks
cdef set _rules
cdef Fiber _running
cdef long long _DEFAULT_NS, _NOISE_NS, _RETRY_NS, _LONGEST_RETRY_NS, _NEVER_NS
cdef unsigned long _main_thread
cdef int _users, _QUIET, _GROWTH, _DOUBT, _LOOK_EVERY
cdef bint _collecting, _by_hand


cdef class Fiber:
    cdef Slices core
    cdef QueueState queue
    cdef long long slice_ns
    cdef bint may_grow
    cdef object greenlet
    cdef object at
    cdef object hub
    cdef JoinHandle state
    cdef object callback
    cdef object argument
    cdef bint cuttable
    cdef bint finished
    cdef object error
    cdef object task
    cdef object thrown
    cdef long long elapsed_ns
    cdef long long slices
    cdef long long retry_ns
    cdef long long cpu_ns
    cdef long long decisions
    cdef int quiet
    cdef long long shortest_gap_ns

    cpdef run(self)
    @cython.locals(outer=Fiber, outer_could=cython.bint)
    cdef int go(self, long long slice_ns, long long started) except -1
    cdef int end(self) except -1
    @cython.locals(state=JoinHandle)
    cdef object refusal(self, object frame)
    cdef int cut(self) except -1


cdef object current_task(object loop)
@cython.locals(fiber=Fiber, now=cython.longlong, refusals=dict)
cpdef on_alarm(object number, object frame)


cdef class Slices(Steps):
    cdef bint _slicing
    cdef object _loop_close
    cdef object _our_close
    cdef object _loop_run_forever
    cdef object _our_run_forever

    cpdef make_preemptive(self, QueueState queue, long long slice_ns)
    cdef bint is_within(self) noexcept
    @cython.locals(queue=QueueState)
    cpdef take_call_soon(self, object loop)
    cpdef run_loop_forever(self)
    cpdef close_loop(self)
    cpdef detach(self)
    @cython.locals(queue=QueueState)
    cpdef end_slices(self)
    @cython.locals(fiber=Fiber)
    cdef int _end_fiber(self, QueueState queue) except -1
    @cython.locals(
        fiber=Fiber, slice_ns=cython.longlong, cut=cython.bint, ended=cython.longlong, elapsed=cython.longlong, stolen=cython.longlong
    )
    cdef int64_t _run_slice(self, QueueState queue, JoinHandle state, long long started) except? -1
    @cython.locals(gap=cython.longlong)
    cdef bint _is_quiet(self, Fiber fiber) except -1
    cdef _leave_for_now(self, Fiber fiber)
    cdef int _enter_again(self, Fiber fiber) except -1
    cdef int _tell_of_long(self, JoinHandle state, long long elapsed, long long slices) except -1
    cdef _trace_slice(
        self, QueueState queue, JoinHandle state, long long started, long long ended, long long stolen, bint cut
    )
