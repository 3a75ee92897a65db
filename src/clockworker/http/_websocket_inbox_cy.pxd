cimport cython
from clockworker.http._websocket_frames_cy cimport FrameReader


cdef class Waiters:
    cdef list _waiters

    cpdef wake(self)


cdef class Inbox:
    cdef public object messages
    cdef public Py_ssize_t size
    cdef public object unread
    cdef public bint paused
    cdef public bint heard
    cdef readonly Waiters receivers
    cdef readonly FrameReader reader
    cdef object _transport
    cdef Py_ssize_t _most_messages
    cdef bint _parsing
    cdef bint _goes_on
    cdef object _later

    cpdef feed(self, bytes data)
    cpdef pop(self)
    cpdef resume(self)
    cpdef drop(self)
    cpdef leave(self)
    cpdef _take(self, object message)
    @cython.locals(reader=FrameReader, size=Py_ssize_t)
    cdef _parse_on(self)
    cdef _go_on_later(self)
    cpdef _go_on(self)
    cdef _pause(self)
    cdef _read_on(self)
