from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc.calls._chain_cy import (
    CHAIN,
    DEEPEST,
    Chain,
    deeper,
    inherited_deadline_ns,
    pack_envelope,
    unpack_envelope,
    until,
)


def test_what_holds_something_makes_its_calls_one_deeper() -> None:
    assert CHAIN.get() is None
    with deeper() as first:
        outer = CHAIN.get()
        assert outer is not None
        with deeper() as second:
            inner = CHAIN.get()
            assert inner is not None
            assert (first, second, outer.depth, inner.depth) == (0, 1, 1, 2)
        assert CHAIN.get() is outer
        assert (outer.ended, inner.ended) == (False, True)
    assert CHAIN.get() is None
    token = CHAIN.set(Chain(DEEPEST, 5))
    with deeper() as depth:
        deepest = CHAIN.get()
        assert deepest is not None
        assert (depth, deepest.depth, deepest.deadline_ns) == (DEEPEST, DEEPEST, 5)
    CHAIN.reset(token)


def test_of_two_deadlines_the_earlier_holds_and_the_rest_of_the_chain_is_as_before() -> None:
    assert inherited_deadline_ns() == 0
    request = Chain(3, 100, "asked")
    token = CHAIN.set(request)
    for deadline_ns in (200, 50):
        with until(deadline_ns), until(150):
            inner = CHAIN.get()
            assert inner is not None
            assert (inherited_deadline_ns(), inner.depth, inner.within) == (min(deadline_ns, 100), 3, request)
            with deeper():
                assert inherited_deadline_ns() == min(deadline_ns, 100)
    assert inherited_deadline_ns() == 100
    CHAIN.reset(token)
    with until(50):
        assert inherited_deadline_ns() == 50
    assert CHAIN.get() is None


GROUPS = st.recursive(
    st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.integers(0, 2**63 - 1), GROUPS, st.integers(0, 255), st.binary() | st.just(bytes(10_000)))
def test_envelopes_bring_what_they_took(deadline_ns: int, group: Hashable, depth: int, arguments: bytes) -> None:
    found = unpack_envelope(pack_envelope(deadline_ns, group, depth, 3, arguments))
    assert found == (deadline_ns, group, depth, arguments)
    without = unpack_envelope(pack_envelope(deadline_ns, None, depth, 3, arguments))
    assert without == (deadline_ns, None, depth, arguments)


@pytest.mark.parametrize("group", [object(), 2**64, "x" * 70_000, ("a", object()), frozenset({1})])
def test_a_group_that_cannot_travel_is_stood_in_for(group: Hashable) -> None:
    assert unpack_envelope(pack_envelope(0, group, 0, 3, b"x")) == (0, (3, hash(group)), 0, b"x")


@given(st.binary(max_size=60))
def test_what_is_no_envelope_raises_an_ordinary_exception(body: bytes) -> None:
    try:
        deadline_ns, group, _, arguments = unpack_envelope(body)
        hash(group)
    except Exception:
        return
    assert isinstance(deadline_ns, int)
    assert body.endswith(arguments)


@pytest.mark.parametrize("length", [0, 10])
def test_an_envelope_that_is_cut_short(length: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        unpack_envelope(pack_envelope(1, None, 1, 3, b"")[:length])


def test_a_deadline_that_no_clock_will_show() -> None:
    with pytest.raises(ValueError, match="deadline"):
        unpack_envelope(b"\xff" * 8 + pack_envelope(1, None, 1, 3, b"x")[8:])
