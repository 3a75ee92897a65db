from __future__ import annotations

from clockworker.ipc.rings._ahead_cy import Habit

SOON_NS = 20_000
LONGEST_NS = 100_000


class Exchange:
    """News of a sleeping peer, again and again, each followed by something after a while."""

    def __init__(self) -> None:
        self.habit = Habit()
        self.now_ns = 10**15

    def once(self, follows_ns: int | None) -> bool:
        """Whether the peer is rung ahead. None: nothing follows before the next."""
        self.now_ns += 10**9
        rung = self.habit.hear(self.now_ns)
        if follows_ns is not None:
            self.habit.follow(self.now_ns + follows_ns)
        return rung

    def times(self, count: int, follows_ns: int | None) -> list[bool]:
        return [self.once(follows_ns) for _ in range(count)]


def test_nobody_is_rung_ahead_before_a_habit_is_known() -> None:
    rung = Exchange().times(40, SOON_NS // 2)
    assert not any(rung[:10])
    assert all(rung[30:])


def test_nobody_is_rung_ahead_of_what_takes_long() -> None:
    assert not any(Exchange().times(100, SOON_NS * 2))


def test_one_in_eight_may_be_slow() -> None:
    exchange = Exchange()
    exchange.times(50, 5_000)
    for _ in range(10):
        exchange.once(10**9)
        assert all(exchange.times(7, 5_000)[2:])


def test_what_never_follows_ends_the_habit_at_once() -> None:
    exchange = Exchange()
    exchange.times(50, 5_000)
    assert sum(exchange.times(100, None)) <= 3


def test_one_that_took_for_ever_is_forgotten_soon() -> None:
    exchange = Exchange()
    exchange.times(50, 5_000)
    exchange.once(10**12)
    assert any(exchange.times(3, 5_000))


def test_only_the_first_thing_that_follows_counts() -> None:
    habit = Habit()
    habit.hear(1_000_000)
    habit.follow(1_005_000)
    mean_ns = habit.mean_ns
    assert mean_ns < LONGEST_NS
    habit.follow(2_000_000)
    assert habit.mean_ns == mean_ns
