from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.executor._heap_cy import Heap, HeapNode


class Node(HeapNode):
    """A node that a test can tell from others. Subclassed in plain Python, as a user's scheduler would."""

    def __init__(self, key: int, tie: int) -> None:
        super().__init__()
        self.key = key
        self.tie = tie


def drain(heap: Heap) -> list[tuple[int, int]]:
    order = []
    while len(heap):
        node = heap.top()
        order.append((node.key, node.tie))
        heap.remove(node)
        assert node.position == -1
    return order


@given(st.lists(st.integers(-(2**62), 2**62)))
def test_nodes_leave_in_sorted_order(keys: list[int]) -> None:
    heap = Heap()
    for tie, key in enumerate(keys):
        heap.push(Node(key, tie))
    assert drain(heap) == sorted((key, tie) for tie, key in enumerate(keys))


def test_equal_keys_leave_by_tie() -> None:
    heap = Heap()
    for tie in (3, 1, 2):
        heap.push(Node(7, tie))
    assert drain(heap) == [(7, 1), (7, 2), (7, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_remove_and_update_anywhere(seed: int) -> None:
    rng = random.Random(seed)
    heap = Heap()
    inside: list[Node] = []
    for tie in range(2_000):
        choice = rng.random()
        if choice < 0.5 or not inside:
            node = Node(rng.randrange(50), tie)
            heap.push(node)
            inside.append(node)
        elif choice < 0.75:
            node = inside.pop(rng.randrange(len(inside)))
            heap.remove(node)
            assert node.position == -1
        else:
            node = rng.choice(inside)
            node.key = rng.randrange(50)
            heap.update(node)
        assert len(heap) == len(inside)
        if inside:
            assert heap.top() is min(inside, key=lambda node: (node.key, node.tie))
            assert heap.top().position == 0
    assert drain(heap) == sorted((node.key, node.tie) for node in inside)
