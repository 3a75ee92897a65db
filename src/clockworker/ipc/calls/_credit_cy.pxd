cimport cython
from clockworker.ipc.calls._call_cy cimport Call

cdef Py_ssize_t _MOST_DEBTS


cdef class Lane:
    cdef readonly long long queue
    cdef readonly long long depth
    cdef readonly long long key
    cdef readonly Py_ssize_t credit
    cdef readonly object waiting


cdef class Credit:
    cdef readonly Py_ssize_t limit
    cdef readonly dict lanes
    cdef Lane _last

    @cython.locals(lane=Lane, key=cython.longlong)
    cpdef Lane lane(self, long long queue, long long depth)
    @cython.locals(lane=Lane)
    cpdef Lane lane_of_done(self, long long queue, long long depth, Py_ssize_t count)
    @cython.locals(lane=Lane)
    cpdef renew(self)
    @cython.locals(lane=Lane)
    cpdef list clear(self)


cdef class Debt:
    cdef long long queue
    cdef Py_ssize_t done


cdef class Debts:
    cdef Py_ssize_t _many
    cdef dict _debts
    cdef Debt _last

    @cython.locals(debt=Debt, done=cython.Py_ssize_t)
    cpdef Py_ssize_t add(self, long long queue) except -1
