from clockworker.executor._core_cy cimport Core


cdef class Shared:
    cdef readonly Core core
    cdef readonly object loop
    cdef readonly int shard_id
    cdef public int place
    cdef readonly object limits
    cdef readonly Py_ssize_t max_message
    cdef public object encode
    cdef readonly dict identifiers
    cdef readonly object deadlines
    cdef public long long calls_sent
    cdef public long long one_ways_sent
    cdef object new_earliest
    cdef object broken
    cdef public object refusal
    cdef public object refusal_of
    cdef public bint watched
    cdef public object watch
