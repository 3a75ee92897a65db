# What the compiled modules take from C directly. Each has a pure counterpart beside the import.

cdef extern from "pythread.h":
    unsigned long get_ident "PyThread_get_thread_ident"() noexcept


cdef extern from *:
    """
    /* Of a variable that has a default. */
    static inline PyObject *clockworker_context_get(PyObject *variable) {
        PyObject *value;
        return PyContextVar_Get(variable, NULL, &value) < 0 ? NULL : value;
    }

    /* An int, exactly; -1 if it is too large for a long long. */
    static inline long long clockworker_small_int(PyObject *number) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
        return overflow ? -1 : value;
    }

    /* A coroutine's first step, which must not be its last. */
    static inline int clockworker_begin(PyObject *coroutine) {
        PyObject *result = NULL;
        PySendResult sent = PyIter_Send(coroutine, Py_None, &result);
        Py_XDECREF(result);
        if (sent == PYGEN_RETURN) PyErr_SetString(PyExc_RuntimeError, "a coroutine has ended in its first step");
        return sent == PYGEN_NEXT ? 0 : -1;
    }
    """
    object context_get "clockworker_context_get"(object variable)
    long long small_int "clockworker_small_int"(object number) noexcept
    int begin "clockworker_begin"(object coroutine) except -1
