cimport cython
from clockworker.executor._schedulers_cy cimport RunnableFifo, Scheduler
from clockworker.executor._seam_cy cimport Seam
from clockworker.executor._table_cy cimport TaskTable
from clockworker.executor._task_maker_cy cimport TaskMaker
from clockworker.executor._tasks_cy cimport JoinHandle, Membership, QueueState

cdef object _CoroutineType
cdef object _Task
cdef bint _PLAIN


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
    cdef int _calling_out
    cdef object _ending
    cdef long long _turn_must_end

    cdef bint runs(self, object handle) except -1
    @cython.locals(membership=Membership)
    cpdef bint contains_caller(self) except -1
    cpdef report(self, str message, object error)
    cpdef end_program(self, object error)
    @cython.locals(state=JoinHandle)
    cpdef list pending(self)
    @cython.locals(membership=Membership)
    cpdef Membership group(self, QueueState queue, object key)
    @cython.locals(state=JoinHandle)
    cpdef JoinHandle spawn(self, Membership membership, object coroutine, object name)
    @cython.locals(membership=Membership, state=JoinHandle, known=JoinHandle)
    cdef JoinHandle _expected(self, object task, object context)
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef JoinHandle _adopt(self, object task, object context)
    @cython.locals(parent=JoinHandle, first=cython.bint)
    cdef int _give_place(self, JoinHandle state) except -1
    cdef int _enter(self, JoinHandle state) except -1
    @cython.locals(queue=QueueState)
    cdef int _join(self, JoinHandle state, Membership membership) except -1
    @cython.locals(state=JoinHandle)
    cpdef switch(self, Membership membership)
    @cython.locals(queue=QueueState, awaited=cython.bint)
    cdef int _leave(self, JoinHandle state) except -1
    @cython.locals(membership=Membership, queue=QueueState, last=cython.bint)
    cdef int _depart(self, JoinHandle state) except -1
    cdef Membership _begin_group(self, Membership membership)
    cdef bint _end_group(self, Membership membership) except -1
    @cython.locals(queue=QueueState, scheduler=Scheduler)
    cdef int _forget(self, JoinHandle state, Membership membership, bint last) except -1
    cpdef bint cancel(self, object task) except -1
    cpdef bint cancel_by_force(self, object task) except -1
    cdef int _tell_of_panic(self, JoinHandle state) except -1
    @cython.locals(state=JoinHandle, fifo=RunnableFifo)
    cdef _replace_scheduler(self, QueueState queue, Scheduler scheduler, object error)
