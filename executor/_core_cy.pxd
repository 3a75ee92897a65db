cimport cython
from libc.stdint cimport int64_t
from clockworker.executor._eevdf_cy cimport Eevdf, Entity
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._schedulers_cy cimport RunnableFifo, ScheduledTask, Scheduler
from clockworker.executor._seam_cy cimport Seam
from clockworker.executor._table_cy cimport TaskTable
from clockworker.executor._tasks_cy cimport JoinHandle, Membership, QueueState

cdef object _Task
cdef object _CoroutineType
cdef object _enter_task
cdef object _leave_task
cdef long long _ATTENTION
cdef int _SAMPLE_EVERY


cdef class Core(Seam):
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
    cdef public object tracer
    cdef public object stirred

    cdef long long _decisions
    cdef long long _turn_ended
    cdef bint _was_idle
    cdef long long _step_started
    cdef long long _charge_from
    cdef long long _turn_must_end
    cdef bint _preempt
    cdef Membership _spawning
    cdef JoinHandle _spawned
    cdef dict _keywords_for_task
    cdef object _name_in_keywords
    cdef bint _constructing
    cdef long long _driver_yield_ns
    cdef Py_ssize_t _max_polls
    cdef Eevdf _eevdf
    cdef TaskTable _table
    cdef long long _arrivals
    cdef readonly Py_ssize_t singles
    cdef set _singles_of_others
    cdef bint _scheduled
    cdef bint _paused
    cdef list _held
    cdef bint _stepped_back
    cdef long long _idle_since
    cdef object _pump_context
    cdef object _get_task_factory

    @cython.locals(queue=QueueState)
    cpdef QueueState add_queue(self, object key, long long share, long long slice_ns, Scheduler scheduler, bint catch)
    cpdef set_share(self, QueueState queue, long long share)
    @cython.locals(queue=QueueState, state=JoinHandle)
    cpdef detach(self)
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef bint take(self, object callback, object argument, object context) except -1
    cdef int _enqueue(self, JoinHandle state) except -1
    @cython.locals(queue=QueueState)
    cdef int _push(self, JoinHandle state) except -1
    cdef int _hold(self, JoinHandle state) except -1
    @cython.locals(held=list, state=JoinHandle)
    cdef int _admit(self) except -1
    @cython.locals(membership=Membership, state=JoinHandle)
    cdef JoinHandle _adopt(self, object task, object context)
    @cython.locals(running=QueueState)
    cdef int _consider_preemption(self, Entity woken) except -1
    @cython.locals(state=JoinHandle, now=cython.longlong)
    cpdef bint should_yield(self) except? -1
    cpdef bint is_busy(self)
    @cython.locals(state=JoinHandle)
    cpdef switch(self, Membership membership)
    @cython.locals(queue=QueueState)
    cdef int _join(self, JoinHandle state, Membership membership) except -1
    @cython.locals(membership=Membership, queue=QueueState)
    cdef int _depart(self, JoinHandle state) except -1
    cdef int _enter(self, JoinHandle state) except -1
    @cython.locals(state=JoinHandle)
    cpdef JoinHandle spawn(self, Membership membership, object coroutine, object name)
    @cython.locals(state=JoinHandle, queue=QueueState)
    cpdef spawn_step(self, Membership membership, object carrier, object step)
    cpdef begin_charge(self)
    cpdef charge(self, QueueState queue)
    @cython.locals(membership=Membership)
    cdef object _run_single(self, JoinHandle state)
    cdef int _leave_single(self, JoinHandle state) except -1
    cdef object _new_task(self, object coroutine, object name, Membership membership)
    @cython.locals(membership=Membership)
    cpdef Membership group(self, QueueState queue, object key)
    cpdef take_turn(self)
    cdef int _schedule(self) except -1
    cdef int _stir(self) except -1
    @cython.locals(popped=ScheduledTask, state=JoinHandle)
    cdef JoinHandle _take(self, QueueState queue)
    @cython.locals(state=JoinHandle)
    cdef int _replace_scheduler(self, QueueState queue, object error) except -1
    @cython.locals(
        attentive_until=cython.longlong, decided=cython.longlong, polls=cython.Py_ssize_t, entity=Entity, queue=QueueState, state=JoinHandle, news=cython.bint
    )
    cdef bint _run_turn(self, long long now) except? -1
    @cython.locals(ended=cython.longlong, elapsed=cython.longlong)
    cdef int64_t _run_step(self, QueueState queue, JoinHandle state, long long started) except? -1
    @cython.locals(queue=QueueState)
    cdef int _leave(self, JoinHandle state) except -1
