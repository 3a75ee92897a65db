cimport cython
from libc.stdint cimport int64_t

cdef int _LOOKS, _PATIENCE, _FALLS, _RISES
cdef long long _LEAST_NS
# Those without an underscore are read by tests.


cdef class Visits:
    cdef readonly long long at
    cdef public long long gap_ns

    @cython.locals(gap=cython.longlong)
    cpdef note(self, long long now)
    cpdef int64_t look_ns(self) noexcept
    cpdef bint have_paused(self, long long now) noexcept
