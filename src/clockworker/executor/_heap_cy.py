# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
# cython: boundscheck=False, wraparound=False
"""What policies keep their nodes in: `Heap` and `KeyHeap`, by key, and `Line`, by arrival.

`Heap` is a binary heap whose members know their place, so that one can be re-ordered or taken out of the middle in O(log n).
`heapq` finds a changed member only by scanning, and compares with `__lt__`; here keys are 64-bit integers in the node.
Equal keys leave in the order of `tie`.

`KeyHeap` is one whose members cannot be taken out of the middle, for queues of many tasks. It has copies of keys and ties side
by side in memory: comparing touches no node, and 100,000 of them are a few cache misses. Its way down is heapq's: all the way
along the smaller children, then up, for what comes from the end mostly belongs there, and that is half of the comparisons.
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.executor._native import Place, Places
    from cython.cimports.libc.stdlib import free, realloc
else:
    from clockworker.executor._pure import Place

_LEAST_ROOM = 16  # of a KeyHeap


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


@cython.final
@cython.cclass
class KeyHeap:
    """Nodes by (key, tie), the smallest first: `nodes[places[0].slot]`. A node may be in it more than once."""

    count: int
    room: int  # for so many
    nodes: list[Any]  # by slot
    places: list[Place]  # the first `count` are the heap; the slots of the others are free

    def __init__(self) -> None:
        self.count = 0
        self.room = 0
        self.nodes = []
        if not cython.compiled:
            self.places = []
        self.make_room()

    def __dealloc__(self) -> None:  # of compiled classes only
        free(self.places)

    def make_room(self) -> None:
        """For one more. MemoryError if there is none."""
        if self.count == self.room:
            self._grow(max(2 * self.room, _LEAST_ROOM))

    def _grow(self, room: int) -> None:
        self.nodes.extend([None] * (room - len(self.nodes)))
        if cython.compiled:
            places = cython.cast(Places, realloc(self.places, room * cython.sizeof(Place)))
            if not places:
                raise MemoryError
            self.places = places
            for slot in range(self.room, room):
                places[slot] = Place(0, 0, slot)
        else:
            self.places.extend(Place(0, 0, slot) for slot in range(self.room, room))
        self.room = room

    def push(self, key: int, tie: int, node: Any) -> None:
        """There must be room."""
        position = self.count
        place = Place(key, tie, self.places[position].slot)
        self.nodes[place.slot] = node
        self.count = position + 1
        self._up(place, position)

    def pop(self) -> Any:
        """Remove and return the smallest node. The heap must not be empty."""
        free_place = self.places[0]
        node = self.nodes[free_place.slot]
        self.nodes[free_place.slot] = None
        self.count -= 1
        last = self.places[self.count]
        self.places[self.count] = free_place
        if self.count:
            self._down(last)
        return node

    def replace_top(self, key: int, tie: int, node: Any) -> None:
        """As `pop` and `push`. The heap must not be empty."""
        slot = self.places[0].slot
        self.nodes[slot] = node
        self._down(Place(key, tie, slot))

    def move_top(self, key: int) -> None:
        """The smallest node has this key now."""
        self._down(Place(key, self.places[0].tie, self.places[0].slot))

    def keys_changed(self) -> None:
        """Some may be less than they were. The nodes have a `key`."""
        entries = [(self.places[i].tie, self.nodes[self.places[i].slot]) for i in range(self.count)]
        self.count = 0
        for tie, node in entries:  # as many as there is room for
            self.push(node.key, tie, node)

    def _up(self, place: Place, position: int) -> None:
        places = self.places
        while position > 0:
            parent = (position - 1) >> 1
            if not comes_before(place, places[parent]):
                break
            places[position] = places[parent]
            position = parent
        places[position] = place

    def _down(self, place: Place) -> None:
        """From the top."""
        places = self.places
        size = self.count
        position = 0
        child = 1
        while child < size:
            if child + 1 < size and comes_before(places[child + 1], places[child]):
                child += 1
            places[position] = places[child]
            position = child
            child = 2 * position + 1
        self._up(place, position)


def comes_before(one: Place, other: Place) -> bool:
    return one.key < other.key or (one.key == other.key and one.tie < other.tie)  # type: ignore[no-any-return]


@cython.final
@cython.cclass
class Line:
    """First in, first out; a deque that C can reach into."""

    count: int
    room: int  # for so many, a power of two
    first: int
    nodes: list[Any]

    def __init__(self) -> None:
        self.count = 0
        self.room = 0
        self.first = 0
        self.nodes = []

    def make_room(self) -> None:
        """For one more."""
        if self.count == self.room:
            self.nodes = [self.nodes[(self.first + i) & (self.room - 1)] for i in range(self.count)]
            self.first = 0
            self.room = max(2 * self.room, 4)
            self.nodes.extend([None] * (self.room - self.count))

    def push(self, node: Any) -> None:
        """There must be room."""
        self.nodes[(self.first + self.count) & (self.room - 1)] = node
        self.count += 1

    def pop(self) -> Any:
        """It must not be empty."""
        node = self.nodes[self.first]
        self.nodes[self.first] = None
        self.first = (self.first + 1) & (self.room - 1)
        self.count -= 1
        return node
