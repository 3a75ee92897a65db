cimport cython
from clockworker.cluster._pieces_cy cimport Incoming, Outgoing
from clockworker.cluster._session_cy cimport Session
from clockworker.ipc.calls._link_cy cimport Link
from clockworker.ipc.rings._connection_cy cimport Connection

cdef int _REQUEST, _ONE_WAY, _FLAGS
cdef Py_ssize_t _HEAD_SIZE, _MESSAGE_HEAD
cdef str _IDLE, _OPEN, _CLOSING


cdef class FarConnection(Connection):
    cdef readonly str node
    cdef readonly int shard
    cdef readonly Session session
    cdef readonly Link link
    cdef readonly long long calls_sent
    cdef readonly long long window_waits
    cdef object _post
    cdef object _standing
    cdef object _mesh
    cdef Outgoing _out
    cdef Incoming _in
    cdef bytes _unsent
    cdef Py_ssize_t _fewest
    cdef Py_ssize_t _most
    cdef bint _is_dirty
    cdef bint _is_sending
    cdef bint _is_there
    cdef bint _is_used
    cdef long long _used_ns

    @cython.locals(is_request=cython.bint, session=Session, out=Outgoing, gathered=cython.Py_ssize_t)
    cpdef send(self, int kind, long long queue, long long method, long long call, bytes body)
    cdef Py_ssize_t _under_way(self) except -1
    cpdef send_soon(self)
    cpdef close(self)
    cpdef died(self, str reason, str name)
    cpdef down(self)
    cdef bint _is_wanted(self) except -1
    @cython.locals(link=Link)
    cpdef bint is_busy(self) except -1
    @cython.locals(session=Session, now=cython.longlong, was=str, has_piece=cython.bint)
    cpdef hear(self, bytes message)
    cpdef go_on(self)
    cpdef bint turn(self) except -1
    @cython.locals(session=Session, now=cython.longlong, frames=list, size=cython.Py_ssize_t)
    cdef _take_in(self)
    @cython.locals(session=Session, waiting=cython.Py_ssize_t)
    cdef _flush(self)
    @cython.locals(session=Session, out=Outgoing, room=cython.Py_ssize_t, before=cython.Py_ssize_t, now=cython.longlong)
    cdef _send_pieces(self)
    cdef _begin(self)
    cdef _began(self)
    cdef _end(self, object ended)
    cdef _relieve(self)
    cdef _mark(self)
