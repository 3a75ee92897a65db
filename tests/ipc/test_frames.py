from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc._frames import Kind, Reassembly, pieces


@given(st.binary(max_size=500), st.integers(1, 200))
def test_pieces_make_the_whole_again(body: bytes, largest: int) -> None:
    parts = list(pieces(body, largest))
    assert all(0 < len(piece) <= largest for _, piece in parts)
    assert [last for last, _ in parts] == [False] * (len(parts) - 1) + [True] * bool(parts)
    reassembly = Reassembly(500)
    for last, piece in parts:
        if last:
            assert reassembly.complete(piece) == body
        else:
            assert reassembly.add(piece)


def test_a_message_of_one_piece_is_not_copied() -> None:
    body = b"whole"
    assert Reassembly(10).complete(body) is body


def test_messages_follow_each_other() -> None:
    reassembly = Reassembly(10)
    for _ in range(5):
        assert reassembly.add(b"12345")
        assert reassembly.add(b"6789")
        assert reassembly.complete(b"0") == b"1234567890"


def test_what_grows_beyond_the_bound_is_refused() -> None:
    reassembly = Reassembly(10)
    assert reassembly.add(b"1234567890")
    assert not reassembly.add(b"1")


@pytest.mark.parametrize("kind", list(Kind))
def test_no_kind_is_zero_and_all_fit_a_byte(kind: Kind) -> None:
    assert 0 < kind < 256
