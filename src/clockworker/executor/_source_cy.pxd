cdef class WorkSource:
    cdef bint look(self) except -1
