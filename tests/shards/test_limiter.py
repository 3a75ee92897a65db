from __future__ import annotations

from clockworker.shards._limiter import Limiter, more


def test_what_goes_on_is_said_at_doubling_intervals_and_counted() -> None:
    limiter = Limiter(first=10, most=60)
    said = {second: unsaid for second in range(200) if (unsaid := limiter.may_say(second)) is not None}
    assert said == {0: 0, 10: 9, 30: 19, 70: 39, 130: 59, 190: 59}


def test_calm_starts_anew() -> None:
    limiter = Limiter(first=10, most=60)
    assert [limiter.may_say(second) for second in (0, 5, 10, 29)] == [0, None, 1, None]
    assert limiter.may_say(55) == 1  # calm for longer than 20
    assert [limiter.may_say(second) for second in (60, 66)] == [None, 1]


def test_more() -> None:
    assert more(0) == ""
    assert more(3) == " (3 more like this since the last such line)"
