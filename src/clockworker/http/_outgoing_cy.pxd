cimport cython
from clockworker.http._incoming_cy cimport Incoming
from clockworker.http._request_cy cimport Request

cdef object _TOKEN
cdef dict _STATUS_LINES, _NAMES


cdef class Outgoing(Incoming):
    cdef _completed(self, Request request)
    @cython.locals(line=bytes, parts=list, length=cython.longlong, closes=cython.bint, known=bytes, size=cython.Py_ssize_t)
    cpdef begin_response(self, Request request, int status, object headers)
    @cython.locals(parts=list)
    cdef bytes _finish_head(self, Request request, long long size)
    @cython.locals(size=cython.Py_ssize_t)
    cpdef send_body(self, Request request, object data, bint more)
    cpdef send_trailers(self, Request request, list fields)
    cpdef send_hint(self, Request request, list links)
    cpdef announce(self, Request request, long long size)
    cdef _write(self, object data)


cdef bint _has_length(list parts)
cdef bytes _new_name(object name)
@cython.locals(text=bytes, byte=cython.uchar)
cdef bint is_value(object value) except -1
