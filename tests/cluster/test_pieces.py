"""Frames in pieces: whatever is put together comes apart again, however it was cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.cluster._pieces_cy import HEAD_SIZE, AgainstTheRules, Frame, Incoming, Outgoing
from clockworker.ipc.calls._frames import ENVELOPE, KEYED, Kind
from clockworker.ipc.calls._owners import KEY_SIZE

NOW = 5_000_000_000

frames_of = st.lists(
    st.tuples(
        st.integers(1, 63),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**63 - 1),
        st.binary(max_size=200),
    ),
    max_size=20,
)


def all_pieces(outgoing: Outgoing, sizes: list[int]) -> list[bytes]:
    pieces = []
    while outgoing.size:
        before = outgoing.size
        most = sizes[len(pieces) % len(sizes)]
        piece = b"".join(outgoing.take(most, NOW))
        assert 0 < len(piece) <= most
        assert before - outgoing.size == len(piece)
        pieces.append(piece)
    assert not outgoing.take(1_000, NOW)
    return pieces


def all_frames(incoming: Incoming, most: int, most_bytes: int) -> tuple[list[Frame], int]:
    found: list[Frame] = []
    size = 0
    while incoming.waiting:
        frames, taken = incoming.take(most, most_bytes, NOW)
        assert len(frames) <= most
        assert taken
        found += frames
        size += taken
    return found, size


@given(
    frames_of, st.lists(st.integers(HEAD_SIZE + 1, 300), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 400)
)
def test_what_is_sent_arrives(frames: list[Frame], sizes: list[int], most: int, most_bytes: int) -> None:
    outgoing, incoming = Outgoing(), Incoming(1_000)
    for frame in frames:
        outgoing.put(*frame)
    pieces = all_pieces(outgoing, sizes)
    for piece in pieces:
        incoming.put(b"before" + piece, 6)
    assert all_frames(incoming, most, most_bytes) == (frames, sum(map(len, pieces)))


@given(frames_of, st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_stream_may_be_cut_anywhere(frames: list[Frame], sizes: list[int]) -> None:
    outgoing, incoming = Outgoing(), Incoming(1_000)
    for frame in frames:
        outgoing.put(*frame)
    stream = b"".join(all_pieces(outgoing, [10_000]))
    at = number = 0
    found: list[Frame] = []
    while at < len(stream):
        size = sizes[number % len(sizes)]
        incoming.put(stream[at : at + size])
        at, number = at + size, number + 1
        found += all_frames(incoming, 3, 100)[0]
    assert found == frames


def test_frames_of_a_turn_share_a_message_and_are_cut_only_if_they_must_be() -> None:
    outgoing = Outgoing()
    for number in range(3):
        outgoing.put(Kind.REPLY, 0, 0, number, bytes(40))
    outgoing.put(Kind.REPLY, 0, 0, 3, bytes(500))
    sizes = [len(piece) for piece in all_pieces(outgoing, [150])]
    assert sizes == [122, 150, 150, 150, 132]


def test_a_deadline_travels_as_what_is_left() -> None:
    outgoing, incoming = Outgoing(), Incoming(1_000)
    rest = b"\0\0\0arguments"
    outgoing.put(Kind.REQUEST | ENVELOPE, 1, 2, 3, struct.pack("<Q", 9_000) + rest)
    outgoing.put(Kind.REQUEST | ENVELOPE | KEYED, 1, 2, 4, bytes(KEY_SIZE) + struct.pack("<Q", 9_000) + rest)
    outgoing.put(Kind.REQUEST | ENVELOPE, 1, 2, 5, bytes(8) + rest)
    outgoing.put(Kind.REQUEST | ENVELOPE, 1, 2, 6, struct.pack("<Q", 1_000) + rest)  # has passed
    incoming.put(b"".join(outgoing.take(1_000, 2_000)))
    frames, _ = incoming.take(10, 1_000, 1_000_000)
    times = [struct.unpack_from("<Q", body, KEY_SIZE if kind & KEYED else 0)[0] for kind, _, _, _, body in frames]
    assert times == [1_007_000, 1_007_000, 0, 1_000_001]
    assert all(body.endswith(rest) for *_, body in frames)


def test_a_request_without_the_envelope_that_it_announces_is_passed_on() -> None:
    incoming = Incoming(100)
    incoming.put(struct.pack("<BIIQI", Kind.REQUEST | ENVELOPE, 0, 0, 1, 3) + b"abc")
    assert incoming.take(1, 100, NOW)[0] == [(Kind.REQUEST | ENVELOPE, 0, 0, 1, b"abc")]


def test_a_frame_that_is_too_large_is_against_the_rules() -> None:
    incoming = Incoming(100)
    incoming.put(struct.pack("<BIIQI", Kind.REPLY, 0, 0, 1, 101))
    with pytest.raises(AgainstTheRules, match="a frame of 101 bytes; max_message is 100"):
        incoming.take(1, 100, NOW)


def test_a_call_whose_number_nobody_counts_to_is_against_the_rules() -> None:
    incoming = Incoming(100)
    incoming.put(struct.pack("<BIIQI", Kind.REPLY, 0, 0, 1 << 63, 0))
    with pytest.raises(AgainstTheRules, match="a frame of call 9223372036854775808"):
        incoming.take(1, 100, NOW)


@pytest.mark.parametrize("size", [10, 4_096, 4_097, 100_000])
def test_frames_keep_their_order_whatever_their_sizes(size: int) -> None:
    outgoing, incoming = Outgoing(), Incoming(1 << 20)
    frames: list[Frame] = [
        (Kind.REPLY, 0, 0, number, bytes([number]) * (size if number % 3 else 5)) for number in range(30)
    ]
    for number, frame in enumerate(frames):
        outgoing.put(*frame)
        assert outgoing.count == number + 1
    for piece in all_pieces(outgoing, [70_000, 5_000]):
        incoming.put(piece)
    assert outgoing.count == 0
    assert all_frames(incoming, 64, 1 << 20)[0] == frames


def test_what_a_turn_takes_is_bounded() -> None:
    incoming = Incoming(1 << 20)
    outgoing = Outgoing()
    outgoing.put(Kind.REPLY, 0, 0, 1, bytes(1_000))
    outgoing.put(Kind.REPLY, 0, 0, 2, bytes(1_000))
    incoming.put(b"".join(outgoing.take(1 << 20, NOW)))
    frames, taken = incoming.take(64, 100, NOW)
    assert [call for _, _, _, call, _ in frames] == [1]
    assert taken == HEAD_SIZE + 1_000
