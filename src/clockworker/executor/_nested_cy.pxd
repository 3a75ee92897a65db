cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._eevdf_cy cimport Choice, Eevdf, Entity


cdef class Level:
    cdef readonly object key
    cdef readonly Level outer
    cdef readonly Entity entity
    cdef Eevdf eevdf


cdef class Nested(Choice):
    cdef Level _root
    cdef Level _open
    cdef long long _granularity_ns

    @cython.locals(level=Level)
    cpdef Level begin_group(self, object key, long long share, long long slice_ns)
    cpdef end_group(self)
    cpdef set_group_share(self, Level group, long long share)
    @cython.locals(level=Level)
    cpdef int64_t group_lag_ns(self, Level group) except? -1
    @cython.locals(entity=Entity)
    cpdef Entity add(self, object item, long long share, long long slice_ns)
    @cython.locals(level=Level)
    cpdef int64_t lag_ns(self, Entity entity) except? -1
    @cython.locals(level=Level)
    cpdef int activate(self, Entity entity) except -1
    @cython.locals(level=Level)
    cpdef int deactivate(self, Entity entity) except -1
    @cython.locals(level=Level, each=Entity)
    cpdef int charge(self, Entity entity, long long elapsed_ns) except -1
    @cython.locals(level=Level, entity=Entity)
    cpdef Entity pick(self)
    @cython.locals(level=Level)
    cpdef set_share(self, Entity entity, long long share)
    @cython.locals(one=Entity, other=Entity)
    cpdef bint outranks(self, Entity woken, Entity running) except -1
    @cython.locals(level=Level, each=Entity)
    cpdef bint stays(self, Entity entity, long long elapsed_ns) except -1


@cython.locals(level=Level)
cdef Entity entity_around(Entity entity)
