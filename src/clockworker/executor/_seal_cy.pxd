cdef extern from *:
    """
    static int clockworker_seal(PyObject *object) {
        PyTypeObject *type = (PyTypeObject *)object;
        if (PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) return 0;  /* a class of Python's own */
        if (type->tp_dict == NULL) {
            PyErr_Format(PyExc_TypeError, "%R has no dict in its place", object);
            return -1;
        }
        if (PyDict_GetItemString(type->tp_dict, "__new__") != NULL && PyDict_DelItemString(type->tp_dict, "__new__") < 0)
            return -1;
        type->tp_flags &= ~Py_TPFLAGS_BASETYPE;
        PyType_Modified(type);
        return 0;
    }
    """
    int seal "clockworker_seal"(object type) except -1
