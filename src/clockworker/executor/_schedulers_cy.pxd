cimport cython
from clockworker.executor._heap_cy cimport Heap, HeapNode

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
    cdef public bint _holds

    cpdef push(self, ScheduledTask task)
    cpdef ScheduledTask pop(self)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    cpdef forget_task(self, ScheduledTask task)
    cpdef forget_group(self, object group)
    cpdef _let_begin(self, ScheduledTask task)
    cpdef _let_go(self, bint all_of_them)


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


cdef class ArrivalFifo(Scheduler):
    cdef Heap _heap
    cdef long long _pushes

    @cython.locals(task=ScheduledTask)
    cpdef ScheduledTask pop(self)


cdef class ServiceGroup(HeapNode):
    cdef long long service_ns
    cdef object runnable


cdef class _ServiceScheduler(Scheduler):
    cdef dict _groups
    cdef Py_ssize_t _count
    cdef long long _turn

    @cython.locals(group=ServiceGroup)
    cdef ServiceGroup _group_of(self, ScheduledTask task)


cdef class LAS(_ServiceScheduler):
    cdef Heap _heap

    @cython.locals(group=ServiceGroup)
    cpdef push(self, ScheduledTask task)
    @cython.locals(group=ServiceGroup, task=ScheduledTask)
    cpdef ScheduledTask pop(self)
    @cython.locals(group=ServiceGroup)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    cdef _enter(self, ServiceGroup group)


cdef class QLAS(_ServiceScheduler):
    cdef list _levels
    cdef unsigned long long _occupied
    cdef int _last_level

    @cython.locals(group=ServiceGroup)
    cpdef push(self, ScheduledTask task)
    @cython.locals(level=cython.int, group=ServiceGroup, task=ScheduledTask)
    cpdef ScheduledTask pop(self)
    @cython.locals(group=ServiceGroup)
    cpdef observe(self, ScheduledTask task, long long elapsed_ns)
    @cython.locals(level=cython.int)
    cdef _enter(self, ServiceGroup group)
    @cython.locals(above=cython.ulonglong, candidates=cython.ulonglong, lowest=cython.int)
    cdef int _lowest_above(self, int level) except -2
