cimport cython
from clockworker.executor._eevdf_cy cimport Eevdf, Entity
from clockworker.executor._schedulers_cy cimport ScheduledTask, Scheduler

cdef long long _SLICE_NS, _LONGEST_NS


cdef class FairGroup:
    cdef object key
    cdef Entity entity
    cdef object runnable
    cdef bint complained


cdef class FairGroups(Scheduler):
    cdef Eevdf _eevdf
    cdef dict _groups
    cdef Py_ssize_t _count
    cdef object _shares

    @cython.locals(group=FairGroup)
    cpdef push(self, ScheduledTask task)
    @cython.locals(entity=Entity, group=FairGroup)
    cpdef ScheduledTask pop(self)
    @cython.locals(group=FairGroup)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    @cython.locals(group=FairGroup)
    cpdef forget_task(self, ScheduledTask task)
    @cython.locals(forgotten=FairGroup)
    cpdef forget_group(self, object group)
    @cython.locals(group=FairGroup)
    cdef FairGroup _group_of(self, ScheduledTask task)
    @cython.locals(group=FairGroup)
    cdef FairGroup _group(self, object key)
    @cython.locals(entity=Entity)
    cdef FairGroup _new_group(self, object key)
    cdef int _wake(self, FairGroup group) except -1
    cdef int _rest(self, FairGroup group) except -1
    @cython.locals(entity=Entity, deadline=cython.longlong)
    cdef int _account(self, FairGroup group, long long elapsed_ns) except -1
    cdef bint _has(self, FairGroup group) except -1
    cdef ScheduledTask _next(self, FairGroup group)
    @cython.locals(share=cython.longlong)
    cdef int _renew(self, FairGroup group) except -1
    @cython.locals(group=FairGroup)
    cdef int _renew_all(self) except -1
