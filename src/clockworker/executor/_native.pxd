# What the compiled modules take from C directly. Each has a pure counterpart beside the import or in _pure.

from cpython.object cimport PyObject, PyTypeObject


cdef extern from "Python.h":
    ctypedef void *c_function "PyCFunction"
    bint PyCFunction_CheckExact(object callback)
    c_function PyCFunction_GET_FUNCTION(object callback)
    PyObject *PyCFunction_GET_SELF(object callback)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_Copy(object context)
    object PyContext_CopyCurrent()
    object PyContextVar_Set(object var, object value)
    object PyObject_Call(object callable, tuple arguments, dict keywords)
    object PyObject_Vectorcall(object callable, PyObject **arguments, size_t count, PyObject *keywords)
    PyTypeObject *Py_TYPE(PyObject *object)
    Py_ssize_t Py_REFCNT(void *object)
    void Py_INCREF(object)
    void Py_DECREF(object)
    bint PyObject_IS_GC(object)
    bint PyObject_GC_IsTracked(object)
    void PyObject_GC_Track(object)
    void PyObject_GC_UnTrack(object)
    unsigned long PyThread_get_thread_ident()


cdef extern from *:
    """
    /* A builtin method whose arguments arrive as an array: no tuple and no dict is made for a call. */
    typedef PyObject *(*clockworker_method)(PyObject *, PyObject **, Py_ssize_t, PyObject *);

    static PyMethodDef clockworker_call_soon = {"call_soon", NULL, METH_FASTCALL | METH_KEYWORDS, NULL};

    static inline PyObject *clockworker_new_call_soon(clockworker_method method, PyObject *self) {
        clockworker_call_soon.ml_meth = (PyCFunction)(void (*)(void))method;
        return PyCFunction_New(&clockworker_call_soon, self);
    }

    /* A builtin method without arguments. A module has one. */
    static PyMethodDef clockworker_pump = {"pump", NULL, METH_NOARGS, NULL};

    static inline PyObject *clockworker_new_pump(PyCFunction method, PyObject *self) {
        clockworker_pump.ml_meth = method;
        return PyCFunction_New(&clockworker_pump, self);
    }

    /* call_soon(callback, context=context), by a bound method. keywords: ("context",) */
    static inline PyObject *clockworker_call_in_context(
        PyObject *call_soon, PyObject *callback, PyObject *context, PyObject *keywords
    ) {
        PyObject *arguments[3] = {NULL, callback, context};
        return PyObject_Vectorcall(call_soon, arguments + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, keywords);
    }

    static inline int clockworker_takes_one_argument(PyObject *callback) {
        return PyCFunction_CheckExact(callback) && PyCFunction_GET_FLAGS(callback) == METH_O;
    }

    /* The C functions behind a descriptor of a builtin type. NULL if it is of another kind: then ask by name. */
    static inline PyCFunction clockworker_method_without_arguments(PyObject *descriptor) {
        if (!Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) return NULL;
        PyMethodDef *method = ((PyMethodDescrObject *)descriptor)->d_method;
        return method->ml_flags == METH_NOARGS ? method->ml_meth : NULL;
    }

    static inline PyObject *clockworker_call_without_arguments(PyCFunction function, PyObject *self) {
        return function(self, NULL);
    }

    static inline int clockworker_is_true(PyCFunction function, PyObject *self) {
        PyObject *answer = function(self, NULL);
        if (answer == NULL) return -1;
        int is_true = answer == Py_True;
        Py_DECREF(answer);
        return is_true;
    }

    static inline getter clockworker_getter(PyObject *descriptor) {
        return Py_IS_TYPE(descriptor, &PyGetSetDescr_Type) ? ((PyGetSetDescrObject *)descriptor)->d_getset->get : NULL;
    }

    static inline int clockworker_is_none(getter get, PyObject *self) {
        PyObject *value = get(self, NULL);
        if (value == NULL) return -1;
        int is_none = value == Py_None;
        Py_DECREF(value);
        return is_none;
    }

    /* Only to be compared: the reference is given back. */
    static inline void *clockworker_context_value(PyObject *variable) {
        PyObject *value;
        if (PyContextVar_Get(variable, NULL, &value) < 0) {
            PyErr_Clear();
            return NULL;
        }
        Py_XDECREF(value);
        return value;
    }

    static PyObject *clockworker_no_arguments;

    static PyObject *clockworker_take_exception(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) PyException_SetTraceback(value, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        return value;
    #endif
    }

    /* context.run(callback[, argument]) of what the seam has taken: None, or the exception. A step (no argument) has no
       vectorcall, so PyObject_Call would look for one and check the result; a wake-up is a method of one argument. */
    static inline PyObject *clockworker_run(PyObject *callback, PyObject *argument, PyObject *context) {
        if (clockworker_no_arguments == NULL && (clockworker_no_arguments = PyTuple_New(0)) == NULL)
            return clockworker_take_exception();
        if (PyContext_Enter(context) < 0) return clockworker_take_exception();
        PyObject *result = argument == Py_None
            ? Py_TYPE(callback)->tp_call(callback, clockworker_no_arguments, NULL)
            : PyCFunction_GET_FUNCTION(callback)(PyCFunction_GET_SELF(callback), argument);
        PyObject *error = NULL;
        if (result == NULL) error = clockworker_take_exception();
        else Py_DECREF(result);
        if (PyContext_Exit(context) < 0) {
            Py_XDECREF(error);
            return clockworker_take_exception();
        }
        return error != NULL ? error : Py_NewRef(Py_None);
    }

    /* A copy of the context, or the exception. */
    static inline PyObject *clockworker_copy(PyObject *context) {
        PyObject *copy = PyContext_Copy(context);
        return copy != NULL ? copy : clockworker_take_exception();
    }

    /* function(argument), or the exception. */
    static inline PyObject *clockworker_call_or_error(PyObject *function, PyObject *argument) {
        PyObject *result = PyObject_CallOneArg(function, argument);
        return result != NULL ? result : clockworker_take_exception();
    }

    /* What is awaited, and proceeds by a function that returns either itself, to be waited for, or the result. From there the
       result goes to who awaits it without a StopIteration (CPython 3.11), or in one without a traceback, which takes some 3,000
       instructions to make and to free. A module has one such type. */
    typedef PyObject *(*clockworker_proceed_function)(PyObject *);

    static clockworker_proceed_function clockworker_proceed;

    static inline PyObject *clockworker_next(PyObject *self) {
        PyObject *result = clockworker_proceed(self);
        if (result == NULL || result == self) return result;
        if (PyTuple_Check(result) || PyExceptionInstance_Check(result)) {  /* which would be taken for its arguments, or for it */
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        } else if (result != Py_None) PyErr_SetObject(PyExc_StopIteration, result);
        Py_DECREF(result);
        return NULL;
    }

    static inline PySendResult clockworker_send(PyObject *self, PyObject *argument, PyObject **result) {
        *result = clockworker_proceed(self);
        return *result == NULL ? PYGEN_ERROR : *result == self ? PYGEN_NEXT : PYGEN_RETURN;
    }

    static inline void clockworker_proceed_by(PyObject *type, clockworker_proceed_function function) {
        clockworker_proceed = function;
        ((PyTypeObject *)type)->tp_iternext = clockworker_next;
        ((PyTypeObject *)type)->tp_as_async->am_send = clockworker_send;
        PyType_Modified((PyTypeObject *)type);
    }

    static inline long long clockworker_context_int(PyObject *variable) {
        PyObject *value;
        if (PyContextVar_Get(variable, NULL, &value) < 0) return -1;
        long long number = PyLong_AsLongLong(value);
        Py_DECREF(value);
        return number;
    }

    /* Cython gives a field of a compiled type no docstring. text: for ever. */
    static inline void clockworker_document(PyObject *descriptor, PyObject *text) {
        if (Py_IS_TYPE(descriptor, &PyGetSetDescr_Type)) {
            Py_INCREF(text);
            ((PyGetSetDescrObject *)descriptor)->d_getset->doc = PyBytes_AS_STRING(text);
        }
    }

    static inline int clockworker_in_empty_context(void) {
        PyObject *context = PyThreadState_Get()->context;
        return context == NULL || PyObject_Size(context) == 0;
    }
    """
    ctypedef object (*method "clockworker_method")(object, PyObject **, Py_ssize_t, PyObject *)
    object new_call_soon "clockworker_new_call_soon"(method function, object self)
    ctypedef object (*pump_function "PyCFunction")(object, PyObject *)
    object new_pump "clockworker_new_pump"(pump_function function, object self)
    object call_in_context "clockworker_call_in_context"(
        object call_soon, object callback, object context, tuple keywords
    )
    bint takes_one_argument "clockworker_takes_one_argument"(object callback) noexcept
    c_function method_without_arguments "clockworker_method_without_arguments"(object descriptor)
    int is_true "clockworker_is_true"(c_function function, object self) except -1
    ctypedef void *getter
    getter getter_of "clockworker_getter"(object descriptor)
    int is_none "clockworker_is_none"(getter get, object self) except -1
    object call_without_arguments "clockworker_call_without_arguments"(c_function function, object self)
    void *context_value "clockworker_context_value"(object variable)
    ctypedef object (*proceed_function "clockworker_proceed_function")(object)
    void proceed_by "clockworker_proceed_by"(object type, proceed_function function)
    long long context_int "clockworker_context_int"(object variable) except? -1  # of a variable with a default
    void document "clockworker_document"(object descriptor, bytes text)
    bint in_empty_context "clockworker_in_empty_context"()
    object run_in_context "clockworker_run"(object callback, object argument, object context)
    object copy_or_error "clockworker_copy"(object context)
    object call_or_error "clockworker_call_or_error"(object function, object argument)
    bint is_context "PyContext_CheckExact"(object thing)
    int __builtin_clzll(unsigned long long value) noexcept
    int __builtin_ctzll(unsigned long long value) noexcept


cdef struct step_layout:
    # How CPython's TaskStepMethWrapper begins, and our own PlainStep. What the seam takes is one or the other.
    PyObject head
    PyObject *task


cdef inline PyObject *step_task(object step):
    return (<step_layout *>step).task


cdef inline bint step_holds(object step, object task):
    return (<step_layout *>step).task == <PyObject *>task


cdef inline size_t address_of(object thing) noexcept:
    """Only to be compared."""
    return <size_t><PyObject *>thing


cdef inline int bit_length(unsigned long long value) noexcept:
    return 64 - __builtin_clzll(value) if value else 0


cdef struct Place:
    # Of a KeyHeap's (_heap_cy).
    long long key
    long long tie
    Py_ssize_t slot

ctypedef Place *Places
