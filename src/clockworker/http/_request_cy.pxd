cimport cython
from clockworker.http._targets_cy cimport Target, Targets

cdef object _Future, _Coroutine, _sleep
cdef long long _IN_A_ROW
cdef Ready _READY
cdef int NO_BODY, TRAILS, BODY_OVER


cdef class Ready:
    cpdef close(self)


cdef object ready(object awaited)


cdef class Carrier:
    cdef public bint writable

    cpdef begin_response(self, Request request, int status, object headers)
    cpdef send_head(self, Request request)
    cpdef send_body(self, Request request, object data, bint more)
    cpdef send_trailers(self, Request request, list fields)
    cpdef send_hint(self, Request request, list links)
    cpdef announce(self, Request request, long long size)
    cpdef ask(self, Request request)
    cpdef let_continue(self, Request request)
    cpdef answer_for(self, Request request, int status)
    cpdef cut(self, Request request)
    cpdef abandon(self, Request request)
    cpdef failed(self, str message, object error)


cdef class Request:
    cdef public Carrier carrier
    cdef public object app
    cdef public Target target
    cdef public object task
    cdef public str method
    cdef public bytes raw_path
    cdef public str path
    cdef public list headers
    cdef public dict scope
    cdef public int version
    cdef public int status
    cdef public long long sent
    cdef public bint keep_alive
    cdef public long long received_ns
    cdef public object head
    cdef public bint started
    cdef public bint complete
    cdef public bint left
    cdef public bint withdrawn
    cdef public bint expects
    cdef public bint more_body
    cdef public bint chunked
    cdef public long long remaining
    cdef public int trails
    cdef public object response_headers
    cdef public list trailers
    cdef public object body
    cdef public bint is_given
    cdef public bint asked
    cdef bint begun
    cdef long long _in_a_row
    cdef object coroutine
    cdef list _waiters
    cdef list _writers

    cpdef bint feed(self, bytes data) except -1
    cdef bint is_full(self) except -1
    cpdef end_of_body(self)
    cpdef leave(self)
    cdef bint _waits(self) noexcept
    cpdef wake(self)
    cpdef resume(self)
    @cython.locals(target=Target)
    cpdef take_turn(self, Targets targets)
    @cython.locals(target=Target)
    cpdef run(self)
    cpdef refuse(self, int status)
    cdef _send_extension(self, object kind, object message)
    cdef _out_of_order(self, object kind)
    cdef _completed(self)
    cpdef close(self)
    cdef begin(self)
    cdef returned(self, object value)
    cdef raised(self, object error)
    cdef fail(self)


@cython.locals(request=Request)
cpdef Request new_request(Carrier carrier, object app)


@cython.locals(request=Request, over=cython.bint)
cdef object step(object awaited, object value)
