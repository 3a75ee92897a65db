cimport cython
from cpython.mem cimport PyMem_Malloc
from cpython.object cimport PyObject
from clockworker.executor._page_table cimport PageTable
from clockworker.executor._tasks_cy cimport JoinHandle


cdef bint _KEEPS_HIDDEN


cdef class TaskTable:
    cdef PageTable _table
    cdef dict _states

    @cython.locals(found=cython.p_void)
    cdef JoinHandle get(self, object task)
    @cython.locals(found=cython.p_void)
    cdef JoinHandle find(self, object callback, object argument)
    cdef int put(self, JoinHandle state) except -1
    @cython.locals(was_here=cython.bint)
    cdef int remove(self, JoinHandle state, bint keep_hidden) except -1
    @cython.locals(at=cython.size_t, entry=cython.size_t)
    cpdef list states(self)
    @cython.locals(state=JoinHandle)
    cpdef clear(self)
