cimport cython
from clockworker.executor._heap_cy cimport HeapNode, KeyHeap, Line
from clockworker.executor._schedulers_cy cimport ScheduledTask, Scheduler

cdef int _ROUND_ROBIN_EVERY
cdef int PUSH_BITS
cdef long long _PUSH_MASK
cdef unsigned long long _LEVEL_0
cdef long long _STINT_NS
cdef int _STINT_STEPS


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
    cdef bint _put_in_group(self, ScheduledTask task) except -1
    @cython.locals(task=ScheduledTask)
    cdef ScheduledTask _first_of(self, ServiceGroup group)
    cdef bint _charge(self, ScheduledTask task, long long elapsed_ns) except -1
    @cython.locals(group=ServiceGroup)
    cdef ServiceGroup _group_of(self, ScheduledTask task)
    cdef bint _enter(self, HeapNode account) except -1
    cdef int _make_room(self, HeapNode account) except -1
    cdef int _has_less(self) except -1


cdef bint counted(_ServiceScheduler scheduler, bint entered) except -1
cdef ScheduledTask task_of(_ServiceScheduler scheduler, HeapNode account)


cdef class LAS(_ServiceScheduler):
    cdef KeyHeap _heap
    cdef long long _turn
    cdef HeapNode _next
    cdef long long _next_turn
    cdef size_t _ran
    cdef long long _ran_turn
    cdef int _stint_steps

    cdef bint _put(self, ScheduledTask task) except -1
    cdef ScheduledTask _get(self)


@cython.locals(heap=KeyHeap)
cdef bint las_enter(LAS las, HeapNode account) except -1
@cython.locals(heap=KeyHeap, first=HeapNode, account=HeapNode, again=cython.bint)
cdef HeapNode las_least(LAS las)
cdef bint goes_on(LAS las, long long key) noexcept


cdef class QLAS(_ServiceScheduler):
    cdef list _levels
    cdef unsigned long long _occupied
    cdef int _last_level
    cdef long long _picks
    cdef HeapNode _next
    cdef size_t _ran
    cdef long long _goes_on_to
    cdef bint _others

    cdef bint _put(self, ScheduledTask task) except -1
    cdef ScheduledTask _get(self)


cdef bint qlas_enter(QLAS qlas, HeapNode account) except -1
@cython.locals(number=cython.int, lowest=cython.int, level=Line, account=HeapNode, round_robin=cython.bint, level_ends=cython.longlong)
cdef HeapNode qlas_next(QLAS qlas)
@cython.locals(number=cython.int, level=Line)
cdef bint line_up(QLAS qlas, HeapNode account) except -1
@cython.locals(above=cython.ulonglong, candidates=cython.ulonglong, lowest=cython.int)
cdef int _lowest_above(unsigned long long occupied, int level) noexcept
