# Atomic access to 64-bit words of shared memory.
#
# x86-64 orders everything but a store before a later load, so acquire and release are plain moves and only the fence is an
# instruction (mfence, or a locked one). aarch64 needs ldar/stlr for acquire and release and dmb ish for the fence; the
# compiler emits them from the same builtins. What each use relies on is argued where it is used: _ring_cy, _doorbell_cy.
# `cw_order` is for words that Python moves through a memoryview (`_memory_cy.order`): no instruction on x86-64, dmb ish there.

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t cw_load_acquire(const void *word) {
        return __atomic_load_n((const uint64_t *)word, __ATOMIC_ACQUIRE);
    }
    static inline void cw_store_release(void *word, uint64_t value) {
        __atomic_store_n((uint64_t *)word, value, __ATOMIC_RELEASE);
    }
    static inline void cw_full_fence(void) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    static inline void cw_order(void) {
        __atomic_thread_fence(__ATOMIC_ACQ_REL);
    }
    /* Between two looks at a word that another core is about to store. */
    static inline void cw_pause(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    """
    uint64_t cw_load_acquire(const void *word) noexcept nogil
    void cw_store_release(void *word, uint64_t value) noexcept nogil
    void cw_full_fence() noexcept nogil
    void cw_order() noexcept nogil
    void cw_pause() noexcept nogil
