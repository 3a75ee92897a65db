# What the compiled modules of shards take from C directly. Each has a pure counterpart beside the import.

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/socket.h>

    /* Without the peer's address, which takes longer to be made a text than the system call. The socket must not block: the
       interpreter's lock is kept. */
    static int clockworker_accept(int listening) {
        int descriptor;
        do {
            descriptor = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        } while (descriptor < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        if (descriptor < 0 && !PyErr_Occurred()) PyErr_SetFromErrno(PyExc_OSError);
        return descriptor;
    }

    /* A coroutine's first step: what it waits for. */
    static PyObject *clockworker_first_step(PyObject *coroutine) {
        PyObject *result = NULL;
        PySendResult sent = PyIter_Send(coroutine, Py_None, &result);
        if (sent != PYGEN_RETURN) return result;
        Py_XDECREF(result);
        PyErr_Format(PyExc_RuntimeError, "%R waits for nothing", coroutine);
        return NULL;
    }

    /* And its last: what it returns. */
    static PyObject *clockworker_last_step(PyObject *coroutine) {
        PyObject *result = NULL;
        PySendResult sent = PyIter_Send(coroutine, Py_None, &result);
        if (sent != PYGEN_NEXT) return result;
        Py_XDECREF(result);
        PyErr_Format(PyExc_RuntimeError, "%R waits twice", coroutine);
        return NULL;
    }
    """
    int accept_on "clockworker_accept"(int listening) except -1
    object first_step "clockworker_first_step"(object coroutine)
    object run_to_end "clockworker_last_step"(object coroutine)
