cimport cython
from clockworker.http._request_cy cimport Carrier, Request, new_request
from clockworker.http._targets_cy cimport Targets

cdef int _SLICE, _SLICE_OF_BODY, _MANY, _MUCH, _MOST_UNWANTED, _QUIETLY
cdef long long _AT_ONCE_NS
cdef object _Parser, _ParserError, _CallbackError, _Upgrade, _unquote, _HOST, _ABSOLUTE
cdef dict _ASGI, _EXTENSIONS, _LOWER
cdef Py_ssize_t _MOST_LOWER, _LONGEST_LOWER
cdef int IDLE, HEAD, BODY, PARSED, LINGERING


cdef class Rules:
    cdef readonly object app
    cdef readonly dict state
    cdef readonly Targets targets
    cdef readonly long long tick
    cdef readonly bytes defaults
    cdef public bint stopping
    cdef public long long at_once_ns
    cdef readonly object headers
    cdef str root_path
    cdef bytes raw_root_path
    cdef Py_ssize_t most_in_request_line
    cdef Py_ssize_t most_in_field
    cdef Py_ssize_t most_fields
    cdef Py_ssize_t most_in_head

    cpdef begin(self, Request request)


cdef class Incoming(Carrier):
    cdef readonly object server
    cdef readonly Rules rules
    cdef readonly object transport
    cdef readonly bint closing
    cdef readonly bint ended
    cdef readonly int state
    cdef readonly long long since
    cdef readonly long long requests
    cdef readonly Request current
    cdef readonly Request parsing
    cdef readonly object websocket
    cdef readonly object client
    cdef readonly object address
    cdef readonly str scheme
    cdef readonly dict tls
    cdef object pipeline
    cdef object unread
    cdef bint paused
    cdef int refusal
    cdef long long unwanted
    cdef int _parts
    cdef object _parser
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
    cdef bint _is_forwarded
    cdef bytes _upgrade
    cdef bytes _known_host
    cdef readonly object half_closed
    cdef int _zeros
    cdef bytes preface
    cdef bint is_secure
    cdef bint _is_lent
    cdef dict _scope
    cdef bytes _data

    cdef refuse(self, int status)
    cdef linger(self)
    cdef rest(self)
    @cython.locals(size=cython.Py_ssize_t, at=cython.Py_ssize_t, length=cython.Py_ssize_t, until=cython.longlong)
    cdef feed(self, object data)
    @cython.locals(upgraded_at=cython.Py_ssize_t)
    cdef _parse(self, object data)
    cdef _upgraded(self, bytes rest)
    @cython.locals(lower=bytes, size=cython.Py_ssize_t)
    cdef _take_header(self, bytes name, bytes value)
    @cython.locals(request=Request, scope=dict, method=str, version=str, root=str, upgrades=cython.bint, websocket=cython.bint)
    cdef _take_head(self)
    cdef _take_length(self, bytes value)
    cdef _take_encoding(self, bytes value)
    cdef int _stop_at(self, int status) except -1
    @cython.locals(url=bytes, path=str, at=cython.Py_ssize_t)
    cdef int _take_target(self, Request request, str method) except -1
    cdef dict _new_scope(self)
    @cython.locals(data=bytes, at=cython.Py_ssize_t)
    cdef str _version(self, Py_ssize_t length)
    cdef pause(self)
    cdef resume(self)


cdef bytes _new_lower(bytes name)
