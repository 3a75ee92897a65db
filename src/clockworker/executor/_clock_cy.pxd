from clockworker.executor._native cimport PyThread_get_thread_ident

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include "pythread.h"
    #if defined(__x86_64__)
    #include <x86intrin.h>
    #define CLOCKWORKER_TICKS() ((uint64_t)__rdtsc())
    #else
    #define CLOCKWORKER_TICKS() ((uint64_t)0)
    #endif

    typedef struct {
        uint64_t ticks;    /* at the last real reading */
        int64_t ns;
        uint64_t horizon;  /* ticks for which the rate is trusted; 0: the counter is not used */
        uint64_t rate;     /* nanoseconds a tick, times 2**32 */
        int64_t last;      /* the last answer: the next is no less */
        unsigned long wound_in;  /* the thread whose time is wound by hand; 0: none. The counter is not used meanwhile */
        int64_t wound_ns;  /* that thread's time */
        int64_t pace_ns;   /* how far each reading moves it */
        uint64_t dice;     /* state of the generator that lengthens the pace; 0: none */
        uint64_t kept_horizon;
    } clockworker_clock;

    static int64_t clockworker_read_clock(clockworker_clock *clock) {
        struct timespec time;
        uint64_t before = CLOCKWORKER_TICKS();
        clock_gettime(CLOCK_MONOTONIC, &time);
        clock->ticks = before + (CLOCKWORKER_TICKS() - before) / 2;
        clock->ns = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
        return clock->ns;
    }

    /* horizon: how long the rate is trusted, in nanoseconds */
    static inline void clockworker_clock_set_rate(clockworker_clock *clock, double rate, double horizon) {
        clock->rate = (uint64_t)(rate * 4294967296.0);
        clock->horizon = (uint64_t)(horizon / rate);
    }

    /* 0: the counter has not such a rate as processors have, and is not used */
    static inline int clockworker_clock_begin(clockworker_clock *clock) {
        if (clock->horizon || clock->wound_in) return 1;
        uint64_t ticks = clock->ticks;
        int64_t ns = clock->ns;
        while (clockworker_read_clock(clock) - ns < 100000) {  /* most programs have long taken this time */
        }
        double rate = (double)(clock->ns - ns) / (double)(clock->ticks - ticks);
        if (!(rate > 0.01 && rate < 100)) return 0;
        clockworker_clock_set_rate(clock, rate, 1000000);
        return 1;
    }

    /* A reading of wound time: one pace further, or up to 128 times as far by the dice (xorshift64, Marsaglia 2003). */
    static inline int64_t clockworker_wound_reading(clockworker_clock *clock) {
        int64_t pace = clock->pace_ns;
        if (clock->dice) {
            clock->dice ^= clock->dice << 13;
            clock->dice ^= clock->dice >> 7;
            clock->dice ^= clock->dice << 17;
            pace <<= clock->dice >> 61;
        }
        return clock->wound_ns += pace;
    }

    static int64_t __attribute__((noinline)) clockworker_slow_reading(clockworker_clock *clock) {
        if (clock->wound_in && clock->wound_in == PyThread_get_thread_ident()) return clockworker_wound_reading(clock);
        int64_t ns = clockworker_read_clock(clock);
        if (ns > clock->last) clock->last = ns;
        return clock->last;
    }

    static inline int64_t clockworker_clock_ns(clockworker_clock *clock) {
        uint64_t ticks = CLOCKWORKER_TICKS() - clock->ticks;
        if (ticks >= clock->horizon) return clockworker_slow_reading(clock);
        int64_t ns = clock->ns + (int64_t)(ticks * clock->rate >> 32);
        if (ns > clock->last) clock->last = ns;
        return clock->last;
    }

    static inline void clockworker_begin_winding(clockworker_clock *clock, int64_t pace, uint64_t dice) {
        clock->wound_ns = clockworker_clock_ns(clock);
        clock->pace_ns = pace;
        clock->dice = dice;
        clock->kept_horizon = clock->horizon;
        clock->horizon = 0;
    }

    static inline void clockworker_end_winding(clockworker_clock *clock) {
        clock->wound_in = 0;
        clock->horizon = clock->kept_horizon;
        clockworker_read_clock(clock);
    }
    """
    ctypedef struct Clock "clockworker_clock":
        unsigned long wound_in
        long long wound_ns
    long long read_clock "clockworker_read_clock"(Clock *clock) noexcept
    bint clock_begin "clockworker_clock_begin"(Clock *clock) noexcept
    void clock_set_rate "clockworker_clock_set_rate"(Clock *clock, double rate, double horizon) noexcept
    long long clock_ns "clockworker_clock_ns"(Clock *clock) noexcept
    void clock_begin_winding "clockworker_begin_winding"(Clock *clock, long long pace, unsigned long long dice) noexcept
    void clock_end_winding "clockworker_end_winding"(Clock *clock) noexcept

cdef Clock clock


cdef inline long long now_ns() noexcept:
    return clock_ns(&clock)


cdef inline bint is_wound() noexcept:
    return clock.wound_in != 0 and clock.wound_in == PyThread_get_thread_ident()
