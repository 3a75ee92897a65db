from __future__ import annotations

import contextlib
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc._frames import Kind, Reassembly, pack_envelope, pieces, unpack_envelope


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


GROUPS = st.recursive(
    st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.integers(0, 2**63 - 1), GROUPS, st.binary())
def test_envelopes_bring_what_they_took(deadline_ns: int, group: Hashable, arguments: bytes) -> None:
    found = unpack_envelope(pack_envelope(deadline_ns, group, 3, arguments))
    assert found == (deadline_ns, group, arguments)
    assert unpack_envelope(pack_envelope(deadline_ns, None, 3, arguments)) == (deadline_ns, None, arguments)


@pytest.mark.parametrize("group", [object(), 2**64, "x" * 70_000, ("a", object()), frozenset({1})])
def test_a_group_that_cannot_travel_is_stood_in_for(group: Hashable) -> None:
    assert unpack_envelope(pack_envelope(0, group, 3, b"x")) == (0, (3, hash(group)), b"x")


@given(st.binary(max_size=60))
def test_what_is_no_envelope_raises_an_ordinary_exception(body: bytes) -> None:
    with contextlib.suppress(Exception):
        hash(unpack_envelope(body)[1])
