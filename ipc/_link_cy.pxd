cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.executor._tasks_cy cimport JoinHandle, Membership
from clockworker.ipc._ahead_cy cimport Habit
from clockworker.ipc._call_cy cimport Call, Channel, Method, new_call
from clockworker.ipc._doorbell_cy cimport PeerDoorbell
from clockworker.ipc._ring_cy cimport RingConsumer, RingProducer

cdef object _DEADLINE
cdef int _ONE_WAY, _CANCEL, _CREDIT, _ENVELOPE


cdef class Shared:
    cdef readonly Core core
    cdef readonly object loop
    cdef readonly int shard_id
    cdef readonly object limits
    cdef readonly Py_ssize_t max_message
    cdef public object encode
    cdef readonly dict identifiers
    cdef readonly object deadlines
    cdef readonly list dirty
    cdef public long long calls_sent
    cdef public long long one_ways_sent
    cdef object new_earliest
    cdef object broken


cdef class Lane:
    cdef readonly long long queue
    cdef readonly Py_ssize_t credit
    cdef readonly object waiting


cdef class Debt:
    cdef long long queue
    cdef Py_ssize_t done


cdef class Link(Channel):
    cdef readonly Shared shared
    cdef readonly int peer
    cdef readonly long long epoch
    cdef readonly bint connected
    cdef readonly dict pending
    cdef readonly dict serving
    cdef readonly dict outgoing
    cdef public dict mismatches
    cdef readonly dict schemas
    cdef readonly long long frames_sent
    cdef public long long frames_received
    cdef readonly long long bytes_sent
    cdef public long long bytes_received
    cdef readonly long long credit_waits
    cdef readonly long long rings_before
    cdef Habit _habit
    cdef readonly long long rings_ahead_before
    cdef readonly RingConsumer consumer
    cdef readonly RingProducer producer
    cdef readonly PeerDoorbell doorbell
    cdef readonly dict lanes
    cdef bint dirty
    cdef object when_quiet
    cdef public long long one_ways_done
    cdef Lane _last_lane
    cdef long long _next_call
    cdef readonly object _backlog
    cdef Py_ssize_t _backlog_bytes
    cdef bint _crowded
    cdef long long _announced
    cdef dict _debts
    cdef Debt _last_debt
    cdef Py_ssize_t _many_owed

    @cython.locals(call=Call, lane=Lane)
    cpdef disconnect(self, str reason)
    @cython.locals(lane=Lane)
    cpdef release(self)
    @cython.locals(lane=Lane, call=Call)
    cpdef bint let_through(self, long long epoch) except -1
    @cython.locals(shared=Shared, method=Method, current=JoinHandle, membership=Membership, lane=Lane, queue=cython.longlong, body=bytes, held=cython.bint, crowded=cython.bint)
    cpdef submit(self, Call call)
    @cython.locals(shared=Shared, current=JoinHandle, membership=Membership, lane=Lane, queue=cython.longlong, body=bytes)
    cpdef Call post(self, Method method, tuple arguments)
    @cython.locals(lane=Lane)
    cdef Lane _lane(self, long long queue)
    @cython.locals(lane=Lane)
    cpdef leave(self, Call call)
    @cython.locals(call=Call)
    cpdef Call settle(self, long long number)
    @cython.locals(lane=Lane)
    cpdef give_back(self, long long queue, Py_ssize_t count)
    @cython.locals(call=Call)
    cdef _give_back(self, Lane lane, Py_ssize_t count)
    @cython.locals(lane=Lane, body=bytes)
    cdef _begin(self, Call call)
    cdef bint _serves_peer(self) except -1
    @cython.locals(call=Call, lane=Lane)
    cdef _refuse_waiting(self)
    cdef _ended(self, Call call)
    cpdef hear(self)
    cpdef answer(self, long long epoch, long long number, int kind, bytes body)
    @cython.locals(debt=Debt, done=cython.Py_ssize_t)
    cpdef owe(self, long long epoch, long long queue)
    cpdef send(self, int kind, long long queue, long long method, long long call, bytes body)
    cpdef mark_dirty(self)
    cpdef flush(self)
    cdef _announce(self)
    cpdef announce_room(self)
    cdef bint _send_backlog(self) except -1
