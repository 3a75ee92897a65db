cimport cython
from clockworker.executor._seam_cy cimport Seam
from clockworker.executor._table_cy cimport TaskTable
from clockworker.executor._task_maker_cy cimport TaskMaker
from clockworker.executor._tasks_cy cimport JoinHandle, Membership, QueueState

cdef object _CoroutineType


cdef class Members(Seam):
    cdef readonly object owner
    cdef public Membership default
    cdef public bint accepting
    cdef readonly JoinHandle current
    cdef TaskMaker _maker
    cdef object _get_task_factory
    cdef TaskTable _table
    cdef long long _arrivals
    cdef Membership _spawning
    cdef JoinHandle _spawned
    cdef set _singles_of_others

    @cython.locals(membership=Membership)
    cpdef Membership group(self, QueueState queue, object key)
    @cython.locals(state=JoinHandle)
    cpdef JoinHandle spawn(self, Membership membership, object coroutine, object name)
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef JoinHandle _expected(self, object task, object context)
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef JoinHandle _adopt(self, object task, object context)
    cdef int _enter(self, JoinHandle state) except -1
    @cython.locals(queue=QueueState)
    cdef int _join(self, JoinHandle state, Membership membership) except -1
    @cython.locals(state=JoinHandle)
    cpdef switch(self, Membership membership)
    @cython.locals(queue=QueueState)
    cdef int _leave(self, JoinHandle state) except -1
    @cython.locals(membership=Membership, queue=QueueState)
    cdef int _depart(self, JoinHandle state) except -1
    @cython.locals(state=JoinHandle)
    cdef int _replace_scheduler(self, QueueState queue, object error) except -1
