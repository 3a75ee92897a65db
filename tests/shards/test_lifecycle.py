from __future__ import annotations

import itertools

import pytest

from clockworker._errors import UsageError
from clockworker.shards._lifecycle import TRANSITIONS, Lifecycle, RestartPolicy, Restarts, State


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


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State)
    assert all(TRANSITIONS.values())


POLICY = RestartPolicy(delay=0.1, max_delay=5.0, settled=2.0, max_starts=5, window=10.0)


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
    restarts, now = Restarts(POLICY), 0.0
    for _ in range(4):
        now, delay = crash(restarts, now, boot=0.0, ready_for=2.0)
        assert delay == 0.0
    assert restarts.died(now) is not None  # four starts, at 0, 2, 4 and 6
    restarts.started(9.0)
    assert restarts.died(9.5) is None  # the sixth would be at 9.5 and a little
    restarts = Restarts(POLICY)
    for start in (0.0, 2.0, 4.0, 6.0, 8.0):
        _, delay = crash(restarts, start, boot=0.0, ready_for=2.0)
    assert delay == 0.0  # the sixth is at 10


def test_having_been_ready_for_a_while_starts_the_count_anew() -> None:
    restarts = Restarts(POLICY)
    now, _ = crash(restarts, 0.0, boot=0.1)
    now, delay = crash(restarts, now, boot=0.1)
    assert delay == pytest.approx(0.1)
    _, delay = crash(restarts, now + 20, boot=0.1, ready_for=2.0)
    assert delay == 0.0


def test_having_been_ready_for_a_moment_does_not() -> None:
    restarts = Restarts(POLICY)
    now, _ = crash(restarts, 0.0, boot=0.1, ready_for=0.1)
    _, delay = crash(restarts, now, boot=0.1, ready_for=0.1)
    assert delay == pytest.approx(0.1)


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
