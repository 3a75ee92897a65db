cimport cython
from libc.stdint cimport int64_t

cdef long long LONG_NS, _NOISE_NS, _GAPS, _ALERT_NS, _OFTEN_NS


cdef class Steal:
    cdef public object meter
    cdef readonly long long alert_until
    cdef long long _read_at
    cdef long long _cpu_ns
    cdef long long _had_ns
    cdef int _gaps
    cdef long long _elsewhere_ns

    cpdef int begin(self, long long now) except -1
    @cython.locals(elsewhere_ns=cython.longlong, stolen_ns=cython.longlong)
    cpdef int64_t of(self, long long elapsed_ns, long long now) except? -1
    cpdef int passed(self, long long gap_ns, long long now) except -1
    @cython.locals(cpu_ns=cython.longlong, lost_ns=cython.longlong, stolen_ns=cython.longlong)
    cdef int64_t _read(self, long long now) except? -1
