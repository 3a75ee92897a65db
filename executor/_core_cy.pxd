cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._eevdf_cy cimport Eevdf, Entity
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._native cimport c_function
from clockworker.executor._schedulers_cy cimport RunnableFifo, ScheduledTask, Scheduler

cdef object MEMBERSHIP
cdef object _Task
cdef object _CoroutineType
cdef object _is_done
cdef object _copy_context
cdef object _STEP_TYPE
cdef c_function _WAKEUP_FUNCTION
cdef bint _STEP_LAYOUT_KNOWN


@cython.final
cdef class QueueState:
    cdef readonly object key
    cdef readonly Scheduler scheduler
    cdef readonly Entity entity
    cdef readonly bint catch
    cdef readonly dict groups
    cdef readonly Py_ssize_t runnable
    cdef readonly Py_ssize_t live
    cdef readonly long long polls
    cdef readonly long long busy_ns
    cdef readonly long long spawned
    cdef readonly long long finished
    cdef readonly long long panics
    cdef readonly long long slice_overruns
    cdef readonly long long preemptions
    cdef readonly Histogram poll_time
    cdef readonly Histogram first_poll_wait


@cython.final
cdef class Membership:
    cdef readonly Core core
    cdef readonly QueueState queue
    cdef readonly object group
    cdef readonly Py_ssize_t live
    cdef readonly long long service_ns
    cdef object alone


@cython.final
cdef class JoinHandle(ScheduledTask):
    cdef readonly Membership membership
    cdef object callback
    cdef tuple arguments
    cdef object context
    cdef bint held
    cdef public bint spawned
    cdef long long first_seen_ns
    cdef list waiters

    cdef _begin(self, object task, Membership membership, long long arrival)
    cdef object _new_waiter(self)
    cpdef release(self, object task)


@cython.final
cdef class Core:
    cdef readonly object loop
    cdef readonly dict queues
    cdef public Membership default
    cdef readonly JoinHandle current
    cdef readonly object owner
    cdef public bint accepting
    cdef readonly bint pumping
    cdef public object source
    cdef public long long idle_poll_ns
    cdef readonly long long turns
    cdef readonly long long driver_ns
    cdef readonly long long idle_ns
    cdef readonly Histogram decision_time

    cdef long long _decisions
    cdef long long _turn_ended
    cdef bint _was_idle
    cdef long long _step_started
    cdef long long _turn_must_end
    cdef bint _preempt
    cdef Membership _spawning
    cdef JoinHandle _spawned
    cdef long long _driver_yield_ns
    cdef Py_ssize_t _max_polls
    cdef Eevdf _eevdf
    cdef dict _table
    cdef long long _arrivals
    cdef bint _scheduled
    cdef bint _paused
    cdef bint _behind
    cdef list _held
    cdef bint _stepped_back
    cdef long long _idle_since
    cdef unsigned long _thread
    cdef bint _debug
    cdef object _pump_context
    cdef object _had_call_soon
    cdef object _loop_call_soon
    cdef object _get_task_factory

    @cython.locals(queue=QueueState)
    cpdef QueueState add_queue(self, object key, long long share, long long slice_ns, Scheduler scheduler, bint catch)
    cpdef set_share(self, QueueState queue, long long share)
    @cython.locals(queue=QueueState, state=JoinHandle)
    cpdef detach(self)
    @cython.locals(queue=QueueState, state=JoinHandle)
    cdef _route(self, object callback, tuple args, object context)
    cdef _pass(self, object callback, tuple args, object context)
    @cython.locals(queue=QueueState)
    cdef _push(self, JoinHandle state)
    cdef _hold(self, JoinHandle state)
    @cython.locals(held=list, state=JoinHandle)
    cdef _admit(self)
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef JoinHandle _adopt(self, object task, object context)
    @cython.locals(running=QueueState)
    cdef _consider_preemption(self, Entity woken)
    @cython.locals(state=JoinHandle, now=cython.longlong)
    cpdef bint should_yield(self) except? -1
    @cython.locals(state=JoinHandle)
    cpdef switch(self, Membership membership)
    @cython.locals(queue=QueueState)
    cdef _join(self, JoinHandle state, Membership membership)
    @cython.locals(membership=Membership, queue=QueueState)
    cdef _depart(self, JoinHandle state)
    cdef _enter(self, JoinHandle state)
    @cython.locals(state=JoinHandle)
    cpdef JoinHandle spawn(self, Membership membership, object coroutine, object name)
    cpdef object context(self, Membership membership)
    @cython.locals(membership=Membership)
    cpdef Membership group(self, QueueState queue, object key)
    cdef _check_thread(self, object what)
    cdef _schedule(self)
    @cython.locals(popped=ScheduledTask, state=JoinHandle)
    cdef JoinHandle _take(self, QueueState queue)
    @cython.locals(state=JoinHandle)
    cdef _replace_scheduler(self, QueueState queue, object error)
    @cython.locals(
        decided=cython.longlong, polls=cython.Py_ssize_t, entity=Entity, queue=QueueState, state=JoinHandle, news=cython.bint
    )
    cdef bint _run_turn(self, long long now) except? -1
    @cython.locals(arguments=tuple, ended=cython.longlong, elapsed=cython.longlong)
    cdef int64_t _run_step(self, QueueState queue, JoinHandle state, long long started) except? -1
    @cython.locals(queue=QueueState)
    cdef _leave(self, JoinHandle state)
