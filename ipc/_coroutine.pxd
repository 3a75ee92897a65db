# Running a coroutine that does not suspend, without the StopIteration in which Python code would get its result.

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
    """
    object run_to_end "clockworker_run_to_end"(object coroutine)
