from libc.stdint cimport uint64_t


cpdef order()
cpdef new_bytes(Py_ssize_t length)


cdef class SharedMemory:
    cdef readonly Py_ssize_t size
    cdef object _map
    cdef char *_base
    cdef size_t _words_end
    # Of the pure version only; declared so that one source serves both.
    cdef object _bytes
    cdef object _words
    cdef object _lock

    cdef bint _holds(self, Py_ssize_t offset, Py_ssize_t length) noexcept
    cpdef uint64_t load(self, Py_ssize_t offset) noexcept
    cpdef void store(self, Py_ssize_t offset, uint64_t value) noexcept
    cpdef void fence(self) noexcept
    cpdef bytes read(self, Py_ssize_t offset, Py_ssize_t length)
    cpdef void read_into(self, target, Py_ssize_t at, Py_ssize_t offset, Py_ssize_t length) noexcept
    cpdef void write(self, Py_ssize_t offset, bytes data, Py_ssize_t start, Py_ssize_t length) noexcept
