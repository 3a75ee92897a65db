cimport cython
from cpython.object cimport PyObject
from clockworker.executor._native cimport (
    PyCFunction_CheckExact,
    PyCFunction_GET_FUNCTION,
    PyCFunction_GET_SELF,
    PyObject_Vectorcall,
    PyThread_get_thread_ident,
    Py_TYPE,
    c_function,
    getter,
    step_task,
)

cdef object _STEP_TYPE
cdef c_function _WAKEUP
cdef c_function _DONE
cdef c_function _CANCELLED
cdef c_function _RESULT
cdef getter _EXCEPTION
cdef bint _EXCEPTION_TELLS
cdef bint _PLAIN
cdef bint _ANY_FUTURE


cdef class PlainStep:
    cdef object task  # first, as in CPython's
    cdef object callback
    cdef tuple args


cdef class Seam:
    cdef readonly object loop
    cdef readonly object completed
    cdef bint behind
    cdef bint debug
    cdef unsigned long _thread
    cdef dict _had
    cdef object _loop_call_soon
    cdef object _loop_call_soon_threadsafe
    cdef tuple _keywords

    cpdef take_call_soon(self, object loop)
    cpdef give_call_soon_back(self)
    cdef bint take(self, object callback, object argument, object context) except -1
    cdef bint runs(self, object handle) except -1
    cpdef report(self, str message, object error)
    @cython.locals(taken=cython.bint)
    cpdef schedule(self, object callback, object argument, object context)
    cdef int wake_waiter(self, object callback, object awaited, bint cancelled, object context) except -1
    @cython.locals(step=PlainStep)
    cdef bint _take_plain(self, object callback, tuple args, object context) except -1
    cdef object pass_on(self, object callback, tuple args, object context)
    @cython.locals(thread=cython.ulong)
    cpdef bint is_own_thread(self) except -1
    cpdef int check_thread(self, object what) except -1
    cdef _check_seam_thread(self)
    cdef bint _names_context(self, tuple keywords) except -1


cdef bint is_done(object task) except -1
cdef bint is_cancelled(object task) except -1
cdef object result_of(object task)
cdef bint has_exception(object task) except -1


cdef inline bint is_wakeup(object callback):
    return PyCFunction_CheckExact(callback) and PyCFunction_GET_FUNCTION(callback) == _WAKEUP


# The task of a step (then there is no argument) or a wake-up. By its address where that is enough: counting a reference to a
# task that has not run for long would be a cache miss.

cdef inline PyObject *task_address(object callback, object argument) except NULL:
    if argument is not None:
        return PyCFunction_GET_SELF(callback)
    return step_task(callback)


cdef inline bint is_of(object callback, object argument, object task) except -1:
    return task_address(callback, argument) == <PyObject *>task


cdef inline object task_of(object callback, object argument):
    return <object>task_address(callback, argument)


cdef inline object seam_call_soon(object self, PyObject **args, Py_ssize_t count, PyObject *keywords):
    """`Seam.call_soon` when compiled. `args`: the positional arguments, then those that `keywords` names."""
    cdef Seam seam = <Seam>self
    cdef PyObject *callback
    if keywords != NULL and (keywords == <PyObject *>seam._keywords or seam._names_context(<tuple>keywords)):
        callback = args[0]
        if count == 1:
            if <PyObject *>Py_TYPE(callback) == <PyObject *>_STEP_TYPE:
                if seam.take(<object>callback, None, <object>args[1]):
                    return None
        elif count == 2 and args[1] != <PyObject *>None and is_wakeup(<object>callback):
            if seam.take(<object>callback, <object>args[1], <object>args[2]):
                return None
        if _PLAIN and count <= 2:
            if seam._take_plain(<object>callback, () if count == 1 else (<object>args[1],), <object>args[count]):
                return None
    seam.behind = True
    return PyObject_Vectorcall(seam._loop_call_soon, args, count, keywords)
