cimport cython
from clockworker.ipc._memory_cy cimport SharedMemory
from libc.stdint cimport uint64_t

cdef Py_ssize_t _SLEEPS_AT, _NEWS_AT


@cython.final
cdef class Doorbell:
    cdef SharedMemory _memory
    cdef Py_ssize_t _count
    cdef readonly uint64_t sleeps
    cdef list _seen
    cdef uint64_t _total_seen

    @cython.locals(peer=Py_ssize_t, count=uint64_t, seen=uint64_t)
    cpdef list news(self)
    cpdef bint sleep(self) except? -1
    cpdef wake(self)
    cpdef bint asleep(self) except? -1
    @cython.locals(peer=Py_ssize_t, total=uint64_t)
    cpdef bint has_news(self) except? -1


@cython.final
cdef class PeerDoorbell:
    cdef SharedMemory _memory
    cdef int _eventfd
    cdef Py_ssize_t _news_at
    cdef uint64_t _news
    cdef uint64_t _rung_for
    cdef readonly uint64_t rings

    @cython.locals(sleeps=uint64_t)
    cpdef bint announce(self) except? -1
    cpdef ring(self)
