from __future__ import annotations

import itertools

import pytest

from clockworker._errors import UsageError
from clockworker.shards.supervisor._lifecycle import TRANSITIONS, Lifecycle, RestartPolicy, Restarts, State


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_the_table_is_obeyed(before: State, after: State) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = before
    if after in TRANSITIONS[before]:
        lifecycle.to(after)
        assert lifecycle.state is after
    else:
        with pytest.raises(UsageError, match=f"{before.value} cannot become {after.value}"):
            lifecycle.to(after)
        assert lifecycle.state is before


def test_the_way_of_a_life() -> None:
    """The table itself: a change of it is a change of what may happen."""
    stopped, starting, ready, draining, dead, backoff = State
    assert {(before, after) for before in State for after in TRANSITIONS[before]} == {
        (stopped, starting),
        (starting, ready),
        (starting, draining),
        (starting, dead),
        (ready, draining),
        (ready, dead),
        (draining, stopped),
        (dead, backoff),
        (dead, stopped),
        (backoff, starting),
        (backoff, stopped),
    }


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State)
    assert all(TRANSITIONS.values())


POLICY = RestartPolicy(delay=0.1, max_delay=5.0, max_starts=5, window=10.0)


def crash(restarts: Restarts, now: float, boot: float, *, ready_for: float | None = None) -> tuple[float, float | None]:
    """Start, live and die; the time after it, and the verdict."""
    restarts.started(now)
    now += boot
    if ready_for is not None:
        restarts.became_ready(now)
        now += ready_for
    return now, restarts.died(now)


def test_the_first_restart_is_immediate_and_later_ones_wait_longer() -> None:
    restarts, now, delays = Restarts(POLICY), 0.0, []
    for _ in range(9):
        now, delay = crash(restarts, now, boot=5.0)
        assert delay is not None
        delays.append(delay)
        now += delay
    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_a_sixth_start_within_ten_seconds_is_a_crash_loop() -> None:
    restarts, now, starts = Restarts(POLICY), 0.0, 0
    delay: float | None = 0.0
    while delay is not None:
        now += delay
        starts += 1
        now, delay = crash(restarts, now, boot=0.2)
    assert starts == 5
    assert now < 10


def test_the_window_slides() -> None:
    restarts = Restarts(POLICY)
    for start in (0.0, 2.0, 4.0, 6.0, 8.0):
        restarts.started(start)
    assert restarts.died(9.5) is None  # the sixth would be at 9.5
    restarts = Restarts(POLICY)
    for start in (0.0, 2.0, 4.0, 6.0, 8.0):
        restarts.started(start)
    assert restarts.died(10.0) == 0.0


def test_where_others_serve_on_there_is_no_end_but_the_longest_delay() -> None:
    restarts = Restarts(POLICY)
    for start in (0.0, 1.0, 2.0, 3.0, 4.0):
        restarts.started(start)
    assert restarts.died(5.0, give_up=False) == POLICY.max_delay


def test_where_nothing_has_served_yet_five_starts_are_enough_however_long_they_take() -> None:
    """A slow machine, or a slow application: five starts take longer than the window."""
    restarts, now, delays = Restarts(POLICY), 0.0, list[float | None]()
    for _ in range(5):
        restarts.started(now)
        now += 30.0
        delays.append(restarts.died(now, timed=False))
        now += delays[-1] or 0.0
    assert delays == [0.0, 0.1, 0.2, 0.4, None]


def test_a_shard_that_has_been_ready_has_the_window_although_others_have_not() -> None:
    restarts, now = Restarts(POLICY), 0.0
    for ready_for in (1.0, None, None, None, None, None):
        restarts.started(now)
        now += 3.0
        if ready_for is not None:
            restarts.became_ready(now)
            now += ready_for
        delay = restarts.died(now, timed=False)
        assert delay is not None
        now += delay


def test_having_been_ready_for_the_whole_window_starts_the_count_anew() -> None:
    restarts = Restarts(POLICY)
    now, _ = crash(restarts, 0.0, boot=0.1)
    now, delay = crash(restarts, now, boot=0.1)
    assert delay == pytest.approx(0.1)
    _, delay = crash(restarts, now + 20, boot=0.1, ready_for=20.0)
    assert delay == 0.0


def test_having_been_ready_for_a_moment_does_not() -> None:
    restarts = Restarts(POLICY)
    now, _ = crash(restarts, 0.0, boot=0.1, ready_for=0.1)
    _, delay = crash(restarts, now, boot=0.1, ready_for=0.1)
    assert delay == pytest.approx(0.1)


@pytest.mark.parametrize("boot", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("span", [each / 4 for each in range(48)] + [20.0, 60.0])
def test_whatever_the_span_of_life_the_restarts_end_or_become_seldom(span: float, boot: float) -> None:
    """Of a shard that is ready for so long each time, and then dies."""
    restarts, now, delays = Restarts(POLICY), 0.0, []
    while now < 600.0:
        now, delay = crash(restarts, now, boot=boot, ready_for=span)
        if delay is None:
            assert 5 * (span + boot) < POLICY.window, "it ends only where five starts were within the window"
            return
        delays.append(delay)
        now += delay
    assert delays == sorted(delays), "delays grow"
    between = boot + span + delays[-1]
    assert between >= POLICY.max_delay, "in the end it is started every five seconds at most"
    if span <= 9.0:
        assert delays.count(0.0) < 3, "it is started again at once only at first"


def test_replacements_are_no_restarts() -> None:
    restarts = Restarts(POLICY)
    for start in range(10):
        restarts.forget()
        restarts.started(start * 0.5)
    assert restarts.died(5.0) == 0.0


def test_a_start_that_the_system_refused_counts_as_none_and_is_tried_ever_more_slowly() -> None:
    policy = RestartPolicy()
    restarts = Restarts(policy)
    delays = []
    for now in range(20):
        restarts.started(now)
        delays.append(restarts.refused())
    assert delays[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert set(delays[6:]) == {policy.max_delay}
    restarts.started(20)
    restarts.became_ready(20)
    assert restarts.died(20.5) == 0.0, "the first crash"
    restarts.started(21)
    assert restarts.refused() == 0.1, "the shortage had passed"
