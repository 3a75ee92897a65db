cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.executor._tasks_cy cimport Membership, QueueState


cdef class GroupHandle:
    cdef readonly Core _core
    cdef readonly Membership _membership


cdef class QueueHandle(GroupHandle):
    cdef readonly QueueState _queue


@cython.locals(handle=GroupHandle)
cpdef GroupHandle group_handle(Core core, Membership membership)
@cython.locals(handle=QueueHandle)
cpdef QueueHandle queue_handle(Core core, QueueState queue)
