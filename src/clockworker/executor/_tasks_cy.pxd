cimport cython
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._running_queue_cy cimport RunningQueue
from clockworker.executor._schedulers_cy cimport ScheduledTask, Scheduler
from clockworker.executor._seam_cy cimport Seam

cdef object MEMBERSHIP
cdef bint _HIDES, _CONTEXT_SHOWS


cdef class QueueState(RunningQueue):
    cdef Scheduler built_in
    cdef bint sliced
    cdef readonly JoinHandle suspended
    cdef object fiber
    cdef readonly bint preemptive
    cdef readonly long long cuts
    cdef readonly dict refusals
    cdef readonly Histogram whole_step

    cdef use(self, Scheduler scheduler)


cdef class Membership:
    cdef readonly Seam core
    cdef readonly QueueState queue
    cdef readonly object group
    cdef readonly Py_ssize_t live
    cdef readonly long long service_ns
    cdef object _context_alone

    cpdef object context(self)
    cdef object context_or_error(self)
    cdef object context_to_copy(self)
    cdef object _alone(self)


cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef JoinHandle handle
    cdef bint quiet
    cdef bint waiting
    cdef bint finished
    cdef bint was_cancelled
    cdef object message
    cdef object callback
    cdef object context
    cdef Waiter before
    cdef Waiter after

    cdef void show(self) noexcept
    cdef int finish(self) except -1


@cython.locals(waiter=Waiter, core=Seam)
cdef object proceed(object awaited)


cdef class JoinHandle(ScheduledTask):
    # What a wake-up touches is in the first two cache lines. With the collector's head the whole is three: with one more word
    # a yield among 100,000 tasks costs a tenth more.
    cdef unsigned char queued
    cdef unsigned char held
    cdef unsigned char single
    cdef unsigned char hidden
    cdef readonly bint spawned
    cdef readonly Membership membership
    cdef object callback
    cdef object argument
    cdef object context
    cdef long long first_seen_ns
    cdef long long pushed_ns
    cdef Waiter first_waiter
    cdef Waiter last_waiter

    cdef void begin(self, object task, Membership membership, object context) noexcept
    @cython.locals(waiter=Waiter)
    cdef Waiter waiter(self, bint quiet)
    cdef int add(self, Waiter waiter) except -1
    cdef void remove(self, Waiter waiter) noexcept
    @cython.locals(waiter=Waiter)
    cdef int release_at_end(self) except -1
    cdef void hide(self) noexcept
    cdef void show(self) noexcept
    cpdef release(self, object task)
    @cython.locals(waiter=Waiter)
    cdef int wake_waiters(self) except -1
