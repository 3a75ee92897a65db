cimport cython
from clockworker.ipc.rings._memory_cy cimport SharedMemory
from libc.stdint cimport uint64_t

cdef uint64_t _TAIL_AT, _STALLS_AT, _HEAD_AT, _DATA_AT, _HEADER, _LOW, _GOES_ON, _SKIP, _LARGEST_CHUNK


cdef class _RingEnd:
    cdef SharedMemory _memory
    cdef readonly uint64_t capacity
    cdef uint64_t _mask
    cdef uint64_t _tail
    cdef uint64_t _head


cdef class RingProducer(_RingEnd):
    cdef uint64_t _stalls
    cdef uint64_t _rewind_at
    cdef bytes _unfinished
    cdef uint64_t _sent

    @cython.locals(left=uint64_t)
    cpdef bint push(self, uint64_t kind, uint64_t queue, uint64_t method, uint64_t call, bytes body) except? -1
    cpdef uint64_t used(self) noexcept
    cpdef uint64_t published(self)
    @cython.locals(chunk=uint64_t, left=uint64_t)
    cdef bint _push_chunks(self, uint64_t kind, uint64_t queue, uint64_t method, bytes body) except? -1
    @cython.locals(needed=uint64_t, tail=uint64_t, offset=uint64_t, first=uint64_t)
    cdef bint _put(
        self,
        uint64_t kind,
        uint64_t queue,
        uint64_t method,
        uint64_t call,
        bytes body,
        uint64_t start,
        uint64_t length,
    ) except? -1
    @cython.locals(offset=uint64_t, to_end=uint64_t)
    cdef uint64_t _rewind(self, uint64_t tail, uint64_t needed) except? 0
    @cython.locals(head=uint64_t)
    cdef _load_head(self)
    cpdef stall(self)
    cdef void _put_word(self, uint64_t position, uint64_t value) noexcept


cdef class RingConsumer(_RingEnd):
    cdef readonly uint64_t kind
    cdef readonly uint64_t queue
    cdef readonly uint64_t method
    cdef readonly uint64_t call
    cdef uint64_t _stalls_seen
    cdef uint64_t _looked_at
    cdef uint64_t _max_message
    cdef object _message
    cdef uint64_t _expected
    cdef uint64_t _received
    cdef uint64_t _until

    cpdef allow(self, uint64_t count)
    cpdef bint is_spent(self) noexcept
    cpdef bint has_part(self) noexcept
    @cython.locals(
        head=uint64_t,
        tail=uint64_t,
        available=uint64_t,
        word=uint64_t,
        length=uint64_t,
        needed=uint64_t,
        kind=uint64_t,
        call=uint64_t,
        offset=uint64_t,
        skipped=bint,
        body=bytes,
    )
    cpdef bytes pop(self)
    @cython.locals(left=uint64_t)
    cdef _take_chunk(self, uint64_t head, uint64_t kind, uint64_t call, uint64_t length)
    @cython.locals(first=uint64_t)
    cdef void _copy(self, object target, uint64_t at, uint64_t offset, uint64_t length) noexcept
    cdef void _release(self, uint64_t head) noexcept
    @cython.locals(stalls=uint64_t)
    cpdef bint producer_stalled(self) except? -1
    cdef uint64_t _word(self, uint64_t position) noexcept
