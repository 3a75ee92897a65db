cimport cython
from clockworker.executor._meter_cy cimport Meter
from libc.stdint cimport int64_t

cdef long long _LONG_NS, _ALERT_LONG_NS, _SECOND_NS, _NOTICEABLE_NS, _OFTEN_NS, _NOISE_NS, _SELDOM_NS
cdef int _GAPS


cdef class Steal:
    cdef public Meter meter
    cdef readonly long long long_ns
    cdef readonly long long alert_until
    cdef long long _noticed_ns
    cdef long long _second
    cdef long long _read_at
    cdef long long _cpu_ns
    cdef long long _had_ns
    cdef int _gaps
    cdef long long _elsewhere_ns

    cpdef int begin(self, long long now) except -1
    cpdef int64_t of(self, long long elapsed_ns, long long now) except? -1
    @cython.locals(
        elsewhere_ns=cython.longlong, stolen_ns=cython.longlong, lost_ns=cython.longlong, certain_ns=cython.longlong
    )
    cdef int64_t _of(self, long long elapsed_ns, long long now) except? -1
    cpdef int64_t of_work(self, long long elapsed_ns, long long now) except? -1
    cpdef int passed(self, long long gap_ns, long long now) except -1
    @cython.locals(cpu_ns=cython.longlong, lost_ns=cython.longlong, stolen_ns=cython.longlong)
    cdef int64_t _read(self, long long now) except? -1
