"""What is promised of shares, on a machine of any speed that has others on it, too."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import pytest

import clockworker as cw

Stats = dict[Hashable, cw.QueueStats]

SLICE_NS = 1_000_000  # of each of two queues that say nothing of it
_ENOUGH = 12  # times what is allowed, for the smallest; then a twelfth of it is what can be told


def bound_ns(stats: Stats) -> int:
    """By EEVDF's promise nobody is further from its part than by a slice and the longest step there was."""
    return SLICE_NS + max(each.poll_time.max_ns for each in stats.values())


def had_enough(read: Callable[[], Stats], before: Stats | None = None) -> bool:
    """Whether the queues' steps have had so much of the core together (since `before`) that shares can be told. How long that
    takes is the machine's: a fixed time is little to whom others leave little."""
    now = read()
    return sum(_had(now, before).values()) > _ENOUGH * 9 * bound_ns(now)


def check_shares(shares: Mapping[Hashable, int], after: Stats, before: Stats | None = None) -> None:
    """Of what the queues' steps have had together since `before`. Whoever has a lag there has one at either end."""
    had = _had(after, before)
    bound = bound_ns(after) * (1 if before is None else 2)
    for key, ns in had.items():
        assert ns == pytest.approx(sum(had.values()) * shares[key] / sum(shares.values()), abs=bound), (key, had)


def _had(after: Stats, before: Stats | None) -> dict[Hashable, int]:
    return {key: after[key].busy_ns - (0 if before is None else before[key].busy_ns) for key in after}
