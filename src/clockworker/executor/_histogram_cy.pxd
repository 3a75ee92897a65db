cimport cython

cdef int _BITS, _MAX_SHIFT


cdef class Histogram:
    cdef readonly long long max_ns
    cdef readonly long long total_ns
    cdef long long _buckets[280]

    @cython.locals(shift=int, bucket=int)
    cpdef void record(self, long long duration_ns) noexcept

    @cython.locals(length=int, i=int)
    cpdef tuple buckets(self)
