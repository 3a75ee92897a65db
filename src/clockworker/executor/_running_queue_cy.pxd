from clockworker.executor._eevdf_cy cimport Entity
from clockworker.executor._histogram_cy cimport Histogram
from clockworker.executor._schedulers_cy cimport RunnableFifo, Scheduler


cdef class RunningQueue:
    cdef readonly object key
    cdef readonly Scheduler scheduler
    cdef readonly RunnableFifo fifo
    cdef readonly Entity entity
    cdef readonly bint catch
    cdef readonly dict groups
    cdef readonly Py_ssize_t runnable
    cdef public Py_ssize_t live
    cdef readonly long long polls
    cdef readonly long long busy_ns
    cdef readonly long long stolen_ns
    cdef public long long spawned
    cdef public long long finished
    cdef public long long panics
    cdef readonly long long slice_overruns
    cdef readonly long long preemptions
    cdef readonly Histogram poll_time
    cdef readonly Histogram first_poll_wait
    cdef readonly Histogram wait
    cdef int pushes_to_sample
    cdef public long long slow_ns
    cdef readonly long long slow_polls

    cdef use(self, Scheduler scheduler)
