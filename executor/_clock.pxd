# The clock that times steps: CLOCK_MONOTONIC in nanoseconds, read for half its price.
#
# Each step is timed, so the clock is a good part of what a step costs. Where Linux itself keeps time by the processor's time
# stamp counter, having found that it runs at one rate and alike on all cores, that counter is read instead: 9 ns for the 20 of
# clock_gettime. It tells how far we are from the last real reading, and only up to a millisecond: longer steps are measured
# by two real readings, so neither a machine that slept nor a counter that was set back is ever charged to a queue. Over that
# distance a rate that is good to a thousandth, as measured between the import of this module and `clock_begin`, is plenty.
# Elsewhere every reading is a real one.
#
# The state is static: each module that cimports this has a clock of its own, and one does.

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <time.h>
    #if defined(__x86_64__)
    #include <x86intrin.h>
    #define CLOCKWORKER_TICKS() ((uint64_t)__rdtsc())
    #else
    #define CLOCKWORKER_TICKS() ((uint64_t)0)
    #endif

    static struct { uint64_t ticks; int64_t ns; } clockworker_read_last;
    static uint64_t clockworker_horizon;  /* ticks for which the rate is trusted; 0: the counter is not used */
    static uint64_t clockworker_rate;     /* nanoseconds a tick, times 2**32 */

    static int64_t clockworker_read_clock(void) {
        struct timespec time;
        uint64_t before = CLOCKWORKER_TICKS();
        clock_gettime(CLOCK_MONOTONIC, &time);
        clockworker_read_last.ticks = before + (CLOCKWORKER_TICKS() - before) / 2;
        clockworker_read_last.ns = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
        return clockworker_read_last.ns;
    }

    static int clockworker_counter_is_time(void) {
    #if defined(__x86_64__)
        char name[8] = "";
        FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
        if (file == NULL) return 0;
        size_t length = fread(name, 1, sizeof name, file);
        fclose(file);
        return length == 4 && memcmp(name, "tsc\\n", 4) == 0;
    #else
        return 0;
    #endif
    }

    static void clockworker_clock_begin(void) {
        if (clockworker_horizon || !clockworker_counter_is_time()) return;
        uint64_t ticks = clockworker_read_last.ticks;
        int64_t ns = clockworker_read_last.ns;
        while (clockworker_read_clock() - ns < 100000) {  /* most programs have long taken this time */
        }
        double rate = (double)(clockworker_read_last.ns - ns) / (double)(clockworker_read_last.ticks - ticks);
        if (!(rate > 0.01 && rate < 100)) return;
        clockworker_rate = (uint64_t)(rate * 4294967296.0);
        clockworker_horizon = (uint64_t)(1000000 / rate);
    }

    static inline int64_t clockworker_now_ns(void) {
        uint64_t ticks = CLOCKWORKER_TICKS() - clockworker_read_last.ticks;
        if (ticks < clockworker_horizon)
            return clockworker_read_last.ns + (int64_t)(ticks * clockworker_rate >> 32);
        return clockworker_read_clock();
    }
    """
    long long read_clock "clockworker_read_clock"() noexcept
    void clock_begin "clockworker_clock_begin"() noexcept
    long long now_ns "clockworker_now_ns"() noexcept
