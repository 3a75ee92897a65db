cimport cython
from clockworker.executor._native cimport Place, Places


cdef class HeapNode:
    cdef public long long key
    cdef public long long tie
    cdef readonly Py_ssize_t position


cdef class Heap:
    cdef list nodes
    cdef readonly Py_ssize_t count

    cpdef HeapNode top(self)
    @cython.locals(position=Py_ssize_t)
    cpdef int push(self, HeapNode node) except -1
    @cython.locals(last=HeapNode)
    cpdef int remove(self, HeapNode node) except -1
    cpdef int update(self, HeapNode node) except -1
    cdef int _check(self, HeapNode node) except -1
    @cython.locals(nodes=list, position=Py_ssize_t, parent_position=Py_ssize_t, parent=HeapNode)
    cdef int _sift_up(self, HeapNode node) except -1
    @cython.locals(
        nodes=list, size=Py_ssize_t, position=Py_ssize_t, child_position=Py_ssize_t, child=HeapNode, other=HeapNode
    )
    cdef int _sift_down(self, HeapNode node) except -1


cdef bint precedes(HeapNode one, HeapNode other) noexcept


cdef class KeyHeap:
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t room
    cdef list nodes
    cdef Places places

    cdef int make_room(self) except -1
    @cython.locals(slot=Py_ssize_t, places=Places)
    cdef int _grow(self, Py_ssize_t room) except -1
    @cython.locals(position=Py_ssize_t, place=Place)
    cdef void push(self, long long key, long long tie, object node) noexcept
    @cython.locals(free_place=Place, last=Place)
    cdef object pop(self)
    @cython.locals(slot=Py_ssize_t)
    cdef void replace_top(self, long long key, long long tie, object node) noexcept
    cdef void move_top(self, long long key) noexcept
    @cython.locals(i=Py_ssize_t)
    cdef int keys_changed(self) except -1
    @cython.locals(places=Places, parent=Py_ssize_t)
    cdef void _up(self, Place place, Py_ssize_t position) noexcept
    @cython.locals(places=Places, size=Py_ssize_t, position=Py_ssize_t, child=Py_ssize_t, parent=Py_ssize_t)
    cdef void _down(self, Place place) noexcept


cdef class Line:
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t room
    cdef Py_ssize_t first
    cdef list nodes

    @cython.locals(i=Py_ssize_t)
    cdef int make_room(self) except -1
    cdef void push(self, object node) noexcept
    cdef object pop(self)


cdef bint comes_before(Place one, Place other) noexcept
