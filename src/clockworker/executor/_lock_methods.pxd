# The methods of `_thread.lock` and `_thread.RLock`, wrapped. Of _locks_cy alone: what is here has state.

from clockworker.executor._alarm_cy cimport Alarm
from clockworker.executor._locks_cy cimport Held

cdef extern from *:
    """
    typedef struct {
        const char *name;
        int reentrant;  /* of an RLock */
        PyMethodDef *method;
        PyCFunction own;  /* what it was */
    } clockworker_lock_method;

    static clockworker_held *clockworker_the_held;
    static PyTypeObject *clockworker_lock_types[2];  /* lock, RLock */
    static PyCFunction clockworker_lock_asks[2];  /* lock.locked, RLock._is_owned */

    static inline int clockworker_is_held(PyObject *lock) {
        PyCFunction ask = clockworker_lock_asks[PyObject_TypeCheck(lock, clockworker_lock_types[1])];
        PyObject *answer = ask(lock, NULL);
        int held = answer == Py_True;
        if (answer == NULL) PyErr_Clear();
        Py_XDECREF(answer);
        return held;
    }

    static inline PyObject *clockworker_lock_taken(PyObject *lock, PyObject *result) {
        clockworker_held *held = clockworker_the_held;
        if (result == NULL || result == Py_False || PyThread_get_thread_ident() != held->thread) return result;
        for (Py_ssize_t i = held->count; i--;) if (held->locks[i] == lock) return result;
        if (held->count == held->room) {
            Py_ssize_t room = held->room ? 2 * held->room : 16;
            PyObject **locks = PyMem_Realloc(held->locks, room * sizeof(PyObject *));
            if (locks == NULL) {
                held->failed = 1;
                return result;
            }
            held->locks = locks;
            held->room = room;
        }
        held->locks[held->count++] = Py_NewRef(lock);
        return result;
    }

    static inline void clockworker_forget_held(clockworker_held *held, Py_ssize_t i) {
        PyObject *lock = held->locks[i];
        held->locks[i] = held->locks[--held->count];
        Py_DECREF(lock);
    }

    /* By whichever thread: a lock need not be released by who has taken it. */
    static inline PyObject *clockworker_lock_released(PyObject *lock, PyObject *result) {
        clockworker_held *held = clockworker_the_held;
        if (result == NULL) return result;
        for (Py_ssize_t i = held->count; i--;) {
            if (held->locks[i] == lock) {
                if (PyObject_TypeCheck(lock, clockworker_lock_types[1]) && clockworker_is_held(lock)) return result;
                clockworker_forget_held(held, i);
                if (held->wanted && held->count == 0 && PyThread_get_thread_ident() == held->thread) {
                    held->wanted = 0;
                    clockworker_alarm_now_due(held->alarm);
                }
                return result;
            }
        }
        return result;
    }

    /* Whether any is held. Those that nobody else knows, or that are free again, are not: a condition's waiter is left locked. */
    static inline int clockworker_any_held(clockworker_held *held) {
        for (Py_ssize_t i = held->count; i--;) {
            PyObject *lock = held->locks[i];
            if (Py_REFCNT(lock) == 1 || !clockworker_is_held(lock)) clockworker_forget_held(held, i);
        }
        return held->count > 0 || held->failed;
    }

    static inline void clockworker_forget_all_held(clockworker_held *held) {
        held->failed = held->wanted = 0;
        while (held->count) clockworker_forget_held(held, held->count - 1);
    }

    #define CLOCKWORKER_LOCK_METHODS 12
    static clockworker_lock_method clockworker_lock_methods[CLOCKWORKER_LOCK_METHODS];

    /* A function of each convention that the flags of a method may name. Methods are called by what their PyMethodDef says at
       that moment, by specialised instructions and by those that were bound before, too. */
    #define CLOCKWORKER_OWN(type, index) ((type)(void (*)(void))clockworker_lock_methods[index].own)
    #define CLOCKWORKER_LOCK_METHOD(index, then) \
        static PyObject *clockworker_lock_plain_##index(PyObject *self, PyObject *argument) { \
            PyObject *result = clockworker_lock_methods[index].own(self, argument); \
            return clockworker_the_held->tracking ? then(self, result) : result; \
        } \
        static PyObject *clockworker_lock_keywords_##index(PyObject *self, PyObject *arguments, PyObject *keywords) { \
            PyObject *result = CLOCKWORKER_OWN(PyCFunctionWithKeywords, index)(self, arguments, keywords); \
            return clockworker_the_held->tracking ? then(self, result) : result; \
        } \
        static PyObject *clockworker_lock_fast_##index(PyObject *self, PyObject *const *arguments, Py_ssize_t count) { \
            PyObject *result = CLOCKWORKER_OWN(_PyCFunctionFast, index)(self, arguments, count); \
            return clockworker_the_held->tracking ? then(self, result) : result; \
        } \
        static PyObject *clockworker_lock_fast_keywords_##index( \
            PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) { \
            PyObject *result = CLOCKWORKER_OWN(_PyCFunctionFastWithKeywords, index)(self, arguments, count, names); \
            return clockworker_the_held->tracking ? then(self, result) : result; \
        }

    CLOCKWORKER_LOCK_METHOD(0, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(1, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(2, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(3, clockworker_lock_released)
    CLOCKWORKER_LOCK_METHOD(4, clockworker_lock_released)
    CLOCKWORKER_LOCK_METHOD(5, clockworker_lock_released)
    CLOCKWORKER_LOCK_METHOD(6, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(7, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(8, clockworker_lock_taken)
    CLOCKWORKER_LOCK_METHOD(9, clockworker_lock_released)
    CLOCKWORKER_LOCK_METHOD(10, clockworker_lock_released)
    CLOCKWORKER_LOCK_METHOD(11, clockworker_lock_released)

    static clockworker_lock_method clockworker_lock_methods[CLOCKWORKER_LOCK_METHODS] = {
        {"acquire", 0}, {"acquire_lock", 0}, {"__enter__", 0},
        {"release", 0}, {"release_lock", 0}, {"__exit__", 0},
        {"acquire", 1}, {"__enter__", 1}, {"_acquire_restore", 1},
        {"release", 1}, {"__exit__", 1}, {"_release_save", 1},
    };

    #define CLOCKWORKER_12(name) name##_0, name##_1, name##_2, name##_3, name##_4, name##_5, \
        name##_6, name##_7, name##_8, name##_9, name##_10, name##_11
    static void (*const clockworker_ours_plain[])(void) = { CLOCKWORKER_12((void (*)(void))clockworker_lock_plain) };
    static void (*const clockworker_ours_keywords[])(void) = { CLOCKWORKER_12((void (*)(void))clockworker_lock_keywords) };
    static void (*const clockworker_ours_fast[])(void) = { CLOCKWORKER_12((void (*)(void))clockworker_lock_fast) };
    static void (*const clockworker_ours_fast_keywords[])(void) = {
        CLOCKWORKER_12((void (*)(void))clockworker_lock_fast_keywords) };

    /* NULL: of no convention that we know. */
    static inline PyCFunction clockworker_our_lock_method(int index, int flags) {
        switch (flags) {
            case METH_NOARGS: case METH_O: case METH_VARARGS: return (PyCFunction)clockworker_ours_plain[index];
            case METH_VARARGS | METH_KEYWORDS: return (PyCFunction)clockworker_ours_keywords[index];
            case METH_FASTCALL: return (PyCFunction)clockworker_ours_fast[index];
            case METH_FASTCALL | METH_KEYWORDS: return (PyCFunction)clockworker_ours_fast_keywords[index];
        }
        return NULL;
    }

    /* The type's own method, if it is one in C; else NULL. */
    static inline PyMethodDef *clockworker_find_lock_method(PyTypeObject *type, const char *name) {
        PyObject *descriptor = PyDict_GetItemString(type->tp_dict, name);
        if (descriptor == NULL || !Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) return NULL;
        return ((PyMethodDescrObject *)descriptor)->d_method;
    }

    /* What is not as we know it; NULL if all is. */
    static inline const char *clockworker_find_locks(PyObject *lock, PyObject *rlock) {
        if (!PyType_Check(lock) || !PyType_Check(rlock)) return "their types";
        clockworker_lock_types[0] = (PyTypeObject *)lock;
        clockworker_lock_types[1] = (PyTypeObject *)rlock;
        for (int i = 0; i < CLOCKWORKER_LOCK_METHODS; i++) {
            clockworker_lock_method *each = &clockworker_lock_methods[i];
            each->method = clockworker_find_lock_method(clockworker_lock_types[each->reentrant], each->name);
            if (each->method == NULL || clockworker_our_lock_method(i, each->method->ml_flags) == NULL) return each->name;
        }
        static const char *asked[2] = {"locked", "_is_owned"};
        for (int i = 0; i < 2; i++) {
            PyMethodDef *method = clockworker_find_lock_method(clockworker_lock_types[i], asked[i]);
            if (method == NULL || method->ml_flags != METH_NOARGS) return asked[i];
            clockworker_lock_asks[i] = method->ml_meth;
        }
        return NULL;
    }

    static inline void clockworker_wrap_locks(clockworker_held *held, clockworker_alarm *alarm) {
        clockworker_the_held = held;
        held->alarm = alarm;
        held->thread = PyThread_get_thread_ident();
        for (int i = 0; i < CLOCKWORKER_LOCK_METHODS; i++) {
            clockworker_lock_method *each = &clockworker_lock_methods[i];
            PyCFunction ours = clockworker_our_lock_method(i, each->method->ml_flags);
            if (each->method->ml_meth == ours) continue;
            each->own = each->method->ml_meth;
            each->method->ml_meth = ours;
        }
    }

    static inline void clockworker_unwrap_locks(clockworker_held *held) {
        held->tracking = 0;
        clockworker_forget_all_held(held);
        for (int i = 0; i < CLOCKWORKER_LOCK_METHODS; i++) {
            clockworker_lock_method *each = &clockworker_lock_methods[i];
            if (each->own != NULL) each->method->ml_meth = each->own;
        }
    }
    """
    const char *find_locks "clockworker_find_locks"(object lock, object rlock)
    void wrap_locks "clockworker_wrap_locks"(Held *held, Alarm *alarm)
    void unwrap_locks "clockworker_unwrap_locks"(Held *held)
    bint any_held "clockworker_any_held"(Held *held) noexcept
    void forget_all_held "clockworker_forget_all_held"(Held *held) noexcept
