cimport cython
from clockworker.executor._core_cy cimport Core
from clockworker.executor._tasks_cy cimport JoinHandle, Membership
from clockworker.ipc.calls._call_cy cimport Method
from clockworker.ipc.calls._chain_cy cimport Chain, new_chain
from clockworker.ipc.calls._link_cy cimport Link
from clockworker.ipc.calls._shared_cy cimport Shared

cdef int _REPLY, _ERROR, _LEAVING, _DEEPEST
cdef object _CHAIN, _CoroutineType


cdef class Target:
    cdef readonly Method method
    cdef readonly object function
    cdef readonly Membership membership
    cdef readonly object carrier
    cdef readonly Py_ssize_t running


cdef class Request:
    cdef readonly Link link
    cdef readonly long long epoch
    cdef readonly Target target
    cdef readonly long long queue
    cdef readonly long long number
    cdef readonly long long deadline_ns
    cdef readonly int depth
    cdef public bytes of_key
    cdef Chain chain
    cdef object arguments
    cdef object task
    cdef object coroutine
    cdef readonly bint ended
    cdef bint begun

    cdef start(self, Core core, Membership membership)
    cpdef close(self)
    @cython.locals(chain=Chain)
    cdef bint begin(self) except -1
    cdef bint is_owned(self) except -1
    cdef returned(self, object value)
    cpdef fail(self, object error)
    cdef log(self, object error)
    @cython.locals(method=Method)
    cpdef call(self)
    @cython.locals(shared=Shared, method=Method, body=bytes)
    cpdef bytes encode(self, object value, str what)
    cdef reply(self, object result)
    cpdef answer(self, int kind, bytes body)
    cpdef cancel(self)


@cython.locals(request=Request, over=cython.bint)
cdef object step(object awaited, object value)


@cython.locals(request=Request)
cpdef Request new_request(
    Link link,
    Target target,
    long long queue,
    long long number,
    long long deadline_ns,
    long long depth,
    object arguments,
)
