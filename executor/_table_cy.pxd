cimport cython
from cpython.mem cimport PyMem_Malloc
from cpython.object cimport PyObject
from clockworker.executor._page_table cimport PageTable
from clockworker.executor._tasks_cy cimport JoinHandle


@cython.final
cdef class TaskTable:
    cdef PageTable _table

    @cython.locals(found=cython.p_void)
    cdef JoinHandle get(self, object task)
    @cython.locals(found=cython.p_void)
    cdef JoinHandle find(self, object callback, object argument)
    cdef put(self, JoinHandle state)
    cdef remove(self, JoinHandle state)
    @cython.locals(at=cython.size_t, entry=cython.size_t)
    cpdef list states(self)
    @cython.locals(state=JoinHandle)
    cpdef clear(self)
