"""The ring against a deque, over crashes of either side and restarts with fresh rings and epochs."""

from __future__ import annotations

import os
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clockworker import ipc
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer

CAPACITY = 4096
Frame = tuple[int, int, int, int, bytes]

bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(0, CAPACITY // 4).map(lambda length: bytes(index % 251 for index in range(length))),
    st.integers(CAPACITY // 4, 4 * CAPACITY).map(lambda length: bytes(index % 249 for index in range(length))),
)
frames = st.tuples(
    st.integers(1, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), bodies
)


class RingWithRestarts(RuleBasedStateMachine):
    """One incarnation of the pair at a time. The model is what was published whole and not popped."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.model: deque[Frame] = deque()
        self.unfinished: Frame | None = None
        self.descriptor = -1

    @initialize()
    def first(self) -> None:
        self.connect()

    def connect(self) -> None:
        """As after a death: never the old memory."""
        self.epoch += 1
        self.descriptor = ipc.create_ring(CAPACITY)
        self.producer, self.consumer = RingProducer(self.descriptor), RingConsumer(self.descriptor)

    def disconnect(self) -> None:
        self.producer.close()
        self.consumer.close()
        os.close(self.descriptor)
        self.model.clear()
        self.unfinished = None

    def push(self, frame: Frame) -> None:
        if self.producer.push(*frame):
            self.model.append(frame)
            self.unfinished = None
        else:
            # A small one that does not fit leaves nothing behind; it is simply not sent.
            self.unfinished = frame if len(frame[4]) > CAPACITY // 4 else None

    @precondition(lambda self: self.unfinished is None)
    @rule(frame=frames)
    def push_one(self, frame: Frame) -> None:
        self.push(frame)

    @precondition(lambda self: self.unfinished is not None)
    @rule()
    def push_on(self) -> None:
        assert self.unfinished is not None
        self.push(self.unfinished)

    @precondition(lambda self: self.unfinished is not None)
    @rule(frame=frames)
    def push_another_too_soon(self, frame: Frame) -> None:
        with pytest.raises(ValueError, match="is not all in the ring"):
            self.producer.push(*frame[:4], frame[4] + b".")

    @rule(count=st.integers(1, 20))
    def pop(self, count: int) -> None:
        for _ in range(count):
            body = self.consumer.pop()
            if not self.model:
                assert body is None
                break
            expected = self.model.popleft()
            consumer = self.consumer
            assert (consumer.kind, consumer.queue, consumer.method, consumer.call, body) == expected

    @precondition(lambda self: self.unfinished is None)
    @rule(frame=frames)
    def producer_stalls(self, frame: Frame) -> None:
        """It finds no room, says so, and finds none again: who then takes in what there is must be told of it."""
        while self.producer.push(*frame[:4], frame[4][: CAPACITY // 4]):
            self.model.append((*frame[:4], frame[4][: CAPACITY // 4]))
        self.producer.stall()
        assert not self.producer.push(*frame[:4], frame[4][: CAPACITY // 4])
        while self.model:
            self.pop(1)
        assert self.consumer.producer_stalled()
        assert not self.consumer.producer_stalled()

    @rule()
    def producer_dies(self) -> None:
        """What it had published is still taken in, and of a body that it had begun nothing is seen."""
        while self.model:
            self.pop(1)
        assert self.consumer.pop() is None
        self.disconnect()
        self.connect()

    @rule()
    def consumer_dies(self) -> None:
        """What it had not popped is lost with it: the callers are told. The next begins with an empty ring."""
        self.disconnect()
        self.connect()
        assert self.consumer.pop() is None

    @invariant()
    def nothing_is_made_up(self) -> None:
        if self.descriptor >= 0 and not self.model:
            assert self.consumer.pop() is None

    def teardown(self) -> None:
        if self.descriptor >= 0:
            self.disconnect()


TestRingWithRestarts = RingWithRestarts.TestCase
TestRingWithRestarts.settings = settings(max_examples=80, stateful_step_count=40)
