cimport cython
from clockworker.executor._heap_cy cimport HeapNode
from clockworker.executor._schedulers_cy cimport ScheduledTask


cdef class Job(HeapNode):
    cdef long long number
    cdef Py_ssize_t tasks


@cython.locals(found=object)
cdef Job find_job(dict jobs, ScheduledTask task)
cdef long long number_of(ScheduledTask task) noexcept
