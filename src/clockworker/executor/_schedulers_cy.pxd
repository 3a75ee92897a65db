cimport cython
from clockworker.executor._heap_cy cimport HeapNode, KeyHeap, Line

cdef int _ROUND_ROBIN_EVERY
cdef int PUSH_BITS
cdef long long _PUSH_MASK
cdef unsigned long long _LEVEL_0


cdef class ScheduledTask(HeapNode):
    cdef readonly object task
    cdef readonly object group  # follows the task when it moves
    cdef readonly long long arrival
    cdef public long long service_ns
    cdef public object slot
    cdef ScheduledTask next


cdef class Scheduler:
    cdef object _owner

    cpdef push(self, ScheduledTask task)
    cpdef ScheduledTask pop(self)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    cpdef forget_task(self, ScheduledTask task)
    cpdef forget_group(self, object group)
    cdef bint _put(self, ScheduledTask task) except -1
    cdef ScheduledTask _get(self)
    cdef bint _charge(self, ScheduledTask task, long long elapsed_ns) except -1


cdef class RunnableFifo(Scheduler):
    cdef ScheduledTask _first
    cdef ScheduledTask _last
    cdef Py_ssize_t _count
    cdef void *_ahead[7]  # what _look_ahead.pxd has come to; NULL: it is not looking
    cdef object _by_hand


cpdef owner_of(Scheduler scheduler)
cpdef set_owner(Scheduler scheduler, object core)


# The core's push and pop of a RunnableFifo, inlined: most queues have no other scheduler.

cdef inline void fifo_push(RunnableFifo fifo, ScheduledTask task) noexcept:
    if fifo._count == 0:
        fifo._first = task
    else:
        fifo._last.next = task
    fifo._last = task
    fifo._count += 1


cdef inline ScheduledTask fifo_pop(RunnableFifo fifo):
    """None if it is empty."""
    cdef ScheduledTask task = fifo._first
    if task is None:
        return None
    fifo._first = task.next
    task.next = None
    fifo._count -= 1
    if fifo._count == 0:
        fifo._last = None
    return task


cpdef bint is_built_in(Scheduler scheduler) except -1
cdef bint _before(long long key, long long tie, long long other_key, long long other_tie) noexcept
cdef int _level(long long service_ns) noexcept


cdef class ArrivalFifo(Scheduler):
    cdef KeyHeap _heap
    cdef long long _pushes
    cdef ScheduledTask _next
    cdef long long _next_tie

    @cython.locals(task=ScheduledTask)
    cpdef ScheduledTask pop(self)
    @cython.locals(heap=KeyHeap, first=ScheduledTask)
    cdef bint _put(self, ScheduledTask task) except -1
    @cython.locals(task=ScheduledTask)
    cdef ScheduledTask _get(self)


cdef class ServiceGroup(HeapNode):
    cdef ScheduledTask first
    cdef Line more

    cdef bint add(self, ScheduledTask task) except -1
    cdef int make_room(self) except -1
    @cython.locals(task=ScheduledTask)
    cdef ScheduledTask take(self)


cdef class _ServiceScheduler(Scheduler):
    cdef dict _groups
    cdef Py_ssize_t _count

    @cython.locals(group=ServiceGroup, account=HeapNode)
    cpdef push(self, ScheduledTask task)
    @cython.locals(task=ScheduledTask)
    cpdef ScheduledTask pop(self)
    @cython.locals(group=ServiceGroup)
    cdef bint _put(self, ScheduledTask task) except -1
    @cython.locals(group=ServiceGroup, account=HeapNode, task=ScheduledTask)
    cdef ScheduledTask _get(self)
    @cython.locals(group=ServiceGroup)
    cdef bint _charge(self, ScheduledTask task, long long elapsed_ns) except -1
    @cython.locals(group=ServiceGroup)
    cdef ServiceGroup _group_of(self, ScheduledTask task)
    cdef bint _enter(self, HeapNode account) except -1
    cdef int _make_room(self, HeapNode account) except -1
    cdef HeapNode _least(self)
    cdef int _has_less(self) except -1


cdef class LAS(_ServiceScheduler):
    cdef KeyHeap _heap
    cdef long long _turn
    cdef HeapNode _next
    cdef long long _next_turn

    @cython.locals(heap=KeyHeap)
    cdef bint _enter(self, HeapNode account) except -1
    @cython.locals(heap=KeyHeap, first=HeapNode)
    cdef HeapNode _least(self)
    @cython.locals(heap=KeyHeap, account=HeapNode)
    cdef HeapNode _least_of_heap(self, HeapNode first)


cdef class QLAS(_ServiceScheduler):
    cdef list _levels
    cdef unsigned long long _occupied
    cdef int _last_level
    cdef long long _picks

    @cython.locals(number=cython.int, level=Line)
    cdef bint _enter(self, HeapNode account) except -1
    @cython.locals(level=Line)
    cdef int _make_room(self, HeapNode account) except -1
    @cython.locals(number=cython.int, level=Line, account=HeapNode)
    cdef HeapNode _least(self)
    @cython.locals(above=cython.ulonglong, candidates=cython.ulonglong, lowest=cython.int)
    cdef int _lowest_above(self, int level) except -2
