# Running coroutines from C: results come without the StopIteration in which Python code would get them.

cdef extern from *:
    """
    static PyObject *clockworker_run_to_end(PyObject *coroutine) {
        PyObject *result = NULL;
        if (PyIter_Send(coroutine, Py_None, &result) != PYGEN_NEXT) return result;
        Py_DECREF(result);
        PyErr_Format(PyExc_RuntimeError, "%R has suspended, and what it was made of could not", coroutine);
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyObject *closed = PyObject_CallMethod(coroutine, "close", NULL);
        if (closed == NULL) PyErr_WriteUnraisable(coroutine);
        Py_XDECREF(closed);
        PyErr_Restore(type, value, traceback);
        return NULL;
    }

    /* A coroutine's next step: what it has yielded, or, and then it is over, returned. */
    static inline PyObject *clockworker_send_to(PyObject *coroutine, PyObject *value, int *over) {
        PyObject *result = NULL;
        PySendResult sent = PyIter_Send(coroutine, value, &result);
        *over = sent == PYGEN_RETURN;
        return sent == PYGEN_ERROR ? NULL : result;
    }

    /* A type whose instances are coroutines. step(self, value) is the next step of one: what it yields, or itself: it is over,
       and has returned None. A module has one such type. */
    typedef PyObject *(*clockworker_step_function)(PyObject *, PyObject *);

    static clockworker_step_function clockworker_step;

    static PyObject *clockworker_coroutine_next(PyObject *self) {
        PyObject *result = clockworker_step(self, Py_None);
        if (result != self) return result;
        Py_DECREF(result);
        return NULL;
    }

    static PySendResult clockworker_coroutine_send(PyObject *self, PyObject *value, PyObject **result) {
        *result = clockworker_step(self, value);
        if (*result == NULL) return PYGEN_ERROR;
        if (*result != self) return PYGEN_NEXT;
        Py_SETREF(*result, Py_NewRef(Py_None));
        return PYGEN_RETURN;
    }

    static inline void clockworker_step_by(PyObject *type, clockworker_step_function function) {
        clockworker_step = function;
        ((PyTypeObject *)type)->tp_iternext = clockworker_coroutine_next;
        ((PyTypeObject *)type)->tp_as_async->am_send = clockworker_coroutine_send;
        PyType_Modified((PyTypeObject *)type);
    }
    """
    object run_to_end "clockworker_run_to_end"(object coroutine)
    object send_to "clockworker_send_to"(object coroutine, object value, bint *over)
    ctypedef object (*step_function "clockworker_step_function")(object, object)
    void step_by "clockworker_step_by"(object type, step_function function)
