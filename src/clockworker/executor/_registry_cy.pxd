cdef extern from *:
    """
    enum { CLOCKWORKER_DATA, CLOCKWORKER_ITERATING, CLOCKWORKER_PENDING, CLOCKWORKER_DISCARD, CLOCKWORKER_COMMIT };

    static PyObject *clockworker_left_out;  /* only compared: no reference */

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
        PyObject *left_out = clockworker_left_out;
        clockworker_left_out = NULL;  /* whichever is added: an address says nothing for long */
        if (task == left_out) Py_RETURN_NONE;
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

    static inline void clockworker_set_left_out(PyObject *task) {
        clockworker_left_out = task;
    }

    static inline int clockworker_has_weak_references(PyObject *task) {
        Py_ssize_t offset = Py_TYPE(task)->tp_weaklistoffset;
        return offset == 0 || *(PyObject **)((char *)task + offset) != NULL;
    }
    """
    object new_registry_method "clockworker_new_registry_method"(int which, tuple parts)
    void set_left_out "clockworker_set_left_out"(object task) noexcept
    bint has_weak_references "clockworker_has_weak_references"(object task) noexcept


cdef void leave_out(object task) noexcept
cdef void leave_out_if_new(object task) noexcept
