# Looking ahead in a long queue: what the next steps will touch is fetched into the cache while others run.
#
# The order of a RunnableFifo is a known future. A step touches some twenty cache lines of its own: the task's state, the Task,
# its context, the frames of its coroutines. With a hundred thousand tasks in two queues none of them is in a cache when its turn
# comes, and a yield takes 510 ns instead of 290; like this, 375. So each pop asks for what lies some places ahead, in stages, since the
# address of one thing is in another: the state first, a few pops later what the state points to, and so on.
#
# The stages read only what is certain to be alive, for the queue holds the state, the state its task, a suspended coroutine what
# it waits for, and so on, and go anew from the state each time. Nothing here has any effect but on time.
#
# A queue that fits into the cache would only pay for it (3-5 % of a yield), so a queue is only looked into while it is long.
# Where CPython's objects keep what is looked for is found by asking some (`learn_task`, `learn_coroutine`). What is not found is not fetched.
#
# Rejected: fetching whatever else the frames' locals and stacks hold. It cost 20 ns a yield, and wake-ups became no faster.

from cpython.object cimport PyObject
from clockworker.executor._schedulers_cy cimport RunnableFifo
from clockworker.executor._tasks_cy cimport JoinHandle, Waiter

cdef enum:
    LONG = 2048  # from how many runnable tasks on: with all they touch, they no longer fit into a common L2 cache of 1-2 MiB


cdef extern from *:
    """
    #define CLOCKWORKER_LINE 64
    #define CLOCKWORKER_HEAD 16  /* the collector's, before an object; written when the object is freed */

    static Py_ssize_t clockworker_coroutine_at;  /* in a Task; 0: unknown */
    static Py_ssize_t clockworker_depth_at;      /* in a coroutine: the int that counts locals and what is on the stack */
    static Py_ssize_t clockworker_locals_at;     /* in a coroutine: both, the stack after the locals */

    /* The empty asm is no instruction. Without it GCC takes a function that only prefetches for one without any effect. */
    static inline __attribute__((always_inline)) void clockworker_fetch(const void *object, int lines) {
        for (int line = 0; line < lines; line++) {
            __builtin_prefetch((const char *)object + CLOCKWORKER_LINE * line);
            __asm__ volatile("");
        }
    }

    static inline void *clockworker_coroutine(void *task) {
        return clockworker_coroutine_at ? *(void **)((char *)task + clockworker_coroutine_at) : NULL;
    }

    /* Of any other than a suspended coroutine the stack may hold what is gone. From CPython 3.14 on this is not public. */
    static inline int clockworker_is_suspended(void *coroutine) {
    #if PY_VERSION_HEX < 0x030E0000
        return (Py_TYPE(coroutine) == &PyCoro_Type || Py_TYPE(coroutine) == &PyGen_Type)
            && ((PyGenObject *)coroutine)->gi_frame_state == -1;  /* in CPython 3.13: by `yield from` or `await` */
    #else
        return 0;
    #endif
    }

    /* What a suspended coroutine waits for: the top of its stack. */
    static inline void *clockworker_awaited(void *coroutine) {
        if (coroutine == NULL || !clockworker_depth_at || !clockworker_is_suspended(coroutine)) return NULL;
        int depth = *(int *)((char *)coroutine + clockworker_depth_at);
        return depth > 0 ? ((void **)((char *)coroutine + clockworker_locals_at))[depth - 1] : NULL;
    }

    static inline int clockworker_is_a(void *object, PyObject *type) {
        return Py_TYPE(object) == (PyTypeObject *)type;
    }

    static inline Py_ssize_t clockworker_find(PyObject *object, Py_ssize_t size, PyObject *pointer) {
        for (Py_ssize_t at = sizeof(PyObject); at + (Py_ssize_t)sizeof(void *) <= size; at += sizeof(void *))
            if (*(PyObject **)((char *)object + at) == pointer) return at;
        return 0;
    }

    /* Two suspended coroutines with different numbers of locals, and what each waits for. */
    static inline Py_ssize_t clockworker_learn_coroutine(
        PyObject *one, Py_ssize_t one_size, PyObject *one_awaits, PyObject *other, Py_ssize_t other_size, PyObject *other_awaits
    ) {
        Py_ssize_t one_top = clockworker_find(one, one_size, one_awaits);
        Py_ssize_t other_top = clockworker_find(other, other_size, other_awaits);
        if (!one_top || !other_top) return 0;
        for (Py_ssize_t at = sizeof(PyObject); at < one_top; at += sizeof(int)) {
            Py_ssize_t one_depth = *(int *)((char *)one + at), other_depth = *(int *)((char *)other + at);
            Py_ssize_t locals = one_top - (one_depth - 1) * (Py_ssize_t)sizeof(void *);
            /* The locals follow the count, with some bytes between. */
            if (one_depth > 0 && one_depth != other_depth && locals > at && locals <= at + 16
                && other_top == locals + (other_depth - 1) * (Py_ssize_t)sizeof(void *)) {
                clockworker_depth_at = at;
                return clockworker_locals_at = locals;
            }
        }
        return 0;
    }

    static inline Py_ssize_t clockworker_learn_task(PyObject *task, PyObject *coroutine) {
        return clockworker_coroutine_at = clockworker_find(task, Py_TYPE(task)->tp_basicsize, coroutine);
    }
    """
    void fetch "clockworker_fetch"(void *object, int lines) noexcept
    void *coroutine_of "clockworker_coroutine"(void *task) noexcept
    void *awaited "clockworker_awaited"(void *coroutine) noexcept
    enum: HEAD "CLOCKWORKER_HEAD"
    Py_ssize_t learn_task "clockworker_learn_task"(object task, object coroutine) noexcept
    Py_ssize_t learn_coroutine "clockworker_learn_coroutine"(
        object one, Py_ssize_t one_size, object one_awaits, object other, Py_ssize_t other_size, object other_awaits
    ) noexcept
    bint is_a "clockworker_is_a"(void *object, object type) noexcept


cdef inline void look_ahead(RunnableFifo fifo) noexcept:
    """Before a pop of a queue with at least LONG tasks."""
    cdef int stage
    cdef void *task
    cdef void *waits_for
    cdef void *waiter
    if fifo._ahead[0] == NULL:
        _begin(fifo)
    else:
        for stage in range(7):
            fifo._ahead[stage] = <void *>(<JoinHandle>fifo._ahead[stage]).next
    fetch(fifo._ahead[0], 3)

    fetch(<void *>(<JoinHandle>fifo._ahead[1]).task, 3)
    fetch(<void *>(<JoinHandle>fifo._ahead[1]).callback, 1)
    if (<JoinHandle>fifo._ahead[1]).argument is not None:
        fetch(<char *><void *>(<JoinHandle>fifo._ahead[1]).argument - HEAD, 3)
    fetch(<void *>(<JoinHandle>fifo._ahead[1]).context, 1)

    fetch(coroutine_of(<void *>(<JoinHandle>fifo._ahead[2]).task), 4)
    waiter = <void *>(<JoinHandle>fifo._ahead[2]).first_waiter
    if waiter != <void *>None:
        fetch(waiter, 2)  # should the task end, it will be woken

    fetch(awaited(coroutine_of(<void *>(<JoinHandle>fifo._ahead[3]).task)), 4)
    waiter = <void *>(<JoinHandle>fifo._ahead[3]).first_waiter
    if waiter != <void *>None:
        fetch(<void *>(<Waiter>waiter).callback, 1)

    waits_for = awaited(coroutine_of(<void *>(<JoinHandle>fifo._ahead[4]).task))
    if waits_for != NULL:
        if is_a(waits_for, Waiter):
            # It has waited for a task, of which it may hold the last handle.
            fetch(<void *>(<Waiter>waits_for).handle, 3)
        else:
            fetch(awaited(waits_for), 4)

    waits_for = awaited(coroutine_of(<void *>(<JoinHandle>fifo._ahead[5]).task))
    if waits_for != NULL and is_a(waits_for, Waiter):
        fetch(<void *>(<Waiter>waits_for).handle.task, 3)
        fetch(<void *>(<Waiter>waits_for).handle.callback, 1)

    waits_for = awaited(coroutine_of(<void *>(<JoinHandle>fifo._ahead[6]).task))
    if waits_for != NULL and is_a(waits_for, Waiter):
        fetch(coroutine_of(<void *>(<Waiter>waits_for).handle.task), 4)


cdef inline void _begin(RunnableFifo fifo) noexcept:
    cdef void *state = <void *>fifo._first
    cdef int stage
    for stage in range(6, -1, -1):
        state = <void *>(<JoinHandle>state).next
        state = <void *>(<JoinHandle>state).next
        fifo._ahead[stage] = state
