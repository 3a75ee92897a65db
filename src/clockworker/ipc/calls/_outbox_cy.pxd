cimport cython
from clockworker.ipc.calls._call_cy cimport Method
from clockworker.ipc.calls._link_cy cimport Link


cdef int _NEAR


cdef class LinkSender:
    cdef Link link
    cdef Method method
    cdef Py_ssize_t count
    cdef object bind

    cdef object send(self, tuple args, dict kwargs)


cdef class Outbox:
    cdef object _find
    cdef object _send_of_key
    cdef dict _senders
    cdef dict _far
    cdef object _last_method
    cdef list _last_senders

    @cython.locals(senders=list, link_sender=LinkSender, number=cython.longlong)
    cpdef object send(self, object shard, object method, tuple args, dict kwargs)
    @cython.locals(senders=list)
    cdef object _sender(self, object shard, object method)
