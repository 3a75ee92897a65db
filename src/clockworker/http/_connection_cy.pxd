cimport cython
from clockworker.http._outgoing_cy cimport Outgoing
from clockworker.http._request_cy cimport Request
from clockworker.http._targets_cy cimport Target

cdef int _MOST_LINGERED, _MOST_ZEROS
cdef bytes _CONTINUE
cdef int IDLE, HEAD, BODY, PARSED, LINGERING


cdef class HttpConnection(Outgoing):
    @cython.locals(parsing=Request, current=Request, last=Request)
    cdef refuse(self, int status)
    cdef _say_and_close(self, int status)
    cdef _take_preface(self, bytes data)
    cdef _completed(self, Request request)
    @cython.locals(request=Request)
    cdef rest(self)
    @cython.locals(target=Target, now=cython.longlong, elapsed=cython.longlong)
    cdef _count(self, Request request)
    @cython.locals(target=Target)
    cdef _left(self, Request request)
    cdef _close(self)
    cdef _abort(self)
    cdef linger(self)
