cimport cython


cdef class HeapNode:
    cdef public long long key
    cdef public long long tie
    cdef readonly Py_ssize_t position


@cython.final
cdef class Heap:
    cdef list nodes
    cdef readonly Py_ssize_t count

    cpdef HeapNode top(self)
    @cython.locals(position=Py_ssize_t)
    cpdef push(self, HeapNode node)
    @cython.locals(last=HeapNode)
    cpdef remove(self, HeapNode node)
    cpdef update(self, HeapNode node)
    @cython.locals(nodes=list, position=Py_ssize_t, parent_position=Py_ssize_t, parent=HeapNode)
    cdef _sift_up(self, HeapNode node)
    @cython.locals(
        nodes=list, size=Py_ssize_t, position=Py_ssize_t, child_position=Py_ssize_t, child=HeapNode, other=HeapNode
    )
    cdef _sift_down(self, HeapNode node)


cdef bint precedes(HeapNode one, HeapNode other)
