cimport cython


@cython.final
cdef class Histogram:
    cdef readonly long long max_ns
    cdef long long _buckets[64]

    cpdef record(self, long long duration_ns)
