cimport cython

cdef Py_ssize_t _HEAD_BYTES, _SMALL
cdef int _ENVELOPE, _KEYED
cdef unsigned long long _MOST_CALL
cdef tuple _GONE


cdef class Outgoing:
    cdef readonly Py_ssize_t size
    cdef list _frames
    cdef Py_ssize_t _at
    cdef object _rest

    cpdef put(self, tuple frame)
    cpdef Py_ssize_t count(self)
    cpdef clear(self)
    @cython.locals(left=cython.Py_ssize_t, first=cython.Py_ssize_t, run=cython.Py_ssize_t, length=cython.Py_ssize_t, frames=list, frame=tuple, body=bytes, kind=cython.int)
    cpdef list take(self, Py_ssize_t most, long long now_ns)
    cdef Py_ssize_t _take_body(self, list parts, object body, Py_ssize_t left) except -1
    @cython.locals(number=cython.Py_ssize_t, length=cython.Py_ssize_t, frame=tuple, body=bytes, packed=bytes, to=cython.p_char)
    cdef bytes _packed(self, Py_ssize_t first, Py_ssize_t end, Py_ssize_t size)


cdef class Incoming:
    cdef Py_ssize_t _longest
    cdef object _pieces
    cdef readonly Py_ssize_t waiting
    cdef bytes _piece
    cdef Py_ssize_t _at
    cdef tuple _head
    cdef list _parts
    cdef Py_ssize_t _missing
    cdef bytes _tail

    cpdef put(self, bytes message, Py_ssize_t at=*)
    cpdef clear(self)
    @cython.locals(frames=list, taken=cython.Py_ssize_t, piece=bytes, at=cython.Py_ssize_t, start=cython.Py_ssize_t, end=cython.Py_ssize_t, length=cython.Py_ssize_t, body_end=cython.Py_ssize_t, base=cython.p_char, kind=cython.longlong, queue=cython.longlong, method=cython.longlong, call=cython.ulonglong)
    cpdef tuple take(self, Py_ssize_t most, Py_ssize_t most_bytes, long long now_ns)
