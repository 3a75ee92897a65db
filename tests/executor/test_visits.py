"""How often it is worth looking whether somebody has come: times are arguments."""

from __future__ import annotations

import random

import pytest

from clockworker.executor._visits_cy import FIRST_GAP_NS, LONGEST_LOOK_NS, LOOK_NS, OFTEN_NS, Visits

MS = 1_000_000


def visited(every_ns: int, times: int = 60, dice: random.Random | None = None) -> tuple[Visits, int]:
    visits, now = Visits(), 10**15
    for _ in range(times):
        now += every_ns if dice is None else round(dice.expovariate(1 / every_ns))
        visits.note(now)
    return visits, now


def test_where_nobody_comes_nobody_looks() -> None:
    visits = Visits()
    assert visits.look_ns() == 0
    assert visits.have_paused(0)
    visits.note(10**15)
    assert visits.look_ns() == 0


@pytest.mark.parametrize(
    ("every_ms", "look_ns"), [(0.1, LOOK_NS), (1, LOOK_NS), (3, 375_000), (10, LONGEST_LOOK_NS), (50, 0), (1000, 0)]
)
def test_eight_looks_a_visit_within_bounds(every_ms: float, look_ns: int) -> None:
    visits, _ = visited(round(every_ms * MS))
    assert visits.look_ns() == pytest.approx(look_ns, rel=0.01)


def test_a_rest_does_not_make_those_wait_who_come_after_it() -> None:
    visits, now = visited(5 * MS)
    now += FIRST_GAP_NS
    assert visits.have_paused(now)
    visits.note(now)
    assert 0 < visits.look_ns() <= LONGEST_LOOK_NS


def test_who_comes_at_once_and_then_seldom_is_known_to_be_seldom() -> None:
    visits, now = visited(0)
    for _ in range(40):
        now += 100 * MS
        visits.note(now)
    assert visits.gap_ns > OFTEN_NS


def test_a_pause_is_longer_than_chance_would_have_it() -> None:
    """At 200 visits a second that come as they like, one in a thousand finds slices that have grown."""
    dice = random.Random(1)
    visits, now = visited(5 * MS, 300, dice)
    paused = 0
    for _ in range(20_000):
        now += round(dice.expovariate(1 / (5 * MS)))
        paused += visits.have_paused(now)
        visits.note(now)
        assert 0 < visits.look_ns() <= LONGEST_LOOK_NS
    assert paused <= 200


def test_where_visits_are_seldom_slices_grow_as_they_like() -> None:
    visits, now = visited(100 * MS)
    assert visits.have_paused(now)
