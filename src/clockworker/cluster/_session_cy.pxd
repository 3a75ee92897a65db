cimport cython

cdef str _IDLE, _OPENING, _OPEN, _CLOSING
cdef int _VERSION, _DATA, _HELLO, _BYE, _CLOSE, _HELD
cdef Py_ssize_t _HEAD_BYTES
cdef long long _NUMBERS, _HALF


cdef class Session:
    cdef public Py_ssize_t window
    cdef public long long silence_ns
    cdef readonly str state
    cdef readonly list answers
    cdef public bint leaves
    cdef readonly long long ours
    cdef readonly long long theirs
    cdef readonly bint was_open
    cdef public bint is_held
    cdef public bint owes
    cdef public long long sent
    cdef public long long received
    cdef readonly long long sent_bytes
    cdef readonly long long given_bytes
    cdef readonly long long received_bytes
    cdef readonly long long taken_bytes
    cdef readonly long long heard_ns
    cdef readonly long long spoke_ns
    cdef object _draw
    cdef long long _told_bytes

    cdef _reset(self)
    cdef _go(self, str state)
    cpdef begin(self, long long now_ns)
    cpdef Py_ssize_t room(self)
    cpdef bytes head(self, Py_ssize_t size, long long now_ns)
    cpdef bytes hello(self, long long now_ns)
    @cython.locals(packed=bytes)
    cdef bytes _packed(self, int flags)
    cdef _speaks(self, long long now_ns)
    cpdef took(self, Py_ssize_t size)
    cpdef leave(self, long long now_ns)
    cpdef close(self)
    cpdef bytes end(self)
    cdef _over(self)
    cdef _ended(self, str kind, str reason, bint again=*, bint told=*)
    cpdef look(self, long long now_ns)
    cpdef slept(self, long long duration_ns)
    @cython.locals(size=cython.Py_ssize_t, at=cython.p_char, version=cython.longlong, flags=cython.longlong, theirs=cython.longlong, ours=cython.longlong, number=cython.longlong, ahead=cython.longlong, taken=cython.ulonglong)
    cpdef bint hear(self, bytes message, long long now_ns, bint agrees=*) except -1
    cdef _hear_beginning(self, long long theirs, long long now_ns)
    cdef _adopt(self, long long theirs, int flags)
