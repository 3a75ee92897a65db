"""Policy: times are arguments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clockworker.shards.protocol._rest import BEAT_S, BUSY, REST_AFTER_S, Rest, next_tick


def test_it_rests_when_nothing_was_done_for_a_while() -> None:
    rest, now = Rest(), 100.0
    assert not rest.look(now, 7, 1.0)
    while (now := now + BEAT_S) < 100.0 + REST_AFTER_S - BEAT_S / 2:
        assert not rest.look(now, 7, 1.0)
    assert rest.look(now + BEAT_S / 2, 7, 1.0)
    assert rest.look(now + 60.0, 7, 1.0)


def test_a_turn_of_the_executor_is_work() -> None:
    rest = Rest()
    rest.look(100.0, 7, 1.0)
    assert rest.look(101.0, 7, 1.0)
    assert not rest.look(102.0, 8, 1.0)
    assert not rest.look(102.0 + REST_AFTER_S / 2, 8, 1.0)
    assert rest.look(102.0 + REST_AFTER_S, 8, 1.0)


def test_what_uses_the_cpu_is_work_though_it_is_in_no_task() -> None:
    rest = Rest()
    rest.look(100.0, 7, 1.0)
    assert rest.look(101.0, 7, 1.0 + 0.9 * BUSY), "what the beats themselves use"
    assert not rest.look(102.0, 7, 1.0 + 2.0 * BUSY)


@given(st.floats(0, 1e7), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.1]))
def test_ticks_are_the_same_for_everybody_and_none_comes_twice(now: float, pace: float, after: float) -> None:
    tick = next_tick(now, pace, after)
    assert 0 < tick - now < 1.06 * pace
    assert abs((tick - after) / pace - round((tick - after) / pace)) < 1e-4
    # A timer that is a little early does not bring the same tick again.
    again = next_tick(tick - 0.01 * pace, pace, after)
    assert abs(again - tick - pace) < 1e-3
