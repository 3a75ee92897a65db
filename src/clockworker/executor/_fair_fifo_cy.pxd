cimport cython
from clockworker.executor._fair_groups_cy cimport FairGroup, FairGroups
from clockworker.executor._heap_cy cimport Heap
from clockworker.executor._jobs_cy cimport Job
from clockworker.executor._schedulers_cy cimport ScheduledTask

cdef long long _PUSH_MASK


cdef class Line(FairGroup):
    cdef dict jobs
    cdef Heap begun
    cdef Py_ssize_t at_work


cdef class LineJob(Job):
    cdef Line line
    cdef bint begun


cdef class FairFifo(FairGroups):
    cdef Py_ssize_t _limit
    cdef bint _released
    cdef long long _pushes
    cdef dict _alone

    @cython.locals(job=LineJob, line=Line)
    cpdef push(self, ScheduledTask task)
    @cython.locals(job=LineJob, line=Line)
    cpdef forget_task(self, ScheduledTask task)
    @cython.locals(job=LineJob, line=Line)
    cpdef _let_begin(self, ScheduledTask task)
    @cython.locals(line=Line)
    cpdef _let_go(self, bint all_of_them)
    cdef FairGroup _group_of(self, ScheduledTask task)
    @cython.locals(job=LineJob, line=Line, jobs=dict)
    cdef LineJob _job_of(self, ScheduledTask task)
    @cython.locals(line=Line)
    cdef FairGroup _new_group(self, object key)
    @cython.locals(line=Line)
    cdef bint _has(self, FairGroup group) except -1
    @cython.locals(line=Line, task=ScheduledTask, job=LineJob)
    cdef ScheduledTask _next(self, FairGroup group)
