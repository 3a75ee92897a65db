"""Which sender is found, and that it is looked for once."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from clockworker.ipc.calls._outbox_cy import Outbox

SHARDS = [0, 5, 3, 4_095, 4_096, 2**40, 2**63 - 1, 2**63, 2**80]


class Found:
    def __init__(self) -> None:
        self.looked_for: list[tuple[int, Any]] = []
        self.sent: list[Any] = []
        self.outbox = Outbox(self._find, self._send_of_key)

    def _find(self, shard: int, method: Any) -> Any:
        self.looked_for.append((shard, method))
        if shard < 0:
            raise IndexError(f"there is no shard {shard}")
        return lambda args, kwargs: self.sent.append((shard, method, args, kwargs))

    def _send_of_key(
        self, key: Any, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[None] | None:
        self.sent.append((key, method))
        return None


def test_each_shard_of_each_method_has_a_sender_that_is_looked_for_once() -> None:
    found = Found()
    every = [(shard, method) for method in ("a", "b") for shard in SHARDS]
    for _ in range(3):
        for shard, method in every:
            found.outbox.send(shard, method, (shard,), {"x": 1})
        for shard, method in reversed(every):
            found.outbox.send(shard, method, (shard,), {"x": 1})
    assert found.looked_for == every
    there = [(shard, method, (shard,), {"x": 1}) for shard, method in every]
    assert found.sent == 3 * (there + there[::-1])


@pytest.mark.parametrize("shard", [-1, -4_097, -(2**80)])
def test_a_shard_that_is_not_there_is_asked_for_each_time(shard: int) -> None:
    found = Found()
    found.outbox.send(1, "a", (), {})
    for _ in range(2):
        with pytest.raises(IndexError, match=f"there is no shard {shard}"):
            found.outbox.send(shard, "a", (), {})
    assert len(found.looked_for) == 3


@pytest.mark.parametrize("key", [True, "key", None, 1.0])
def test_what_is_no_int_is_a_key(key: object) -> None:
    found = Found()
    found.outbox.send(key, "a", (), {})  # type: ignore[arg-type]
    assert found.sent == [(key, "a")]
    assert not found.looked_for
