"""Where the messages of a channel layer wait, without the layer."""

from __future__ import annotations

import asyncio
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from clockworker.http._mailboxes import Boxes, Rules

RULES = Rules(capacity=3, expiry=10.0, group_expiry=100.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("ab")),
        st.tuples(st.just("take"), st.sampled_from("ab")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 6.0, 11.0])),
    ),
    max_size=40,
)


@given(steps)
def test_a_box_is_a_queue_of_so_many_and_so_old(steps: list[tuple[str, str | float]]) -> None:
    async def body() -> None:
        clock = Clock()
        expired: list[str] = []
        boxes = Boxes(clock, expired.append)
        model: dict[str, deque[tuple[float, bytes]]] = {"a": deque(), "b": deque()}
        for number, (what, which) in enumerate(steps):
            if what == "wait":
                assert isinstance(which, float)
                clock.now += which
                continue
            assert isinstance(which, str)
            box = model[which]
            while box and box[0][0] < clock.now:
                box.popleft()
            if what == "put":
                taken = boxes.put(which, b"%d" % number, RULES)
                assert taken == (len(box) < 3)
                if taken:
                    box.append((clock.now + 10.0, b"%d" % number))
            elif box:
                assert await boxes.take(which) == box.popleft()[1]
        boxes.clear()
        assert len(boxes) == 0

    asyncio.run(body())


def test_who_waits_gets_the_message_and_who_has_left_does_not() -> None:
    async def body() -> None:
        boxes = Boxes()
        first, second, third = (asyncio.create_task(boxes.take("a")) for _ in range(3))
        await asyncio.sleep(0)
        boxes.put("a", b"1", RULES)
        first.cancel()  # it has been woken already
        boxes.put("a", b"2", RULES)
        await asyncio.wait([first])
        assert await asyncio.gather(second, third) == [b"1", b"2"]
        assert len(boxes) == 0

    asyncio.run(body())


def test_a_message_that_nobody_has_read_in_time_is_told_of_its_channel() -> None:
    clock = Clock()
    expired: list[str] = []
    boxes = Boxes(clock, expired.append)
    for _ in range(3):
        boxes.put("a", b"old", RULES)
    clock.now = 10.5
    assert boxes.put("a", b"new", RULES), "there is room again"
    assert expired == ["a"]
