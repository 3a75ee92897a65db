cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.ipc.calls._chain_cy cimport Chain

cdef object _CHAIN, _get_running_loop
cdef int NEW, WAITING, SENT, DONE, _REPLY, _LEAVING, _ONE_WAY, _FLAGS, _KEYED


cdef class Method:
    cdef public str name
    cdef public long long identifier
    cdef public long long queue_identifier
    cdef public bint streams
    cdef public tuple parameters
    cdef public dict raises
    cdef public object decode_arguments
    cdef public object decode_result


cdef class Channel:
    cdef readonly Core core
    cdef readonly object loop

    @cython.locals(core=Core)
    cpdef check_thread(self, object what)
    cpdef submit(self, Call call)
    cpdef leave(self, Call call)
    cpdef where(self)


cdef class Call:
    cdef readonly Channel channel
    cdef readonly Method method
    cdef object arguments
    cdef bytes body
    cdef readonly bytes key
    cdef readonly int kind
    cdef long long timeout_ns
    cdef readonly long long deadline_ns
    cdef readonly int depth
    cdef bint nowait
    cdef readonly int state
    cdef readonly long long number
    cdef readonly object lane
    cdef int reply_kind
    cdef bytes reply
    cdef readonly object error
    cdef public object receiver
    cdef object cancelled_with
    cdef bint awaited
    cdef public bint opening
    cdef public bint _asyncio_future_blocking
    cdef object _callback
    cdef object _context

    @cython.locals(within=Chain)
    cpdef set_key(self, bytes key)
    cpdef start(self)
    @cython.locals(method=Method)
    cpdef conclude(self)
    cpdef finish(self, int kind, bytes reply)
    cpdef fail(self, object error)
    @cython.locals(sent=cython.bint)
    cpdef expire(self)
    cdef end(self)
    cdef _wake(self)


cdef class Caller:
    cdef Channel channel
    cdef int kind
    cdef Method method
    cdef long long timeout_ns

    cpdef Call new(self, tuple arguments)


@cython.locals(call=Call)
cdef object proceed(object awaited)


@cython.locals(call=Call)
cpdef Call new_call(Channel channel, int kind, Method method, tuple arguments, long long timeout_ns, bint nowait)
