cimport cython
from clockworker.executor._singles_cy cimport Singles
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState

cdef class Fiber

cdef dict current_tasks
cdef set rules
cdef Fiber _running
cdef long long _RETRY_NS, _LONGEST_RETRY_NS
cdef int _users, _LOOK_EVERY
cdef bint _collecting, _by_hand


cdef class Fiber:
    cdef Singles core
    cdef QueueState queue
    cdef int backend
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
    cdef long long slice_ns
    cdef bint may_grow
    cdef bint was_long
    cdef long long cpu_ns
    cdef long long decisions
    cdef int quiet
    cdef long long shortest_gap_ns

    cpdef run(self)
    @cython.locals(outer=Fiber, outer_could=cython.bint)
    cdef bint go(self, long long started, long long due_ns, long long look_ns) except -1
    cdef int end(self) except -1
    @cython.locals(state=JoinHandle)
    cdef object refusal(self, object frame)
    cdef int cut(self) except -1


cdef object current_task(object loop)
@cython.locals(fiber=Fiber, now=cython.longlong, refusals=dict)
cpdef on_alarm(object number, object frame)
cdef void cut_by(long long due_ns) noexcept
