from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc.calls._deadlines import Deadlines


class Item:
    def __init__(self, at: int) -> None:
        self.at = at
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def expire(self) -> None:
        self.is_done = True


def test_the_earliest_comes_first_and_of_equals_the_first() -> None:
    deadlines = Deadlines()
    items = [Item(at) for at in (5, 3, 3, 9)]
    assert [deadlines.add(item.at, item) for item in items] == [True, True, False, False]
    assert deadlines.earliest_ns() == 3
    assert deadlines.due(2) == []
    assert deadlines.due(5) == [items[1], items[2], items[0]]
    assert deadlines.earliest_ns() == 9
    assert deadlines.due(9) == [items[3]]
    assert deadlines.earliest_ns() is None


@given(st.lists(st.tuples(st.integers(0, 1_000), st.booleans()), max_size=400), st.integers(0, 1_000))
def test_against_a_list(cases: list[tuple[int, bool]], now: int) -> None:
    deadlines = Deadlines()
    expected = []
    for at, answered in cases:
        item = Item(at)
        deadlines.add(at, item)
        if answered:
            item.is_done = True
            deadlines.answered()
        elif at <= now:
            expected.append(item)
    assert deadlines.due(now) == sorted(expected, key=lambda item: item.at)


def test_what_was_answered_takes_no_room() -> None:
    deadlines = Deadlines()
    kept = [Item(at) for at in range(100)]
    for item in kept:
        deadlines.add(item.at, item)
    for at in range(10_000):
        item = Item(10**9 + at)
        deadlines.add(item.at, item)
        item.is_done = True
        deadlines.answered()
        assert len(deadlines) <= 300
    assert deadlines.due(100) == kept
