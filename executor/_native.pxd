# What the compiled modules take from C directly. Each has a pure counterpart beside the import.

from cpython.object cimport PyObject
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef extern from "Python.h":
    ctypedef void *c_function "PyCFunction"
    bint PyCFunction_CheckExact(object callback)
    c_function PyCFunction_GET_FUNCTION(object callback)
    PyObject *PyCFunction_GET_SELF(object callback)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1


cdef inline object bound_self(object callback):
    # A borrowed reference: declared as returning an object it would be taken for a new one.
    return <object>PyCFunction_GET_SELF(callback)


cdef struct step_layout:
    # How CPython's TaskStepMethWrapper begins. Only used where step_holds() has confirmed it.
    PyObject head
    PyObject *task


cdef inline object step_task(object step):
    return <object>(<step_layout *>step).task


cdef inline bint step_holds(object step, object task):
    return (<step_layout *>step).task == <PyObject *>task


cdef inline long long now_ns() noexcept:
    """CLOCK_MONOTONIC, as time.monotonic_ns, without making an int of it."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <long long>time.tv_sec * 1000000000 + time.tv_nsec


cdef inline int bit_length(unsigned long long value) noexcept:
    return 64 - __builtin_clzll(value) if value else 0


cdef extern from *:
    int __builtin_clzll(unsigned long long value) noexcept
    int __builtin_ctzll(unsigned long long value) noexcept
