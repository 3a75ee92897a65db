cimport cython

cdef Py_ssize_t _HEAD_BYTES, _SMALL, _KEPT
cdef int _ENVELOPE, _KEYED
cdef unsigned long long _MOST_CALL


cdef class Run:
    cdef bytearray data
    cdef Py_ssize_t at
    cdef Py_ssize_t end
    cdef Py_ssize_t fitting

    @cython.locals(length=cython.Py_ssize_t, end=cython.Py_ssize_t, to=cython.p_char)
    cdef put(self, int kind, long long queue, long long method, unsigned long long call, bytes body)
    @cython.locals(at=cython.Py_ssize_t, length=cython.Py_ssize_t, kind=cython.int)
    cdef Py_ssize_t fit(self, Py_ssize_t most, long long now_ns) except -1
    @cython.locals(length=cython.Py_ssize_t)
    cdef Py_ssize_t _length(self, Py_ssize_t at) except -1
    cdef _leaves(self, Py_ssize_t at, Py_ssize_t key_size, Py_ssize_t length, long long now_ns)
    @cython.locals(taken=bytes)
    cdef bytes take(self, Py_ssize_t size)
    cdef tuple take_first(self)


cdef class Outgoing:
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t count
    cdef list _line
    cdef Run _last
    cdef object _rest

    cpdef clear(self)
    @cython.locals(run=Run)
    cpdef put(self, int kind, long long queue, long long method, unsigned long long call, bytes body)
    @cython.locals(left=cython.Py_ssize_t, length=cython.Py_ssize_t, run=Run, frame=tuple)
    cpdef list take(self, Py_ssize_t most, long long now_ns)
    @cython.locals(size=cython.Py_ssize_t)
    cdef Py_ssize_t _take_run(self, list parts, Run run, Py_ssize_t left, long long now_ns) except -1
    @cython.locals(body=bytes, kind=cython.int)
    cdef Py_ssize_t _take_frame(self, list parts, tuple frame, Py_ssize_t left, long long now_ns) except -1
    cdef Py_ssize_t _take_body(self, list parts, object body, Py_ssize_t left) except -1


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
