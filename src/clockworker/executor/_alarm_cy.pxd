cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #if defined(__linux__)
    #ifndef sigev_notify_thread_id
    #define sigev_notify_thread_id _sigev_un._tid
    #endif
    #else  /* never called: there are no preemptive queues */
    typedef int timer_t;
    #define timer_settime(timer, flags, when, before) 0
    #endif

    /* What the signal's handler shares with the thread that it interrupts, which is the main one. */
    typedef struct {
        volatile int64_t due_ns;  /* when the slice that runs is to be cut; 0: none runs, and alarms are stale */
        volatile int64_t looks_ns;  /* when the handler looks whether somebody wants the core, before that; NEVER: not at all */
        volatile int64_t rings_ns;  /* when the timer does; 0: it is not set */
        volatile int64_t rung;  /* how often the interpreter was interrupted */
        volatile int64_t stale;  /* alarms that came when nothing was due */
        volatile int64_t looked;  /* and those that found nobody */
        volatile int wanted;  /* the loop was, when the slice's time was up or a look came */
        int64_t every_ns;  /* from one look to the next */
        const int *behind;  /* whether callbacks of the loop wait for the turn to end */
        int backend;  /* what the loop asks for events, a descriptor that can be polled; -1: not known */
        int exists;
        int number;  /* of the signal */
        pid_t thread;
        timer_t timer;
        int read_end;  /* of the pipe that is in the place of the loop's wake-up descriptor */
        int loops;  /* that one; -1: none was there */
    } clockworker_alarm;

    #define CLOCKWORKER_NEVER ((int64_t)1 << 62)
    #define CLOCKWORKER_ALMOST 5000  /* ns: not worth another alarm */

    static clockworker_alarm *clockworker_the_alarm;

    static inline int64_t clockworker_alarm_now(void) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
    }

    static inline void clockworker_alarm_set(clockworker_alarm *alarm, int64_t at) {
        if (!alarm->exists) return;
        struct itimerspec when = {{0, 0}, {at / 1000000000, at % 1000000000}};
        alarm->rings_ns = at;  /* first: it may ring at once */
        timer_settime(alarm->timer, TIMER_ABSTIME, &when, NULL);
    }

    static inline int64_t clockworker_alarm_next(const clockworker_alarm *alarm) {
        return alarm->looks_ns < alarm->due_ns ? alarm->looks_ns : alarm->due_ns;
    }

    /* A slice begins, which is to be cut at `due`. The timer is left alone if it rings before anything is to be done: its handler
       sets it anew. One that should have rung before now is not trusted to come. */
    static inline void clockworker_alarm_slice(clockworker_alarm *alarm, int64_t now, int64_t due, int64_t looks) {
        alarm->wanted = 0;
        alarm->looks_ns = looks;
        alarm->due_ns = due;
        int64_t next = clockworker_alarm_next(alarm), rings = alarm->rings_ns;
        if (rings == 0 || rings > next || rings < now) clockworker_alarm_set(alarm, next);
    }

    /* The slice is to be cut at `due` if it was not to be before. */
    static inline void clockworker_alarm_sooner(clockworker_alarm *alarm, int64_t due) {
        if (due >= alarm->due_ns) return;  /* none runs: 0 */
        alarm->due_ns = due;
        int64_t rings = alarm->rings_ns;
        if (rings == 0 || rings > due) clockworker_alarm_set(alarm, due);
    }

    /* The slice is to be cut at `due`, and nobody looks before. */
    static inline void clockworker_alarm_due(clockworker_alarm *alarm, int64_t due) {
        alarm->looks_ns = CLOCKWORKER_NEVER;
        alarm->due_ns = due;
        int64_t rings = alarm->rings_ns;
        if (rings == 0 || rings > due) clockworker_alarm_set(alarm, due);
    }

    /* The interpreter was interrupted too early: by an alarm of the slice before. */
    static inline void clockworker_alarm_again(clockworker_alarm *alarm) {
        int64_t next = clockworker_alarm_next(alarm);
        if (alarm->rings_ns == 0 && next < CLOCKWORKER_NEVER) clockworker_alarm_set(alarm, next);
    }

    /* Have a cut looked for a few instructions on. In the main thread. */
    static inline void clockworker_alarm_now_due(clockworker_alarm *alarm) {
        alarm->due_ns = 1;
        alarm->rung++;
        PyErr_SetInterruptEx(alarm->number);
    }

    /* What signals have written: our own is dropped, others are the loop's. */
    static inline void clockworker_alarm_drain(clockworker_alarm *alarm) {
        unsigned char numbers[64];
        ssize_t count;
        while (alarm->loops >= 0 && (count = read(alarm->read_end, numbers, sizeof numbers)) > 0) {
            for (ssize_t i = 0; i < count; i++) {
                if (numbers[i] != alarm->number && write(alarm->loops, &numbers[i], 1) < 0) break;  /* full: it wakes up */
            }
            if (count < (ssize_t)sizeof numbers) break;
        }
    }

    /* Whether the loop has something to do. What it asks may be asked in a signal's handler. */
    static inline int clockworker_alarm_wanted(clockworker_alarm *alarm) {
        if (alarm->behind != NULL && *alarm->behind) return 1;
        struct pollfd backend = {alarm->backend, POLLIN, 0};  /* a negative one is passed over */
        return poll(&backend, 1, 0) > 0 && backend.revents & POLLIN;
    }

    static inline void clockworker_alarm_rings(int number) {
        clockworker_alarm *alarm = clockworker_the_alarm;
        if (alarm == NULL || !alarm->exists || (pid_t)syscall(SYS_gettid) != alarm->thread) return;
        int error = errno;
        alarm->rings_ns = 0;
        if (alarm->due_ns == 0) alarm->stale++;
        else {
            int64_t now = clockworker_alarm_now(), almost = now + CLOCKWORKER_ALMOST;
            int due = alarm->due_ns <= almost, look = alarm->looks_ns <= almost;
            if (due || look) alarm->wanted = clockworker_alarm_wanted(alarm);
            else alarm->stale++;
            if (due || (look && alarm->wanted)) {
                if (now < alarm->due_ns) alarm->due_ns = now;  /* or who is interrupted would take it for an early one */
                alarm->rung++;
                PyErr_SetInterruptEx(number);
            } else {
                if (look) {
                    alarm->looked++;
                    alarm->looks_ns = now + alarm->every_ns;
                }
                clockworker_alarm_set(alarm, clockworker_alarm_next(alarm));
            }
        }
        errno = error;
    }

    /* In the main thread, in which Python has a handler for the signal already. 0, or errno. */
    static inline int clockworker_alarm_begin(clockworker_alarm *alarm, int number) {
        struct sigevent event;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = number;
        alarm->thread = event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
        if (timer_create(CLOCK_MONOTONIC, &event, &alarm->timer) < 0) return errno;
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = clockworker_alarm_rings;
        action.sa_flags = SA_RESTART | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        alarm->number = number;
        alarm->due_ns = alarm->rings_ns = 0;
        alarm->looks_ns = CLOCKWORKER_NEVER;
        alarm->backend = -1;
        alarm->behind = NULL;
        alarm->exists = 1;
        clockworker_the_alarm = alarm;
        sigaction(number, &action, NULL);  /* which cannot fail, Python having done the same */
        return 0;
    }

    /* forked: by another process, which has the timer. To ignore a signal forgets one that is on its way. */
    static inline void clockworker_alarm_end(clockworker_alarm *alarm, int forked) {
        if (!alarm->exists) return;
        alarm->exists = 0;
        alarm->due_ns = alarm->rings_ns = 0;
        if (!forked) timer_delete(alarm->timer);
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_IGN;
        sigaction(alarm->number, &action, NULL);
    }
    """
    ctypedef struct Alarm "clockworker_alarm":
        long long due_ns
        long long looks_ns
        long long rings_ns
        long long rung
        long long stale
        long long looked
        bint wanted
        long long every_ns
        const bint *behind
        int backend
        bint exists
        int read_end
        int loops
    long long NEVER_NS "CLOCKWORKER_NEVER"
    long long alarm_now "clockworker_alarm_now"() noexcept
    void alarm_slice "clockworker_alarm_slice"(Alarm *alarm, long long now, long long due, long long looks) noexcept
    void alarm_sooner "clockworker_alarm_sooner"(Alarm *alarm, long long due) noexcept
    void alarm_due "clockworker_alarm_due"(Alarm *alarm, long long due) noexcept
    void alarm_again "clockworker_alarm_again"(Alarm *alarm) noexcept
    void alarm_now_due "clockworker_alarm_now_due"(Alarm *alarm) noexcept
    void alarm_drain "clockworker_alarm_drain"(Alarm *alarm) noexcept
    int alarm_begin "clockworker_alarm_begin"(Alarm *alarm, int number) noexcept
    void alarm_end "clockworker_alarm_end"(Alarm *alarm, bint forked) noexcept

cdef Alarm alarm
