# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""A binary heap whose members know their place, so that one can be re-ordered or taken out of the middle in O(log n).

`heapq` finds a changed member only by scanning, and compares with `__lt__`; here keys are 64-bit integers in the node.
Equal keys leave in the order of `tie`.
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython


class HeapNode:
    """Base of what a `Heap` holds. A node is in one heap at a time; `position` is -1 outside."""

    key: int
    tie: int
    position: int

    def __init__(self) -> None:
        self.key = 0
        self.tie = 0
        self.position = -1


@cython.final
@cython.cclass
class Heap:
    """Nodes by (key, tie), the smallest first."""

    nodes: list[Any]  # the first `count` are the heap; what follows are empty places, kept to be filled again
    count: int

    def __init__(self) -> None:
        self.nodes = []
        self.count = 0

    def __len__(self) -> int:
        return self.count

    # Any: a compiled class cannot be generic, and each owner has its own kind of node.
    def top(self) -> Any:
        """The smallest node, which stays. IndexError if the heap is empty."""
        if self.count == 0:
            raise IndexError("the heap is empty")
        return self.nodes[0]

    def push(self, node: HeapNode) -> None:
        """ValueError if the node is in a heap already."""
        if node.position != -1:
            raise ValueError("the node is in a heap already")
        position = self.count
        if position == len(self.nodes):
            self.nodes.append(node)
        else:
            self.nodes[position] = node
        self.count = position + 1
        node.position = position
        if position:
            self._sift_up(node)

    def remove(self, node: HeapNode) -> None:
        """ValueError if the node is not in this heap."""
        self._check(node)
        self.count -= 1
        last = self.nodes[self.count]
        self.nodes[self.count] = None
        if last is not node:
            last.position = node.position
            self.nodes[last.position] = last
            self._sift_up(last)
            self._sift_down(last)
        node.position = -1

    def update(self, node: HeapNode) -> None:
        """Restore the order after `node.key` or `node.tie` was changed. ValueError if the node is not in this heap."""
        self._check(node)
        self._sift_up(node)
        self._sift_down(node)

    def _check(self, node: HeapNode) -> None:
        if not 0 <= node.position < self.count or self.nodes[node.position] is not node:
            raise ValueError("the node is not in this heap")

    def _sift_up(self, node: HeapNode) -> None:
        nodes = self.nodes
        position = node.position
        while position > 0:
            parent_position = (position - 1) >> 1
            parent = nodes[parent_position]
            if not precedes(node, parent):
                break
            nodes[position] = parent
            parent.position = position
            position = parent_position
        nodes[position] = node
        node.position = position

    def _sift_down(self, node: HeapNode) -> None:
        nodes = self.nodes
        size = self.count
        position = node.position
        while True:
            child_position = 2 * position + 1
            if child_position >= size:
                break
            child = nodes[child_position]
            if child_position + 1 < size:
                other = nodes[child_position + 1]
                if precedes(other, child):
                    child = other
                    child_position += 1
            if not precedes(child, node):
                break
            nodes[position] = child
            child.position = position
            position = child_position
        nodes[position] = node
        node.position = position


def precedes(one: HeapNode, other: HeapNode) -> bool:
    return one.key < other.key or (one.key == other.key and one.tie < other.tie)
