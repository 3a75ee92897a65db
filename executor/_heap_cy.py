# cython: language_level=3, annotation_typing=False, boundscheck=False, wraparound=False
"""A binary heap whose members know their place, so that one can be re-ordered or taken out of the middle in O(log n).

`heapq` finds a changed member only by scanning, and compares with `__lt__`; here keys are 64-bit integers in the node.
Equal keys leave in the order of `tie`.
"""


class HeapNode:
    """Base of what a `Heap` holds. A node is in one heap at a time; `position` is -1 outside."""

    key: int
    tie: int
    position: int

    def __init__(self) -> None:
        self.key = 0
        self.tie = 0
        self.position = -1


class Heap:
    """Nodes by (key, tie), the smallest first."""

    nodes: list[HeapNode]

    def __init__(self) -> None:
        self.nodes = []

    def __len__(self) -> int:
        return len(self.nodes)

    def top(self) -> HeapNode:
        """The smallest node, which stays. The heap must not be empty."""
        return self.nodes[0]

    def push(self, node: HeapNode) -> None:
        self.nodes.append(node)
        node.position = len(self.nodes) - 1
        self._sift_up(node)

    def remove(self, node: HeapNode) -> None:
        last = self.nodes.pop()
        if last is not node:
            last.position = node.position
            self.nodes[last.position] = last
            self.update(last)
        node.position = -1

    def update(self, node: HeapNode) -> None:
        """Restore the order after `node.key` or `node.tie` was changed."""
        self._sift_up(node)
        self._sift_down(node)

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
        size = len(nodes)
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
