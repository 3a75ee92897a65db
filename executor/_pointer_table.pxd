# A hash table from pointers to pointers, for compiled modules: open addressing with linear probing, Fibonacci hashing,
# deletion by moving up what follows (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm R).
# It owns no references. A free slot has no key; at most two thirds are in use.

from libc.stdlib cimport calloc, free


cdef struct Slot:
    void *key
    void *value


cdef struct PointerTable:
    Slot *slots
    size_t mask  # the number of slots, a power of two, less one
    int shift  # takes the upper bits of a hash, as many as `mask` has
    size_t count


cdef inline int table_open(PointerTable *table, int bits) except -1:
    table.slots = <Slot *>calloc(<size_t>1 << bits, sizeof(Slot))
    if table.slots == NULL:
        raise MemoryError()
    table.mask = (<size_t>1 << bits) - 1
    table.shift = 64 - bits
    table.count = 0
    return 0


cdef inline void table_close(PointerTable *table) noexcept:
    free(table.slots)
    table.slots = NULL


cdef inline size_t table_home(PointerTable *table, void *key) noexcept:
    return (<size_t>key * <size_t>0x9E3779B97F4A7C15) >> table.shift


cdef inline void *table_get(PointerTable *table, void *key) noexcept:
    """NULL if the key is not there."""
    cdef size_t at = table_home(table, key)
    while table.slots[at].key != NULL:
        if table.slots[at].key == key:
            return table.slots[at].value
        at = (at + 1) & table.mask
    return NULL


cdef inline int table_put(PointerTable *table, void *key, void *value) except -1:
    """The key must not be there."""
    cdef size_t at
    if 3 * table.count > 2 * table.mask:
        table_resize(table, 65 - table.shift)
    at = table_home(table, key)
    while table.slots[at].key != NULL:
        at = (at + 1) & table.mask
    table.slots[at].key = key
    table.slots[at].value = value
    table.count += 1
    return 0


cdef inline bint table_remove(PointerTable *table, void *key) except -1:
    """False if the key is not there."""
    cdef size_t at, hole = table_home(table, key)
    while table.slots[hole].key != key:
        if table.slots[hole].key == NULL:
            return False
        hole = (hole + 1) & table.mask
    at = (hole + 1) & table.mask
    while table.slots[at].key != NULL:
        if ((at - table_home(table, table.slots[at].key)) & table.mask) >= ((at - hole) & table.mask):
            table.slots[hole] = table.slots[at]
            hole = at
        at = (at + 1) & table.mask
    table.slots[hole].key = NULL
    table.count -= 1
    if table.mask > 1023 and 8 * table.count < table.mask:
        table_resize(table, 63 - table.shift)
    return True


cdef inline int table_resize(PointerTable *table, int bits) except -1:
    cdef PointerTable new
    cdef size_t at
    table_open(&new, bits)
    for at in range(table.mask + 1):
        if table.slots[at].key != NULL:
            table_put(&new, table.slots[at].key, table.slots[at].value)
    table_close(table)
    table[0] = new
    return 0
