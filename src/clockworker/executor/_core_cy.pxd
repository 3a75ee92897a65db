cimport cython
from cpython.object cimport PyObject
from clockworker.executor._schedulers_cy cimport Scheduler
from clockworker.executor._slices_cy cimport Slices
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState


cdef int _LONGEST_DOUBT, _LOOK_EVERY
cdef tuple _CONTEXT


cdef class Core(Slices):
    cdef readonly long long turns
    cdef readonly long long driver_ns
    cdef public object stirred
    cdef bint _was_idle
    cdef bint _paused
    cdef bint _stepped_back
    cdef list _schedulers
    cdef object _pump_context
    cdef object _pump_callback

    @cython.locals(queue=QueueState, state=JoinHandle)
    cpdef detach(self)
    @cython.locals(scheduler=Scheduler)
    cdef int _let_all_go(self, QueueState queue, bint all_of_them) except -1
    cpdef take_turn(self)
    cpdef bint is_attached(self) except -1
    cdef _end_program(self)
    cdef int _schedule(self) except -1
    cdef int _ask_for_turn(self) except -1
    cdef int _stir(self) except -1
    @cython.locals(started=cython.longlong, idle=cython.bint)
    cdef _pump(self)
    cdef int _end_turn(self, long long started) except -1


cdef inline object core_pump(object self, PyObject *unused):
    """`Core._pump`, as a builtin method of no arguments calls it."""
    (<Core>self)._pump()
    return None
