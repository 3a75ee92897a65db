cimport cython

cdef int _MOST_CHANGES, _ENTRY, _LONGEST_SHIFT
cdef bytes _FOLLOWING, _FOUND, _SYMBOLS, _ENDS


ctypedef unsigned char* _Octets


cdef class _Block:
    cdef bytes _data
    cdef Py_ssize_t at

    @cython.locals(data=bytes, number=cython.Py_ssize_t, shift=cython.int, byte=cython.Py_ssize_t)
    cdef Py_ssize_t integer(self, int most) except -1
    @cython.locals(data=bytes, is_plain=cython.bint, length=cython.Py_ssize_t, begin=cython.Py_ssize_t)
    cdef bytes string(self, Py_ssize_t most)


@cython.locals(
    following=_Octets, found=_Octets, symbols=_Octets,
    coded=_Octets, text=bytearray, room=_Octets, at=cython.Py_ssize_t,
    byte=cython.int, step=cython.Py_ssize_t, state=cython.int, size=cython.Py_ssize_t,
)
cpdef bytes unpacked(bytes data, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t most)
