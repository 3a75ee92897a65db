cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._eevdf_cy cimport Entity
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._schedulers_cy cimport RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._singles_cy cimport Singles
from clockworker.executor._steal_cy cimport Steal
from clockworker.executor._tasks_cy cimport JoinHandle, QueueState

cdef long long _ATTENTION, _LOOK_NS


cdef class WorkSource:
    cdef bint look(self) except -1


cdef class Steps(Singles):
    cdef public WorkSource source
    cdef public long long idle_poll_ns
    cdef public long long patience_ns
    cdef readonly long long idle_ns
    cdef public object tracer
    cdef readonly Histogram decision_time
    cdef readonly Steal steal
    cdef long long _driver_yield_ns
    cdef Py_ssize_t _max_polls
    cdef long long _decisions
    cdef long long _idle_since
    cdef long long _asleep_since
    cdef long long _charge_from
    cdef long long _turn_ended
    cdef bint _lingers
    cdef int _doubt
    cdef int _chances

    @cython.locals(
        attentive_until=cython.longlong, look_until=cython.longlong, polls_before=cython.Py_ssize_t, looked=cython.longlong, decided=cython.longlong, polls=cython.Py_ssize_t, came=cython.longlong, entity=Entity, queue=QueueState, state=JoinHandle, news=cython.bint
    )
    cdef bint _run_turn(self, long long now) except? -1
    cdef bint _may_linger(self) noexcept
    @cython.locals(state=JoinHandle, cut=JoinHandle, popped=ScheduledTask, scheduler=Scheduler)
    cdef JoinHandle _take(self, QueueState queue)
    @cython.locals(popped=ScheduledTask, state=JoinHandle, scheduler=Scheduler)
    cdef JoinHandle _take_from_other(self, QueueState queue)
    @cython.locals(scheduler=Scheduler)
    cdef int _refuse(self, QueueState queue, object popped) except -1
    @cython.locals(ended=cython.longlong, elapsed=cython.longlong, stolen=cython.longlong)
    cdef int64_t _run_step(self, QueueState queue, JoinHandle state, long long started) except? -1
    cdef int64_t _run_slice(self, QueueState queue, JoinHandle state, long long started) except? -1
    cdef int64_t _stolen(self, long long elapsed, long long now, bint of_step) except? -1
    cdef int _passed(self, long long gap, long long now) except -1
    @cython.locals(scheduler=Scheduler)
    cdef int _observe(self, QueueState queue, JoinHandle state, long long elapsed) except -1
    cdef int _tell_of_slow(self, JoinHandle state, long long elapsed) except -1
    cdef int _trace_step(
        self, QueueState queue, JoinHandle state, long long started, long long ended, long long stolen
    ) except -1
    cdef int _trace_turn(self, long long started, long long ended) except -1
    cdef int _drop_tracer(self, object tracer, object error) except -1
    cdef int _let_out(self, JoinHandle state, object error) except -1
    cpdef begin_charge(self)
    @cython.locals(now=cython.longlong, elapsed=cython.longlong)
    cpdef charge(self, QueueState queue)


cdef not_held(QueueState queue, object popped)
