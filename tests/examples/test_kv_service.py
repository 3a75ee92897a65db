from __future__ import annotations

import msgspec
import pytest

from examples.kv._resp import OK, Error, Scalar


@pytest.mark.parametrize("reply", [None, 0, -(2**63), 2**63 - 1, b"", b"\xff", OK, Error(b"ERR \xff")])
def test_replies_are_the_same_after_a_crossing(reply: Scalar) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([reply]), type=list[Scalar]) == [reply]
