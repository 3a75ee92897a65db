cimport cython
from clockworker.ipc.calls._call_cy cimport Method
from clockworker.ipc.calls._link_cy cimport Link


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
    cdef object _last_method
    cdef dict _last_senders

    @cython.locals(senders=dict, link_sender=LinkSender)
    cpdef object send(self, object shard, object method, tuple args, dict kwargs)
