from clockworker.executor._tasks_cy cimport Membership

cdef object _Task


cdef class TaskMaker:
    cdef object _loop
    cdef dict _keywords
    cdef object _name_in_keywords
    cdef bint _constructing

    cpdef attach(self, object loop)
    cpdef detach(self)
    cdef object make(self, object coroutine, object name, Membership membership)
