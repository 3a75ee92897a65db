cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.executor._handles_cy cimport GroupHandle
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._tasks_cy cimport Membership

cdef int _MOST_KNOWN, _LONGEST_KNOWN
cdef bint _any_in_queue
cdef int NO_GROUP, BY_CLIENT, BY_HOST, BY_HEADER, BY_PATH, BY_ROUTE


cdef class Target:
    cdef readonly str route
    cdef readonly str queue
    cdef readonly GroupHandle after
    cdef readonly Py_ssize_t running
    cdef readonly Py_ssize_t waiting
    cdef public Py_ssize_t refused
    cdef readonly list statuses
    cdef readonly Histogram seconds
    cdef public Py_ssize_t websockets
    cdef readonly object app
    cdef GroupHandle _handle
    cdef Core _core
    cdef Membership _membership
    cdef int _group
    cdef object _group_name
    cdef object _path_value
    cdef Py_ssize_t _limit
    cdef Py_ssize_t _most_waiting
    cdef object _line
    cdef bint _fresh_context
    cdef bint _in_queue

    @cython.locals(membership=Membership)
    cpdef spawn(self, object coroutine, dict scope, str path)
    cdef str _key(self, dict scope, str path)
    cpdef bint admit(self, object request) except -1
    cpdef ended(self)
    cpdef count(self, int status, long long elapsed_ns)


cdef class Targets:
    cdef readonly list all
    cdef object _find
    cdef bint _uses_host
    cdef bint _has_routes
    cdef Py_ssize_t _most_running
    cdef Target _other
    cdef dict _known
    cdef Py_ssize_t _how_many_known

    @cython.locals(of_method=dict, target=Target)
    cpdef Target find(self, str method, str path, list headers)
    cdef _keep(self, str method, str path, Target target)
    cpdef bint are_full(self) except -1
