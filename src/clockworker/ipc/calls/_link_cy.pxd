cimport cython
from clockworker.executor._tasks_cy cimport JoinHandle, Membership
from clockworker.ipc.calls._call_cy cimport Call, Channel, Method, new_call
from clockworker.ipc.calls._chain_cy cimport Chain
from clockworker.ipc.rings._connection_cy cimport Connection
from clockworker.ipc.calls._credit_cy cimport Credit, Debts, Lane
from clockworker.ipc.calls._shared_cy cimport Shared

cdef object _CHAIN
cdef int _ONE_WAY, _CANCEL, _CREDIT, _ENVELOPE, _KEYED, _FLAGS, _DEEPEST


cdef class Link(Channel):
    cdef readonly Connection connection
    cdef readonly Shared shared
    cdef readonly int peer
    cdef readonly dict pending
    cdef readonly dict serving
    cdef readonly dict outgoing
    cdef public dict mismatches
    cdef public dict variants
    cdef readonly dict schemas
    cdef readonly Credit credit
    cdef readonly long long credit_waits
    cdef readonly Py_ssize_t streams
    cdef public long long one_ways_done
    cdef readonly Link other
    cdef readonly bint changed
    cdef bint split
    cdef readonly bint holding
    cdef object when_quiet
    cdef Debts _debts
    cdef long long _next_call

    @cython.locals(call=Call)
    cpdef disconnect(self, str reason, bint keep=*)
    cpdef pair(self, Link other)
    cpdef look_for_split(self)
    cpdef Link present(self)
    @cython.locals(old=Link)
    cpdef change(self, object when_quiet)
    @cython.locals(theirs=Lane, lane=Lane, call=Call)
    cpdef inherit(self, Link old)
    cpdef hold(self, object when_quiet)
    @cython.locals(lane=Lane)
    cpdef suspend(self)
    cpdef resume(self)
    @cython.locals(other=Link, within=Chain)
    cdef Link _way(self)
    @cython.locals(way=Link, shared=Shared, connection=Connection, method=Method, current=JoinHandle, membership=Membership, lane=Lane, queue=cython.longlong, depth=cython.longlong, body=bytes)
    cpdef submit(self, Call call)
    cdef bint _will_begin(self, Lane lane) except -1
    @cython.locals(lane=Lane)
    cdef _full(self, Call call, bint crowded)
    @cython.locals(shared=Shared, connection=Connection, current=JoinHandle, membership=Membership, lane=Lane, queue=cython.longlong, body=bytes)
    cpdef Call post(self, Method method, tuple arguments)
    cdef object _unsendable(self, Method method, object arguments, object error)
    @cython.locals(lane=Lane)
    cpdef leave(self, Call call)
    @cython.locals(call=Call)
    cpdef Call settle(self, long long number)
    @cython.locals(call=Call)
    cpdef begun(self, long long number)
    cdef _begun(self, Call call)
    cpdef give_back(self, long long queue, long long depth, Py_ssize_t count)
    @cython.locals(lane=Lane)
    cpdef relieved(self)
    @cython.locals(call=Call)
    cdef _give_back(self, Lane lane, Py_ssize_t count)
    @cython.locals(lane=Lane, body=bytes)
    cdef _begin(self, Call call)
    @cython.locals(call=Call)
    cdef _refuse_waiting(self)
    cdef _fail(self, Call call, object error)
    cdef _ended(self, Call call)
    cpdef answer(self, long long epoch, long long number, int kind, bytes body)
    @cython.locals(done=cython.Py_ssize_t)
    cpdef owe(self, long long epoch, long long queue)
