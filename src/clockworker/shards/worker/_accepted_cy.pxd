cimport cython


cdef tuple _NO_ROOM
cdef int _STREAM, _AT_ONCE, _PARTS
cdef long long _AT_ONCE_NS, _LONGEST_NS


cdef class Places:
    cdef readonly object limit
    cdef public Py_ssize_t taken
    cdef bint _is_limited
    cdef Py_ssize_t _most
    cdef bint _awaited
    cdef list _waiting

    cpdef bint is_full(self)
    cpdef free(self)


cdef class Accepted:
    cdef readonly int family
    cdef readonly int type
    cdef public bint working
    cdef public object end
    cdef public object received
    cdef public object peer
    cdef public object idle_since
    cdef public object asked_at
    cdef long long _accepted_ns
    cdef int _descriptor
    cdef Book _book
    cdef object _coroutine
    cdef object _opened
    cdef object _transport

    cdef _begin(self, Book book, int family, int descriptor)
    cpdef open(self, loop, context)
    cdef _open(self, loop)
    cdef _finish(self)
    cpdef close(self)


cdef class Book:
    cdef readonly object server
    cdef readonly object factory
    cdef readonly Places places
    cdef readonly Py_ssize_t accepted
    cdef public bint is_told
    cdef public object changed
    cdef object _kind
    cdef object _plain
    cdef readonly set _open

    @cython.locals(connection=Accepted)
    cpdef Accepted take(self, int family, int descriptor)
    cpdef over(self, Accepted connection)


cdef class Source:
    cdef readonly object sock
    cdef public int family
    cdef int _descriptor
    cdef object _accept

    cpdef int take(self) except? -1


cdef class Intake:
    cdef object _loop
    cdef Book _book
    cdef object _context
    cdef object _core
    cdef long long _taken_ns, _driver_ns

    @cython.locals(now=cython.longlong, driver_ns=cython.longlong, passed=cython.longlong, most=Py_ssize_t)
    cpdef readable(self, Source source)
    @cython.locals(connection=Accepted, descriptor=cython.int, at=Py_ssize_t)
    cpdef take(self, Source source, Py_ssize_t most, long long until_ns)
