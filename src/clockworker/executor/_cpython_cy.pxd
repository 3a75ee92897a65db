cimport cython


cdef class _Sample:
    cdef object value


@cython.locals(sample=_Sample)
cdef object _proceed(object awaited)


cpdef bint holds(str name) except -1
