# A table from addresses of large objects to pointers, for compiled modules. It owns no references.
#
# Objects that were made one after the other are neighbours in memory, and are often used one after the other. So are their
# places here: the entries of one page of memory are one array, in the order of the addresses, and 100,000 tasks that wake up in
# turn go through it as they go through memory, which processors foresee. In a hash table of the addresses themselves each
# look-up was a cache miss of its own, 80 ns.
#
# The arrays are found by hashing, which needs so few slots that they stay in the cache: open addressing with linear probing,
# Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4). An array that has become empty stays where
# it is until many are, for the next object will likely be made where the last one was.

from libc.stdlib cimport calloc, free

cdef enum:
    PAGE_BITS = 14  # the pools of CPython's allocator
    ENTRY_BITS = 7  # two objects are at least so far apart: 128 bytes
    ENTRIES = 1 << (PAGE_BITS - ENTRY_BITS)


cdef struct Page:
    size_t number  # the upper bits of its addresses
    size_t count  # entries in use
    void *entries[ENTRIES]


cdef struct PageTable:
    Page **slots  # a free one is NULL; at most two thirds are in use
    size_t mask  # the number of slots, a power of two, less one
    int shift  # takes the upper bits of a hash, as many as `mask` has
    size_t pages
    size_t empty  # of the pages
    Page *last  # looked up last


cdef inline int table_open(PageTable *table, int bits) except -1:
    table.slots = <Page **>calloc(<size_t>1 << bits, sizeof(Page *))
    if table.slots == NULL:
        raise MemoryError()
    table.mask = (<size_t>1 << bits) - 1
    table.shift = 64 - bits
    table.pages = 0
    table.empty = 0
    table.last = NULL
    return 0


cdef inline void table_close(PageTable *table) noexcept:
    cdef size_t at
    if table.slots != NULL:
        for at in range(table.mask + 1):
            free(table.slots[at])
        free(table.slots)
        table.slots = NULL


cdef inline size_t _slot(PageTable *table, size_t number) noexcept:
    """Where the page is, or would be."""
    cdef size_t at = (number * <size_t>0x9E3779B97F4A7C15) >> table.shift
    while table.slots[at] != NULL and table.slots[at].number != number:
        at = (at + 1) & table.mask
    return at


cdef inline Page *_page(PageTable *table, void *key) noexcept:
    cdef size_t number = <size_t>key >> PAGE_BITS
    cdef Page *page = table.last
    if page == NULL or page.number != number:
        page = table.slots[_slot(table, number)]
        if page != NULL:
            table.last = page
    return page


cdef inline size_t _entry(void *key) noexcept:
    return (<size_t>key >> ENTRY_BITS) & (ENTRIES - 1)


cdef inline void *table_get(PageTable *table, void *key) noexcept:
    """NULL if the key, which is of a live object, is not there."""
    cdef Page *page = _page(table, key)
    return NULL if page == NULL else page.entries[_entry(key)]


cdef inline int table_put(PageTable *table, void *key, void *value) except -1:
    """The key must not be there."""
    cdef Page *page = _page(table, key)
    if page == NULL:
        if 3 * table.pages > 2 * table.mask:
            _rebuild(table)
        page = <Page *>calloc(1, sizeof(Page))
        if page == NULL:
            raise MemoryError()
        page.number = <size_t>key >> PAGE_BITS
        table.slots[_slot(table, page.number)] = page
        table.last = page
        table.pages += 1
    elif page.count == 0:
        table.empty -= 1
    page.entries[_entry(key)] = value
    page.count += 1
    return 0


cdef inline bint table_remove(PageTable *table, void *key) except -1:
    """False if the key is not there."""
    cdef Page *page = _page(table, key)
    if page == NULL or page.entries[_entry(key)] == NULL:
        return False
    page.entries[_entry(key)] = NULL
    page.count -= 1
    if page.count == 0:
        table.empty += 1
        if table.empty > 64 and 2 * table.empty > table.pages:
            _rebuild(table)
    return True


cdef inline int _rebuild(PageTable *table) except -1:
    """As large as the pages in use want it; the others go."""
    cdef PageTable new
    cdef size_t at
    cdef int bits = 6
    cdef Page *page
    while 3 * (table.pages - table.empty) >= <size_t>1 << bits:
        bits += 1
    table_open(&new, bits)
    for at in range(table.mask + 1):
        page = table.slots[at]
        if page != NULL:
            if page.count:
                new.slots[_slot(&new, page.number)] = page
                new.pages += 1
            else:
                free(page)
    free(table.slots)
    table[0] = new
    return 0
