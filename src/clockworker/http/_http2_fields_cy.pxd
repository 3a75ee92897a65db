cimport cython

cdef int _MOST_CHANGES, _ENTRY, _LONGEST_SHIFT
cdef bytes _FOLLOWING, _FOUND, _SYMBOLS, _ENDS


cdef class _Block:
    cdef bytes _data
    cdef Py_ssize_t at

    @cython.locals(data=bytes, number=cython.Py_ssize_t, shift=cython.int, byte=cython.Py_ssize_t)
    cdef Py_ssize_t integer(self, int most) except -1
    @cython.locals(data=bytes, is_plain=cython.bint, length=cython.Py_ssize_t, begin=cython.Py_ssize_t)
    cdef bytes string(self)


@cython.locals(following=bytes, found=bytes, symbols=bytes, text=bytearray, at=cython.Py_ssize_t, byte=cython.int, step=cython.Py_ssize_t, state=cython.int)
cpdef bytes unpacked(bytes data, Py_ssize_t begin, Py_ssize_t end)
