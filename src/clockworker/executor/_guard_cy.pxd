cimport cython

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030C0000
    #define CLOCKWORKER_CODE_INDEX PyUnstable_Eval_RequestCodeExtraIndex
    #define CLOCKWORKER_CODE_GET PyUnstable_Code_GetExtra
    #define CLOCKWORKER_CODE_SET PyUnstable_Code_SetExtra
    #else
    #define CLOCKWORKER_CODE_INDEX _PyEval_RequestCodeExtraIndex
    #define CLOCKWORKER_CODE_GET _PyCode_GetExtra
    #define CLOCKWORKER_CODE_SET _PyCode_SetExtra
    #endif

    /* None at the end. */
    static inline PyObject *clockworker_frame_back(PyObject *frame) {
        PyObject *back = (PyObject *)PyFrame_GetBack((PyFrameObject *)frame);
        return back != NULL ? back : Py_NewRef(Py_None);
    }

    static inline PyObject *clockworker_frame_code(PyObject *frame) {
        return (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
    }

    #define CLOCKWORKER_ASYNC (CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR)
    static inline int clockworker_is_async(PyObject *code) { return ((PyCodeObject *)code)->co_flags & CLOCKWORKER_ASYNC; }

    static inline int clockworker_is_tracing(void) { return PyThreadState_Get()->tracing; }
    """
    Py_ssize_t request_index "CLOCKWORKER_CODE_INDEX"(void *free)
    int get_word "CLOCKWORKER_CODE_GET"(object code, Py_ssize_t index, void **word) except -1
    int set_word "CLOCKWORKER_CODE_SET"(object code, Py_ssize_t index, void *word) except -1
    object frame_back "clockworker_frame_back"(object frame)
    object frame_code "clockworker_frame_code"(object frame)
    bint is_async "clockworker_is_async"(object code) noexcept
    bint is_tracing "clockworker_is_tracing"() noexcept

cdef Py_ssize_t _index
cdef Py_ssize_t _generation
cdef Py_ssize_t _OPEN, _GUARDED, _BOUNDARY


@cython.locals(kept=cython.p_void, word=cython.Py_ssize_t, verdict=cython.Py_ssize_t)
cdef Py_ssize_t _verdict(object frame, object code) except -1
@cython.locals(verdict=cython.Py_ssize_t, innermost=cython.bint)
cdef bint is_guarded(object frame) except -1
