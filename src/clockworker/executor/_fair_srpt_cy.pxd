cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._heap_cy cimport Heap, HeapNode
from clockworker.executor._jobs_cy cimport Job
from clockworker.executor._schedulers_cy cimport ScheduledTask, Scheduler

cdef int _KEPT
cdef long long _NEVER
cdef long long _LONGEST_NS


cdef class History:
    cdef long long _totals[32]
    cdef Py_ssize_t count

    @cython.locals(left=cython.longlong, longer=cython.longlong, number=Py_ssize_t, total=cython.longlong)
    cdef int64_t remaining_ns(self, long long attained_ns) except -1
    cdef int record(self, long long total_ns) except -1


cdef class Due(HeapNode):
    cdef SizedJob job


cdef class SizedJob(Job):
    cdef object group
    cdef History history
    cdef object runnable
    cdef long long service_ns
    cdef long long waited_ns
    cdef long long entered_ns
    cdef Due due


cdef class FairSRPT(Scheduler):
    cdef double _slowdown
    cdef Heap _heap
    cdef Heap _due
    cdef dict _histories
    cdef dict _jobs
    cdef Py_ssize_t _count
    cdef long long _begun

    @cython.locals(job=SizedJob)
    cpdef push(self, ScheduledTask task)
    @cython.locals(job=SizedJob, overdue=Due, now=cython.longlong)
    cpdef ScheduledTask pop(self)
    @cython.locals(job=SizedJob)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    @cython.locals(job=SizedJob, jobs=dict)
    cpdef forget_task(self, ScheduledTask task)
    @cython.locals(job=SizedJob, jobs=dict)
    cdef SizedJob _job_of(self, ScheduledTask task)
    cdef History _history_of(self, object group)
    cdef int _enter(self, SizedJob job, long long now) except -1
    @cython.locals(expected_ns=cython.longlong)
    cdef int _rank(self, SizedJob job, long long now) except -1
