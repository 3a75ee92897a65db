# greenlet's functions, by the capsule that it has for C. Nothing of it is needed to compile, and nothing is imported before
# `import_greenlet`. Of _fiber_cy alone.

cdef extern from *:
    """
    /* greenlet's functions, at the places where its greenlet.h has them. */
    #define CLOCKWORKER_GREENLET_NEW 3
    #define CLOCKWORKER_GREENLET_CURRENT 4
    #define CLOCKWORKER_GREENLET_SWITCH 6
    typedef PyObject *(*clockworker_greenlet_new)(PyObject *, PyObject *);
    typedef PyObject *(*clockworker_greenlet_current)(void);
    typedef PyObject *(*clockworker_greenlet_switch)(PyObject *, PyObject *, PyObject *);

    static void **clockworker_greenlet;

    static inline int clockworker_import_greenlet(void) {
        if (clockworker_greenlet == NULL) clockworker_greenlet = (void **)PyCapsule_Import("greenlet._C_API", 0);
        return clockworker_greenlet == NULL ? -1 : 0;
    }

    static inline PyObject *clockworker_new_greenlet(PyObject *run) {
        return ((clockworker_greenlet_new)clockworker_greenlet[CLOCKWORKER_GREENLET_NEW])(run, NULL);
    }

    static inline PyObject *clockworker_current_greenlet(void) {
        return ((clockworker_greenlet_current)clockworker_greenlet[CLOCKWORKER_GREENLET_CURRENT])();
    }

    static inline PyObject *clockworker_switch(PyObject *greenlet) {
        return ((clockworker_greenlet_switch)clockworker_greenlet[CLOCKWORKER_GREENLET_SWITCH])(greenlet, NULL, NULL);
    }

    /* To one that has not begun: it begins so far down. greenlets have one stack, from which they are copied away if another needs
       their place. The loop's frames are never in the way of a fiber that begins below them all, and stay where they are: libuv keeps
       pointers into its own. */
    #define CLOCKWORKER_DEPTH 65536
    static PyObject *__attribute__((noinline)) clockworker_switch_deep(PyObject *greenlet) {
        volatile char room[CLOCKWORKER_DEPTH];
        room[0] = 0;
        PyObject *result = clockworker_switch(greenlet);
        room[0] = 1;
        return result;
    }
    """
    int import_greenlet "clockworker_import_greenlet"() except -1
    object new_greenlet "clockworker_new_greenlet"(object run)
    object current_greenlet "clockworker_current_greenlet"()
    object switch_to "clockworker_switch"(object greenlet)
    object switch_deep "clockworker_switch_deep"(object greenlet)
