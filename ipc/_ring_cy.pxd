cimport cython
from clockworker.ipc._memory_cy cimport SharedMemory
from libc.stdint cimport uint64_t

cdef uint64_t _TAIL_AT, _STALLS_AT, _HEAD_AT, _DATA_AT, _HEADER, _LOW


cdef class _RingEnd:
    cdef SharedMemory _memory
    cdef readonly uint64_t capacity
    cdef uint64_t _mask
    cdef uint64_t _tail
    cdef uint64_t _head


@cython.final
cdef class RingProducer(_RingEnd):
    cdef uint64_t _stalls

    @cython.locals(
        length=uint64_t, needed=uint64_t, tail=uint64_t, head=uint64_t, offset=uint64_t, first=uint64_t
    )
    cpdef bint push(self, uint64_t kind, uint64_t queue, uint64_t method, uint64_t call, bytes body) except? -1
    cpdef uint64_t used(self) noexcept
    cpdef stall(self)
    cdef void _put_word(self, uint64_t position, uint64_t value) noexcept


@cython.final
cdef class RingConsumer(_RingEnd):
    cdef readonly uint64_t kind
    cdef readonly uint64_t queue
    cdef readonly uint64_t method
    cdef readonly uint64_t call
    cdef uint64_t _stalls_seen

    @cython.locals(
        head=uint64_t,
        tail=uint64_t,
        available=uint64_t,
        word=uint64_t,
        length=uint64_t,
        needed=uint64_t,
        offset=uint64_t,
        first=uint64_t,
        body=bytes,
    )
    cpdef bytes pop(self)
    @cython.locals(stalls=uint64_t)
    cpdef bint producer_stalled(self) except? -1
    cdef uint64_t _word(self, uint64_t position) noexcept
