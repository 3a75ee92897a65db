from clockworker.ipc._ahead_cy cimport Habit
from clockworker.ipc._call_cy cimport Channel
from clockworker.ipc._doorbell_cy cimport PeerDoorbell
from clockworker.ipc._ring_cy cimport RingConsumer, RingProducer
from clockworker.ipc._shared_cy cimport Shared


cdef class Connection(Channel):
    cdef readonly Shared shared
    cdef readonly int peer
    cdef readonly long long epoch
    cdef readonly bint connected
    cdef readonly RingConsumer consumer
    cdef readonly RingProducer producer
    cdef readonly PeerDoorbell doorbell
    cdef readonly long long frames_sent
    cdef public long long frames_received
    cdef readonly long long bytes_sent
    cdef public long long bytes_received
    cdef readonly long long rings_before
    cdef readonly long long rings_ahead_before
    cdef readonly object backlog
    cdef readonly Py_ssize_t backlog_bytes
    cdef readonly bint crowded
    cdef bint dirty
    cdef bint unfinished
    cdef long long _announced
    cdef Habit _habit

    cpdef relieved(self)
    cpdef close(self)
    cpdef send(self, int kind, long long queue, long long method, long long call, bytes body)
    cpdef mark_dirty(self)
    cpdef flush(self)
    cdef bint _send_backlog(self) except -1
    cdef _announce(self)
    cpdef announce_room(self)
    cpdef hear(self)
