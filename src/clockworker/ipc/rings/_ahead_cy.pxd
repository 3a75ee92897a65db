
cdef long long _SOON_NS, _LONGEST_NS


cdef class Habit:
    cdef readonly long long mean_ns
    cdef readonly long long heard_ns

    cpdef bint hear(self, long long now_ns) except? -1
    cpdef follow(self, long long now_ns)
