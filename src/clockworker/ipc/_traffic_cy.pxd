cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.executor._steps_cy cimport WorkSource
from clockworker.executor._tasks_cy cimport Membership, QueueState
from clockworker.ipc.calls._call_cy cimport Call
from clockworker.ipc.calls._chain_cy cimport unpack_envelope
from clockworker.ipc.rings._connection_cy cimport Connection, RingConnection, Worklist
from clockworker.ipc.rings._doorbell_cy cimport Doorbell
from clockworker.ipc.calls._link_cy cimport Link
from clockworker.ipc.calls._request_cy cimport Request, Target, new_request
from clockworker.ipc.rings._ring_cy cimport RingConsumer
from clockworker.ipc.calls._shared_cy cimport Shared

cdef int _FRAMES_A_TURN, _BYTES_A_TURN, _REQUEST, _REPLY, _ERROR, _CANCEL, _ONE_WAY, _CREDIT, _ITEM, _ACK, _SCHEMA, _BEGUN, _LEAVING, _TOPIC, _ENVELOPE, _KEYED, _FLAGS, _KEY_SIZE


cdef class Traffic(WorkSource):
    cdef readonly Core core
    cdef readonly Shared shared
    cdef readonly list links
    cdef readonly Worklist dirty
    cdef public list elsewhere
    cdef public object after_elsewhere
    cdef readonly list heard
    cdef readonly Doorbell doorbell
    cdef readonly dict targets
    cdef readonly dict memberships
    cdef readonly Membership first
    cdef public list parked
    cdef readonly long long calls_received
    cdef readonly long long one_ways_received
    cdef public bint looks_seldom
    cdef readonly Worklist _unfinished
    cdef long long _last_identifier
    cdef Target _last_target
    cdef long long _last_queue
    cdef Membership _last_membership
    cdef QueueState _charged

    @cython.locals(link=Link, came=cython.bint, ring=RingConnection)
    cdef bint look(self) except -1
    cdef bint _look_elsewhere(self) except -1
    @cython.locals(ring=RingConnection, received=cython.longlong)
    cdef bint _take_in(self, Link link) except -1
    @cython.locals(link=Link, ring=RingConnection, word=cython.Py_ssize_t)
    cdef _listen(self)
    @cython.locals(ring=RingConnection)
    cdef _begin(self, Link link)
    @cython.locals(ring=RingConnection)
    cpdef _finish(self, Link link)
    cpdef bint prepare_sleep(self) except -1
    @cython.locals(ring=RingConnection)
    cpdef turn_failed(self)
    cpdef rung(self)
    cpdef look_at(self, Link link)
    @cython.locals(ring=RingConnection, consumer=RingConsumer, epoch=cython.longlong, taken=cython.int, body=bytes)
    cpdef bint drain(self, Link link) except? -1
    @cython.locals(connection=Connection, epoch=cython.longlong, kind=cython.int, queue=cython.longlong, method=cython.longlong, number=cython.longlong, body=bytes)
    cpdef take_frames(self, Link link, list frames)
    @cython.locals(call=Call, asked=Call, started_in=QueueState)
    cdef _take_frame(self, Link link, int kind, long long queue, long long method, long long number, bytes body)
    cdef _charge(self, QueueState queue)
    @cython.locals(target=Target, membership=Membership)
    cdef _charge_part(self, int kind, long long queue, long long method)
    @cython.locals(request=Request)
    cdef _cancel(self, Link link, long long number)
    @cython.locals(target=Target, membership=Membership, deadline_ns=cython.longlong, depth=cython.longlong, key=cython.longlong, of_key=bytes, request=Request)
    cpdef QueueState accept(self, Link link, int kind, long long queue, long long identifier, long long number, bytes body)
    cpdef refuse(self, Link link, int kind, long long queue, long long number, object error)
