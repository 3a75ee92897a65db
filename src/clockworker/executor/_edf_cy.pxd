cimport cython
from clockworker.executor._heap_cy cimport Heap
from clockworker.executor._jobs_cy cimport Job
from clockworker.executor._schedulers_cy cimport ScheduledTask, Scheduler
from clockworker.executor._tasks_cy cimport JoinHandle

cdef long long _PUSH_MASK
cdef long long NEVER


cdef class DatedJob(Job):
    cdef object group
    cdef long long deadline_ns


cdef class EDF(Scheduler):
    cdef Heap _heap
    cdef dict _jobs
    cdef object _within
    cdef bint _complained
    cdef long long _pushes

    @cython.locals(job=DatedJob, state=JoinHandle, deadline_ns=cython.longlong, in_context=cython.longlong)
    cpdef push(self, ScheduledTask task)
    @cython.locals(task=ScheduledTask)
    cpdef ScheduledTask pop(self)
    @cython.locals(job=DatedJob)
    cpdef forget_task(self, ScheduledTask task)
    @cython.locals(job=DatedJob, now=cython.longlong, deadline_ns=cython.longlong)
    cdef DatedJob _job_of(self, ScheduledTask task)
    cdef object _within_for(self, object group)


@cython.locals(state=JoinHandle)
cdef long long brought_by(ScheduledTask task) except -1
