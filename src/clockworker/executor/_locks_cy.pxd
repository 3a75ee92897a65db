from clockworker.executor._alarm_cy cimport Alarm

cdef extern from *:
    """
    #include "pythread.h"

    /* The locks that the slice has taken and not released. Each is kept alive: its address names no other meanwhile. */
    typedef struct {
        int tracking;  /* a slice runs, in this thread: */
        unsigned long thread;
        int wanted;  /* a cut was refused because of a lock: it is made when there is none left */
        int failed;  /* there was no memory to note one: no more cuts in this step */
        Py_ssize_t count;
        Py_ssize_t room;
        PyObject **locks;
        clockworker_alarm *alarm;
    } clockworker_held;
    """
    ctypedef struct Held "clockworker_held":
        bint tracking
        bint wanted
        Py_ssize_t count

cdef Held held


cdef bint is_any_held() noexcept
cdef void forget_all() noexcept
