from __future__ import annotations

from clockworker.shards.logs._log_limit import ErrorLimiter, Limiter, more


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


def raised(number: int) -> Exception:
    try:
        if number % 2:
            raise ValueError(number)
        raise ValueError(number)
    except ValueError as error:
        return error


def test_errors_are_of_one_kind_by_type_and_place() -> None:
    limiter = ErrorLimiter(kinds=3)
    assert [limiter.may_say(raised(number), 0) for number in (1, 2, 3, 4)] == [0, 0, None, None]
    assert limiter.may_say(ExceptionGroup("", [raised(1), raised(3)]), 0) == 0
    assert limiter.may_say(ExceptionGroup("another", [raised(5)]), 0) is None
    assert limiter.may_say(raised(1), 20) == 1
    assert [limiter.may_say(None, 0, what) for what in ("a", "a", "b", "c")] == [0, None, 0, 0]
    assert limiter.may_say(raised(1), 21) == 0  # forgotten meanwhile
