cimport cython
from libc.stdint cimport int64_t


cdef class Meter:
    cdef long _thread
    cdef bint _counts_delay
    cdef int _descriptor
    cdef bint _counts_switches
    cdef long long _delay_ns
    cdef long long _arrivals
    cdef long long _voluntary

    cpdef int64_t cpu_ns(self) except? -1
    @cython.locals(thread=cython.long, delay_ns=cython.longlong, arrivals=cython.longlong, voluntary=cython.longlong)
    cpdef int64_t ask(self, long long lost_ns) except? -1
    cdef _begin(self, long thread)
    cdef bint _read_schedstat(self) except -1
    cdef _read_switches(self)
    cpdef close(self)
