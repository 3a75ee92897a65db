cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.ipc.rings._ahead_cy cimport Habit
from clockworker.ipc.rings._doorbell_cy cimport PeerDoorbell
from clockworker.ipc.rings._ring_cy cimport RingConsumer, RingProducer


cdef class Worklist:
    cdef list _room
    cdef Py_ssize_t _count

    cpdef append(self, object thing)
    cpdef pop(self)
    cpdef last(self)
    @cython.locals(place=Py_ssize_t)
    cpdef remove(self, object thing)


cdef class Connection:
    cdef readonly int peer
    cdef public str where
    cdef public long long epoch
    cdef public bint connected
    cdef public bint crowded
    cdef public Py_ssize_t backlog_bytes
    cdef public long long frames_sent
    cdef public long long frames_received
    cdef public long long bytes_sent
    cdef public long long bytes_received
    cdef public object relieved
    cdef public object broken

    cpdef send(self, int kind, long long queue, long long method, long long call, bytes body)
    cpdef send_soon(self)
    cpdef close(self)
    cpdef forsake(self)
    cpdef died(self, str reason, str name)
    cpdef down(self)


cdef class RingConnection(Connection):
    cdef readonly RingConsumer consumer
    cdef readonly RingProducer producer
    cdef readonly PeerDoorbell doorbell
    cdef readonly long long rings_before
    cdef readonly long long rings_ahead_before
    cdef readonly object backlog
    cdef readonly bint has_backlog
    cdef bint unfinished
    cdef Core _core
    cdef Worklist _dirty
    cdef bint _is_dirty
    cdef long long _announced
    cdef bint _owes
    cdef Habit _habit

    cpdef mark_dirty(self)
    cpdef flush(self)
    cdef bint _send_backlog(self) except -1
    cdef _tell(self)
    cpdef make_sure(self)
    cpdef announce_room(self)
    cpdef hear(self)
