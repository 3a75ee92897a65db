from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc._frames import Kind, pack_envelope, unpack_envelope


@pytest.mark.parametrize("kind", list(Kind))
def test_no_kind_is_zero_and_all_fit_a_byte(kind: Kind) -> None:
    assert 0 < kind < 256


GROUPS = st.recursive(
    st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.integers(0, 2**63 - 1), GROUPS, st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary())
def test_envelopes_bring_what_they_took(
    deadline_ns: int, group: Hashable, depth: int, through: int, arguments: bytes
) -> None:
    found = unpack_envelope(pack_envelope(deadline_ns, group, depth, through, 3, arguments))
    assert found == (deadline_ns, group, depth, through, arguments)
    without = unpack_envelope(pack_envelope(deadline_ns, None, depth, through, 3, arguments))
    assert without == (deadline_ns, None, depth, through, arguments)


@pytest.mark.parametrize("group", [object(), 2**64, "x" * 70_000, ("a", object()), frozenset({1})])
def test_a_group_that_cannot_travel_is_stood_in_for(group: Hashable) -> None:
    assert unpack_envelope(pack_envelope(0, group, 0, 0, 3, b"x")) == (0, (3, hash(group)), 0, 0, b"x")


@given(st.binary(max_size=60))
def test_what_is_no_envelope_raises_an_ordinary_exception(body: bytes) -> None:
    try:
        deadline_ns, group, _, _, arguments = unpack_envelope(body)
        hash(group)
    except Exception:
        return
    assert isinstance(deadline_ns, int)
    assert body.endswith(arguments)
