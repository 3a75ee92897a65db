cimport cython
from clockworker.executor._eevdf_cy cimport Eevdf, Entity
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._running_queue_cy cimport RunningQueue
from clockworker.executor._schedulers_cy cimport RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._steal_cy cimport Steal
from libc.stdint cimport int64_t

cdef long long _GRANULARITY_NS
cdef int _SAMPLE_EVERY, _ATTENTION, _NONE

cdef class Steps


cdef class QueueState(RunningQueue):
    cdef readonly bint builtin

    cdef use(self, Scheduler scheduler)


cdef class Membership:
    cdef readonly object gate
    cdef readonly QueueState queue
    cdef readonly object group
    cdef public long long live
    cdef readonly long long service_ns


cdef class Place(ScheduledTask):
    cdef readonly Membership membership
    cdef readonly object handle
    cdef readonly bint queued
    cdef long long first_seen_ns
    cdef long long pushed_ns
    cdef public long long turn


cdef class Steps:
    cdef public object runner
    cdef readonly dict places
    cdef public bint paused
    cdef public Place current
    cdef readonly long long turns
    cdef readonly long long driver_ns
    cdef readonly long long idle_ns
    cdef readonly Histogram decision_time
    cdef readonly Eevdf _eevdf
    cdef readonly Steal _steal
    cdef long long _driver_yield_ns
    cdef long long _max_polls
    cdef public list _passing
    cdef long long _runnable
    cdef public Place _next
    cdef QueueState _running
    cdef long long _step_started
    cdef bint _preempt
    cdef long long _polls
    cdef long long _decisions
    cdef long long _turn_must_end
    cdef long long _attentive_until
    cdef public long long _turn_ended
    cdef bint _was_idle

    @cython.locals(queue=QueueState)
    cpdef QueueState add_queue(self, object key, long long share, long long slice_ns, Scheduler scheduler, bint catch)
    cpdef set_share(self, QueueState queue, long long share)
    @cython.locals(place=Place, queue=QueueState)
    cpdef append(self, object task)
    @cython.locals(turn=Turn)
    cpdef Turn begin_turn(self)
    @cython.locals(running=QueueState)
    cpdef _activate(self, QueueState queue)
    @cython.locals(place=Place)
    cpdef take_over(self, QueueState queue, RunnableFifo fifo, list held)
    @cython.locals(now=cython.longlong, decided=cython.longlong, entity=Entity, queue=QueueState, place=Place)
    cdef bint choose(self) except -1
    @cython.locals(started=cython.longlong, gap=cython.longlong)
    cdef int64_t _begin_steps(self) except? -1
    cdef bint _end_turn(self, long long now) except -1
    @cython.locals(place=Place, found=Place)
    cpdef Place _take(self, QueueState queue)
    @cython.locals(fifo=RunnableFifo)
    cdef object _put_back(self, QueueState queue, Place place)
    @cython.locals(place=Place, queue=QueueState, started=cython.longlong)
    cdef object begin_step(self)
    @cython.locals(
        place=Place,
        queue=QueueState,
        membership=Membership,
        ended=cython.longlong,
        elapsed=cython.longlong,
        stolen=cython.longlong,
    )
    cdef object end_step(self)
    @cython.locals(running=QueueState, now=cython.longlong)
    cpdef bint should_yield(self) except -1
    @cython.locals(scheduler=Scheduler)
    cpdef bint _push_to(self, QueueState queue, Place place) except -1
    @cython.locals(scheduler=Scheduler, place=Place)
    cdef Place _take_from(self, QueueState queue)
    @cython.locals(scheduler=Scheduler)
    cdef int _observe(self, QueueState queue, Place place, long long elapsed) except -1


cdef class Turn:
    cdef Steps steps
    cdef list passing
