cimport cython
from cpython cimport array
from clockworker.ipc.rings._memory_cy cimport SharedMemory
from libc.stdint cimport uint64_t

cdef Py_ssize_t _SLEEPS_AT, _CORE_AT, _NEWS_AT
cdef uint64_t _AHEAD
cdef long long _LOOK_ON_NS


cdef class Doorbell:
    cdef SharedMemory _memory
    cdef int _eventfd
    cdef Py_ssize_t _count
    cdef readonly uint64_t sleeps
    cdef array.array _seen
    cdef uint64_t _total_seen
    cdef public bint rung
    cdef bint _promised
    cdef bint _found_news
    cdef readonly long long wakeups
    cdef readonly long long wakeups_in_vain

    cpdef listen(self, Py_ssize_t place)
    @cython.locals(peer=Py_ssize_t)
    cpdef list news(self)
    @cython.locals(count=uint64_t, known=cython.p_ulonglong)
    cpdef Py_ssize_t next_news(self, Py_ssize_t peer) except? -2
    cpdef bint sleep(self) except? -1
    cpdef wake(self)
    @cython.locals(rung=uint64_t)
    cpdef bint answer(self) except? -1
    @cython.locals(until=cython.longlong)
    cdef bint _look_on(self) except? -1
    cpdef bint asleep(self) except? -1
    @cython.locals(peer=Py_ssize_t, total=uint64_t)
    cpdef bint has_news(self) except? -1


cdef class PeerDoorbell:
    cdef SharedMemory _memory
    cdef int _eventfd
    cdef Py_ssize_t _news_at
    cdef uint64_t _news
    cdef uint64_t _rung_for
    cdef readonly uint64_t rings
    cdef readonly uint64_t rings_ahead
    cdef uint64_t _own_core

    cpdef tell(self)
    cpdef bint make_sure(self) except? -1
    cpdef bint announce(self) except? -1
    @cython.locals(sleeps=uint64_t)
    cdef bint _look(self) except? -1
    cpdef ring(self)
    cpdef bint may_ring_ahead(self) except? -1
    @cython.locals(sleeps=uint64_t)
    cpdef ring_ahead(self)
    @cython.locals(sleeps=uint64_t, core=uint64_t)
    cdef uint64_t _sleep_to_end(self)
