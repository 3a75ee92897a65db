cimport cython


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
