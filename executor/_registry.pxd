# Registering tasks with asyncio, in C.
#
# A Task's constructor calls `add` of a WeakSet, from which `asyncio.all_tasks()` reads; that is a function in Python, and when
# the task goes its weak reference calls another: together a fifth of what a spawn costs. These do the same to the same set,
# and are put in the way of `add` as an attribute of the instance, while an executor is attached.

cdef extern from *:
    """
    enum { CLOCKWORKER_DATA, CLOCKWORKER_ITERATING, CLOCKWORKER_PENDING, CLOCKWORKER_DISCARD, CLOCKWORKER_COMMIT };

    /* WeakSet._remove. While somebody iterates, removals wait. */
    static PyObject *clockworker_registry_discard(PyObject *self, PyObject *reference) {
        int failed = PySet_GET_SIZE(PyTuple_GET_ITEM(self, CLOCKWORKER_ITERATING))
            ? PyList_Append(PyTuple_GET_ITEM(self, CLOCKWORKER_PENDING), reference)
            : PySet_Discard(PyTuple_GET_ITEM(self, CLOCKWORKER_DATA), reference);
        if (failed < 0) return NULL;
        Py_RETURN_NONE;
    }

    /* WeakSet.add */
    static PyObject *clockworker_registry_add(PyObject *self, PyObject *task) {
        if (PyList_GET_SIZE(PyTuple_GET_ITEM(self, CLOCKWORKER_PENDING))) {
            PyObject *done = PyObject_CallNoArgs(PyTuple_GET_ITEM(self, CLOCKWORKER_COMMIT));
            if (done == NULL) return NULL;
            Py_DECREF(done);
        }
        PyObject *reference = PyWeakref_NewRef(task, PyTuple_GET_ITEM(self, CLOCKWORKER_DISCARD));
        if (reference == NULL) return NULL;
        int failed = PySet_Add(PyTuple_GET_ITEM(self, CLOCKWORKER_DATA), reference);
        Py_DECREF(reference);
        if (failed < 0) return NULL;
        Py_RETURN_NONE;
    }

    static PyMethodDef clockworker_registry_methods[] = {
        {"add", clockworker_registry_add, METH_O, NULL},
        {"discard", clockworker_registry_discard, METH_O, NULL},
    };

    static inline PyObject *clockworker_new_registry_method(int which, PyObject *parts) {
        return PyCFunction_New(&clockworker_registry_methods[which], parts);
    }
    """
    object new_registry_method "clockworker_new_registry_method"(int which, tuple parts)


cdef inline object new_registry_add(set data, set iterating, list pending, object commit):
    """`add` for the WeakSet with these parts."""
    discard = new_registry_method(1, (data, iterating, pending))
    return new_registry_method(0, (data, iterating, pending, discard, commit))
