cimport cython
from clockworker.http._request_cy cimport Carrier, Request, new_request
from clockworker.http._targets_cy cimport Target

cdef int _SLICE, _SLICE_OF_BODY, _MOST_UNWANTED
cdef object _Parser, _ParserError, _CallbackError, _Upgrade, _unquote, _TOKEN, _HOST, _ABSOLUTE
cdef dict _STATUS_LINES, _NAMES, _ASGI
cdef bytes _CONTINUE
cdef int IDLE, HEAD, BODY, PARSED, LINGERING


cdef class Rules:
    cdef readonly long long tick
    cdef readonly bytes defaults
    cdef public bint stopping
    cdef readonly object headers
    cdef str root_path
    cdef bytes raw_root_path
    cdef Py_ssize_t most_in_request_line
    cdef Py_ssize_t most_in_field
    cdef Py_ssize_t most_fields
    cdef Py_ssize_t most_in_head


cdef class HttpConnection(Carrier):
    cdef readonly object server
    cdef readonly Rules rules
    cdef readonly object transport
    cdef readonly bint closing
    cdef readonly int state
    cdef readonly long long since
    cdef readonly long long requests
    cdef readonly Request current
    cdef readonly Request parsing
    cdef readonly object websocket
    cdef readonly object client
    cdef readonly object address
    cdef readonly str scheme
    cdef object _parser
    cdef object _pipeline
    cdef object _unread
    cdef bint _paused
    cdef int _refusal
    cdef bint _upgrading
    cdef bytes _url
    cdef bytes _query
    cdef list _headers
    cdef Py_ssize_t _head_size
    cdef Py_ssize_t _fields
    cdef int _hosts
    cdef bytes _host
    cdef int _lengths
    cdef long long _length
    cdef bint _is_chunked
    cdef bint _has_encoding
    cdef bint _expects
    cdef bytes _upgrade
    cdef long long _unwanted

    @cython.locals(size=cython.Py_ssize_t, at=cython.Py_ssize_t, length=cython.Py_ssize_t)
    cdef _feed(self, object data)
    cdef _parse(self, object data)
    cdef _upgraded(self, bytes rest)
    cdef _take_length(self, bytes value)
    cdef _take_encoding(self, bytes value)
    cdef int _stop_at(self, int status) except -1
    @cython.locals(url=bytes, path=str, at=cython.Py_ssize_t)
    cdef int _take_target(self, Request request, str method) except -1
    cdef _pause(self)
    cdef _resume(self)
    @cython.locals(parsing=Request, current=Request, last=Request)
    cdef _refuse(self, int status)
    cdef _say_and_close(self, int status)
    @cython.locals(line=bytes, parts=list, length=cython.longlong, closes=cython.bint, known=bytes, size=cython.Py_ssize_t)
    cpdef begin_response(self, Request request, int status, object headers)
    @cython.locals(parts=list)
    cdef bytes _finish_head(self, Request request, long long size)
    @cython.locals(size=cython.Py_ssize_t)
    cpdef send_body(self, Request request, object data, bint more)
    cdef _write(self, object data)
    cdef _completed(self, Request request)
    @cython.locals(request=Request)
    cdef _rest(self)
    @cython.locals(target=Target, now=cython.longlong, elapsed=cython.longlong)
    cdef _count(self, Request request)
    @cython.locals(target=Target)
    cdef _left(self, Request request)
    cdef _close(self)
    cdef _abort(self)
    cdef _linger(self)


cdef bint _has_length(list parts)
cdef bytes _new_name(object name)
@cython.locals(text=bytes, byte=cython.uchar)
cdef bint is_value(object value) except -1
