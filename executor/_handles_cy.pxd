from clockworker.executor._core_cy cimport Core, Membership, QueueState


cdef class GroupHandle:
    cdef readonly Core _core
    cdef readonly Membership _membership


cdef class QueueHandle(GroupHandle):
    cdef readonly QueueState _queue
