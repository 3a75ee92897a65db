cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._heap_cy cimport Heap, HeapNode

cdef int _SHIFT
cdef long long _REBASE_AT


cdef class Entity(HeapNode):
    cdef readonly object item
    cdef object level
    cdef readonly long long share
    cdef readonly long long slice_ns
    cdef readonly long long span
    cdef readonly long long vruntime
    cdef readonly long long deadline
    cdef readonly long long kept_lag
    cdef readonly bint active
    cdef readonly bint eligible


cdef class Choice:
    cdef readonly long long total_share
    cdef readonly long long asleep
    cdef long long stint_ns
    cdef long long uncharged_ns

    cpdef Entity add(self, object item, long long share, long long slice_ns)
    cpdef int64_t lag_ns(self, Entity entity) except? -1
    cpdef int activate(self, Entity entity) except -1
    cpdef int deactivate(self, Entity entity) except -1
    cpdef int charge(self, Entity entity, long long elapsed_ns) except -1
    cpdef Entity pick(self)
    cpdef set_share(self, Entity entity, long long share)
    cpdef bint outranks(self, Entity woken, Entity running) except -1
    cpdef bint stays(self, Entity entity, long long elapsed_ns) except -1


cdef class Eevdf(Choice):
    cdef readonly long long virtual_time
    cdef long long _remainder
    cdef long long _entities
    cdef Heap _eligible
    cdef Heap _waiting
    cdef Entity _current
    cdef long long _granularity_ns

    cpdef Entity add(self, object item, long long share, long long slice_ns)
    @cython.locals(lag=cython.longlong)
    cpdef int64_t lag_ns(self, Entity entity) except? -1
    @cython.locals(alone=cython.bint)
    cpdef int activate(self, Entity entity) except -1
    cpdef int deactivate(self, Entity entity) except -1
    cpdef int charge(self, Entity entity, long long elapsed_ns) except -1
    @cython.locals(entity=Entity, current=Entity)
    cpdef Entity pick(self)
    @cython.locals(step=cython.longlong)
    cdef int _advance(self, Entity entity, long long elapsed_ns) except -1
    cdef void _begin_stint(self, Entity entity) noexcept
    cdef int _end_stint(self) except -1
    @cython.locals(elapsed=cython.longlong)
    cdef int _settle(self) except -1
    @cython.locals(entity=Entity)
    cdef int _promote(self) except -1
    @cython.locals(old_share=cython.longlong)
    cpdef set_share(self, Entity entity, long long share)
    cpdef bint outranks(self, Entity woken, Entity running) except -1
    @cython.locals(virtual_time=cython.longlong, vruntime=cython.longlong, deadline=cython.longlong, first=cython.longlong, heap=Heap, other=Entity)
    cpdef bint stays(self, Entity entity, long long elapsed_ns) except -1
    cdef int _insert(self, Entity entity) except -1
    cdef int _withdraw(self, Entity entity) except -1
    @cython.locals(step=cython.longlong, heap=Heap, entity=Entity, current=Entity)
    cdef int _rebase(self) except -1


cdef int64_t virtual_span(long long duration_ns, long long share) except? -1
