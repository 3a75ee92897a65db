from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockworker import ipc
from clockworker.ipc.rings._memory_cy import SharedMemory, create_memory
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer, RingProducer

CAPACITY = 4096
LARGEST = CAPACITY // 4
HEADER = 24
# Where a ring keeps what; written down here once more, as a peer of another version would.
CAPACITY_AT, TAIL_AT, STALLS_AT, HEAD_AT, DATA_AT = 8, 64, 72, 128, 4096
HEADER_WORDS = [0, CAPACITY_AT, TAIL_AT, STALLS_AT, HEAD_AT]


class Ring:
    """Both ends, and the memory between them."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.descriptor = ipc.create_ring(capacity)
        self.producer = RingProducer(self.descriptor)
        self.consumer = RingConsumer(self.descriptor)
        self.memory = SharedMemory(self.descriptor)

    def close(self) -> None:
        for end in (self.producer, self.consumer, self.memory):
            end.close()
        os.close(self.descriptor)


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring()
    yield ring
    ring.close()


@pytest.mark.parametrize("capacity", [0, 1, 2048, 4095, 4097, 12288, 1 << 31, -4096])
def test_capacities_that_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="it must be a power of two"):
        ipc.create_ring(capacity)


def test_descriptors_are_close_on_exec() -> None:
    descriptor = ipc.create_ring(CAPACITY)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_frame_comes_out_as_it_went_in(ring: Ring) -> None:
    assert ring.consumer.pop() is None
    frame = (3, 2**32 - 1, 2**32 - 2, 2**64 - 1, b"body")
    assert ring.producer.push(*frame)
    assert ring.consumer.pop() == b"body"
    consumer = ring.consumer
    assert (consumer.kind, consumer.queue, consumer.method, consumer.call) == frame[:4]
    assert consumer.pop() is None


@pytest.mark.parametrize("length", [LARGEST, LARGEST + 1, 2 * LARGEST, 3 * LARGEST - 1, 10 * LARGEST + 5, 300_000])
def test_a_body_of_any_length_comes_out_whole(ring: Ring, length: int) -> None:
    body = random.Random(length).randbytes(length)
    taken = None
    while not ring.producer.push(7, 1, 2, 3, body):
        assert ring.consumer.pop() is None  # nothing is seen of a part
    taken = ring.consumer.pop()
    assert taken == body
    consumer = ring.consumer
    assert (consumer.kind, consumer.queue, consumer.method, consumer.call) == (7, 1, 2, 3)
    assert ring.producer.push(1, 0, 0, 0, b"next")
    assert consumer.pop() == b"next"
    assert consumer.pop() is None


def test_nothing_comes_between_the_parts_of_a_body(ring: Ring) -> None:
    body = bytes(2 * CAPACITY)
    assert ring.producer.published() == 0
    assert not ring.producer.push(1, 0, 0, 0, body)
    assert 0 < ring.producer.published() <= CAPACITY
    with pytest.raises(ValueError, match="a body of 8192 bytes is not all in the ring; push it again first"):
        ring.producer.push(1, 0, 0, 0, b"another")
    while not ring.producer.push(1, 0, 0, 0, body):
        ring.consumer.pop()
    assert ring.consumer.pop() == body


def test_no_more_is_taken_than_is_allowed_and_the_rest_of_a_frame(ring: Ring) -> None:
    for number in range(4):
        assert ring.producer.push(1, 0, 0, number, b"x" * 100)
    consumer = ring.consumer
    assert not consumer.is_spent()
    seen = []
    for allowed in (1, 0, HEADER + 105, 10_000):
        consumer.allow(allowed)
        while consumer.pop() is not None:
            seen.append((allowed, consumer.call))
        assert consumer.is_spent() == (allowed != 10_000)
    assert seen == [(1, 0), (HEADER + 105, 1), (HEADER + 105, 2), (10_000, 3)]


def test_what_is_skipped_does_not_count_as_taken(ring: Ring) -> None:
    body = b"x" * 100
    size = HEADER + 104
    before = after = 0
    while after - before <= size:
        before = ring.producer.published()
        assert ring.consumer.pop() is None
        assert ring.producer.push(1, 0, 0, 0, body)
        after = ring.producer.published()
        if after - before == size:
            assert ring.consumer.pop() == body
    for number in (1, 2):
        assert ring.producer.push(1, 0, 0, number, body)
    ring.consumer.allow(size + 1)
    seen = []
    while ring.consumer.pop() is not None:
        seen.append(ring.consumer.call)
    assert seen == [0, 1]


def test_of_a_body_in_chunks_a_part_is_taken_when_no_more_is_allowed(ring: Ring) -> None:
    body = random.Random(1).randbytes(3 * LARGEST)
    assert ring.producer.push(5, 6, 7, 8, body)
    consumer = ring.consumer
    for taken in (LARGEST + HEADER, 2 * (LARGEST + HEADER)):
        consumer.allow(1)
        assert consumer.pop() is None
        assert (consumer.is_spent(), consumer.has_part()) == (True, True)
        assert (consumer.kind, consumer.queue, consumer.method) == (5, 6, 7)
        assert ring.producer.used() == 3 * (LARGEST + HEADER) - taken
    consumer.allow(1)
    assert consumer.pop() == body
    assert consumer.call == 8
    assert not consumer.has_part()


def test_chunks_of_ordinary_size_are_many_in_a_large_ring() -> None:
    ring = Ring(1 << 20)
    body = random.Random(1).randbytes(1 << 18)
    for _ in range(20):
        assert ring.producer.push(1, 0, 0, 0, body + b".")
        assert ring.consumer.pop() == body + b"."
    ring.close()


@pytest.mark.parametrize("size", [0, 64, 1000, 20_000])
def test_a_ring_whose_reader_keeps_up_uses_little_memory(size: int) -> None:
    capacity = 1 << 20
    ring = Ring(capacity)
    body = bytes(size)
    for number in range(2 * capacity // (size + HEADER)):
        assert ring.producer.push(1, 0, 0, number, body)
        assert ring.consumer.pop() == body
        assert ring.consumer.call == number
    assert os.fstat(ring.descriptor).st_blocks * 512 < capacity * 3 // 8
    # and a burst finds room
    sent = 0
    while ring.producer.push(1, 0, 0, sent, body):
        sent += 1
    assert sent * (size + HEADER) > capacity / 5
    for number in range(sent):
        assert ring.consumer.pop() == body
        assert ring.consumer.call == number
    ring.close()


def test_a_full_ring_says_so_and_loses_nothing(ring: Ring) -> None:
    sent = 0
    while ring.producer.push(1, 0, 0, sent, b""):
        sent += 1
    assert sent == CAPACITY // HEADER
    assert not ring.producer.push(1, 0, 0, sent, b"")
    for expected in range(sent):
        assert ring.consumer.pop() == b""
        assert ring.consumer.call == expected
    assert ring.consumer.pop() is None
    assert ring.producer.push(1, 0, 0, 0, b"again")


def test_a_stall_is_seen_once(ring: Ring) -> None:
    assert not ring.consumer.producer_stalled()
    for stalls in range(1, 3):
        while ring.producer.push(1, 0, 0, 0, b""):
            pass
        for _ in range(stalls):
            ring.producer.stall()
        assert ring.consumer.pop() is not None
        assert ring.consumer.producer_stalled()
        assert not ring.consumer.producer_stalled()
        while ring.consumer.pop() is not None:
            pass
        assert not ring.consumer.producer_stalled()


def test_nobody_looks_for_a_stall_where_there_is_room(ring: Ring) -> None:
    """A producer that sees half of its ring free has no reason to stall: here it does without one."""
    while ring.producer.used() + HEADER <= CAPACITY // 2:
        assert ring.producer.push(1, 0, 0, 0, b"")
    ring.producer.stall()
    while ring.consumer.pop() is not None:
        assert not ring.consumer.producer_stalled()
    assert ring.producer.push(1, 0, 0, 0, b"")
    assert ring.consumer.pop() is not None
    assert ring.consumer.producer_stalled()  # by the way: more than half has gone through since it last looked


frames = st.tuples(
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.one_of(
        st.binary(max_size=40),
        st.integers(0, LARGEST).map(lambda length: bytes(index % 251 for index in range(length))),
    ),
)


@given(st.lists(st.one_of(frames, st.integers(1, 20)), max_size=200))
@settings(max_examples=150)
def test_against_a_deque(operations: list[tuple[int, int, int, int, bytes] | int]) -> None:
    """A tuple is pushed; a number is how many to pop."""
    ring = Ring()
    model: deque[tuple[int, int, int, int, bytes]] = deque()
    used = 0
    for operation in [*operations, len(operations)]:
        if isinstance(operation, tuple):
            needed = HEADER + (len(operation[4]) + 7) // 8 * 8
            pushed = ring.producer.push(*operation)
            # What was skipped, to begin again at the beginning, is no room until it has been read over.
            assert pushed or used + needed > CAPACITY // 4
            assert not pushed or used + needed <= CAPACITY
            if pushed:
                model.append(operation)
                used += needed
        else:
            for _ in range(operation):
                body = ring.consumer.pop()
                if not model:
                    assert body is None
                    break
                expected = model.popleft()
                used -= HEADER + (len(expected[4]) + 7) // 8 * 8
                consumer = ring.consumer
                assert (consumer.kind, consumer.queue, consumer.method, consumer.call, body) == expected
    assert not model
    ring.close()


@pytest.mark.parametrize("capacity", [4096, 8192, 1 << 16])
def test_many_times_around(capacity: int) -> None:
    ring = Ring(capacity)
    rng = random.Random(capacity)
    waiting: deque[bytes] = deque()
    for number in range(20_000):
        body = number.to_bytes(8, "little") * rng.randrange(capacity // 4 // 8)
        while not ring.producer.push(1, 0, 0, number, body):
            assert ring.consumer.pop() == waiting.popleft()
        waiting.append(body)
    while waiting:
        assert ring.consumer.pop() == waiting.popleft()
    ring.close()


# A peer that breaks the rules

words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**13), 2**13).map(lambda near: near % 2**64),
    st.sampled_from([2**31, 2**32, 2**32 - 1, 2**63, 2**63 - 1, 2**64 - 8, 2**64 - 1, LARGEST, LARGEST + 1]),
)


@given(data=st.data())
@settings(max_examples=300)
def test_whatever_a_peer_writes_only_poisons(data: st.DataObject) -> None:
    """Any word of the header or of a frame, at any time, on both sides. Nothing but PoisonedRing may come of it."""
    ring = Ring()
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(rng.randrange(60)):
        ring.producer.push(1, 0, 0, 0, bytes(rng.randrange(200)))
        if rng.random() < 0.6:
            ring.consumer.pop()
    for at in data.draw(
        st.lists(st.sampled_from([*HEADER_WORDS, *range(DATA_AT, DATA_AT + CAPACITY, 8)]), max_size=20)
    ):
        ring.memory.store(at, data.draw(words))
        try:
            for _ in range(100):
                body = ring.consumer.pop()
                if body is None:
                    break
                assert len(body) <= LARGEST
            ring.consumer.producer_stalled()
        except PoisonedRing:
            pass
        try:
            for _ in range(100):
                if not ring.producer.push(1, 0, 0, 0, b"x" * rng.randrange(LARGEST)):
                    break
            ring.producer.stall()
        except PoisonedRing:
            pass
    ring.close()


@pytest.mark.parametrize("tail", [1, 23, CAPACITY + 1, CAPACITY + 8, 2**63, 2**64 - 1, 2**64 - 8])
def test_a_tail_out_of_range_is_poison(ring: Ring, tail: int) -> None:
    ring.memory.store(TAIL_AT, tail)
    with pytest.raises(PoisonedRing):
        ring.consumer.pop()
    with pytest.raises(PoisonedRing):  # and stays so
        ring.consumer.pop()


def test_a_tail_that_goes_back_is_poison(ring: Ring) -> None:
    for _ in range(2):
        ring.producer.push(1, 0, 0, 0, b"body")
        ring.consumer.pop()
    ring.memory.store(TAIL_AT, 32)
    with pytest.raises(PoisonedRing, match="tail 32 is not within 4096 bytes of the head 64"):
        ring.consumer.pop()


@pytest.mark.parametrize("length", [9, LARGEST, LARGEST + 1, 2**31, 2**32 - 1, 2**32 - 7])
def test_a_length_beyond_what_was_published_is_poison(ring: Ring, length: int) -> None:
    ring.producer.push(1, 0, 0, 0, b"12345678")
    ring.memory.store(DATA_AT, length | 1 << 32)
    with pytest.raises(PoisonedRing, match=f"a frame claims {length} bytes, and 32 were published"):
        ring.consumer.pop()


@pytest.mark.parametrize("length", [16, CAPACITY - HEADER, CAPACITY, 2**32 - 8])
def test_a_skip_that_nothing_follows_is_poison(ring: Ring, length: int) -> None:
    for at in (DATA_AT, DATA_AT + HEADER + 16):  # the second of two is poison too
        ring.memory.store(at, length | 2 << 40)
    ring.memory.store(TAIL_AT, min(2 * (HEADER + length), CAPACITY))
    for _ in range(2):
        with pytest.raises(PoisonedRing, match="a frame's first word is 0x2"):
            ring.consumer.pop()


def unfinished(ring: Ring) -> int:
    """A ring with the first part of a body. Where the next frame will begin."""
    assert not ring.producer.push(1, 0, 0, 0, bytes(2 * CAPACITY))
    assert ring.consumer.pop() is None
    return DATA_AT + ring.memory.load(TAIL_AT) % CAPACITY


@pytest.mark.parametrize(
    ("length", "goes_on", "left", "complaint"),
    [
        (LARGEST, 1, 12, "says that 12 are left of a message"),
        (LARGEST, 1, 2**64 - 1, "says that 18446744073709551615 are left of a message"),
        (8, 0, 0, "a message ends with 8 bytes"),
    ],
)
def test_chunks_that_do_not_make_the_whole_are_poison(
    ring: Ring, length: int, goes_on: int, left: int, complaint: str
) -> None:
    at = unfinished(ring)
    ring.memory.store(at, length | 1 << 32 | goes_on << 40)
    ring.memory.store(at + 16, left)
    ring.memory.store(TAIL_AT, ring.memory.load(TAIL_AT) + HEADER + length)
    for _ in range(2):  # and stays so
        with pytest.raises(PoisonedRing, match=complaint):
            ring.consumer.pop()


def test_a_message_over_the_limit_is_poison(ring: Ring) -> None:
    consumer = RingConsumer(ring.descriptor, max_message=2 * CAPACITY - 1)
    assert not ring.producer.push(1, 0, 0, 0, bytes(2 * CAPACITY))
    with pytest.raises(PoisonedRing, match="a message of 8192 bytes is over the limit of 8191"):
        consumer.pop()
    consumer.close()


@pytest.mark.parametrize("head", [1 << 62, 2**64 - 1, CAPACITY * 2])
def test_a_head_out_of_range_is_poison(ring: Ring, head: int) -> None:
    while ring.producer.push(1, 0, 0, 0, b"body"):
        pass
    ring.memory.store(HEAD_AT, head)
    with pytest.raises(PoisonedRing, match=f"head {head} is not between 0 and the tail"):
        ring.producer.push(1, 0, 0, 0, b"body")


@pytest.mark.parametrize(
    "forged",
    [
        (0, 1),
        (CAPACITY_AT, 2 * CAPACITY),
        (CAPACITY_AT, 0),
        (TAIL_AT, 2**64 - 1),
        (HEAD_AT, 3),
        (HEAD_AT, CAPACITY - 3),
    ],
)
def test_what_is_no_ring_is_not_opened(forged: tuple[int, int]) -> None:
    descriptor = ipc.create_ring(CAPACITY)
    memory = SharedMemory(descriptor)
    memory.store(*forged)
    for end in (RingProducer, RingConsumer):
        with pytest.raises(PoisonedRing):
            end(descriptor)
    memory.close()
    os.close(descriptor)


@pytest.mark.parametrize("size", [8, 4096, 8192])
def test_other_memory_is_not_opened(size: int) -> None:
    descriptor = create_memory("other", size)
    with pytest.raises(PoisonedRing, match="not that of a ring"):
        RingConsumer(descriptor)
    os.close(descriptor)


# A peer that dies


def test_a_producer_that_is_killed_leaves_whole_frames(tmp_path: Path) -> None:
    """SIGKILL at random moments while it pushes without pause: the sequence has no gap, and no frame is torn."""
    rng = random.Random(7)
    for _ in range(8):
        descriptor = ipc.create_ring(CAPACITY)
        consumer = RingConsumer(descriptor)
        script = Path(__file__).with_name("ring_producer.py")
        child = subprocess.Popen([sys.executable, script, str(descriptor)], pass_fds=[descriptor])
        expected, last = 0, rng.randrange(1, 5_000)
        try:
            while True:
                body = consumer.pop()
                if body is None:
                    if child.poll() is not None and (body := consumer.pop()) is None:
                        break
                    if body is None:
                        continue
                assert consumer.call == expected
                assert consumer.kind == expected % 5 + 1
                assert body == (expected % 251).to_bytes(1, "little") * (expected * 37 % (LARGEST + 1))
                expected += 1
                if expected == last:
                    child.kill()
        finally:
            child.kill()
        assert child.wait() == -9
        assert expected >= last
        consumer.close()
        os.close(descriptor)
