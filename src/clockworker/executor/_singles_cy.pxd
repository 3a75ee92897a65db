cimport cython
from clockworker.executor._runnable_cy cimport Runnable
from clockworker.executor._tasks_cy cimport JoinHandle, Membership, QueueState

cdef object _enter_task
cdef object _leave_task
cdef dict _current_tasks
cdef bint _COUNTS_TELL
cdef Py_ssize_t _SPARE


cdef class Singles(Runnable):
    cdef readonly Py_ssize_t singles
    cdef list _spare
    cdef object _carrier

    @cython.locals(state=JoinHandle, queue=QueueState)
    cpdef spawn_step(self, Membership membership, object carrier, object step)
    cdef object _run_single(self, JoinHandle state)
    cdef object _single_failed(self, JoinHandle state, object error)
    cdef object _change_carrier(self, object task)
    cdef int _enter_carrier(self, object task) except -1
    cdef int _leave_carrier(self) except -1
    cdef int _leave_single(self, JoinHandle state) except -1
    cdef int _spare_single(self, JoinHandle state) except -1
