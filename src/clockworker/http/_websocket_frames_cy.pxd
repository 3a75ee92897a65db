cimport cython

cdef list _SHORT_TEXT, _SHORT_BINARY
cdef int _AT_ONCE, _DEAR, _INFLATED, _A_MESSAGE
cdef object _CONT, _TEXT, _BINARY, _PONG


cdef class FrameReader:
    cdef public long long effort
    cdef public bint has_more
    cdef public long long rest
    cdef public bint wanted
    cdef public bint ended
    cdef public object parts
    cdef object _protocol, _take, _pong, _answer
    cdef long long _most
    cdef bint _is_text
    cdef bytes _head
    cdef bytes _deflated
    cdef bint _inflates
    cdef bint _is_last

    @cython.locals(size=Py_ssize_t, at=Py_ssize_t, body=Py_ssize_t, end=Py_ssize_t, length=cython.longlong, first=int, second=int)
    cpdef feed(self, bytes data)
    cdef _pass_on(self, bytes data)
    cdef bint _is_deflated(self) except -1
    cdef _begin_to_inflate(self, object frame)
    @cython.locals(size=Py_ssize_t)
    cdef _inflate(self)
    cdef _fail(self, object code, str reason)
    cdef _complete(self, object data)


@cython.locals(size=Py_ssize_t)
cpdef plain_frame(int first, object data)
cpdef bytes unmasked(bytes data, Py_ssize_t at, Py_ssize_t end)
