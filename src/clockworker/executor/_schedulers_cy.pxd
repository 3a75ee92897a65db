cimport cython
from clockworker.executor._heap_cy cimport HeapNode


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
