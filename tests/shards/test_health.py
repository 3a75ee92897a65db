"""Policy: times are arguments."""

from __future__ import annotations

import pytest

from clockworker.shards.protocol._health import LOOK_S, MAX_LATE_S, Health, HealthPolicy, Looks, Verdict
from clockworker.shards.protocol._rest import BEAT_S

POLICY = HealthPolicy(stalled_after=0.15, again=8.0, hung_after=2.0)
# When the report of a stall comes: at the first look that finds it old enough.
SOON = (pytest.approx(POLICY.stalled_after, abs=1.01 * LOOK_S), Verdict.STALLED)


class Machine:
    """A supervisor that looks at one shard, whose loop writes its beat just before each look unless it is held up."""

    def __init__(self, policy: HealthPolicy = POLICY) -> None:
        self.now = 1000.0
        self.beat = 1000.0
        self.pace = BEAT_S
        self.look_every = LOOK_S
        self.looks = Looks()
        self.looks.plan(self.now + self.look_every)
        self.health = Health(policy)

    def rest(self) -> None:
        """From now on beats and looks are at the slow pace."""
        self.pace = self.look_every = POLICY.pace
        self.looks.plan(self.now + self.look_every)

    def run(self, seconds: float, *, turns: bool) -> list[tuple[float, Verdict]]:
        """What was found, and when, in seconds from here."""
        start, found = self.now, []
        while self.now - start < seconds - LOOK_S / 2:
            self.now += self.look_every
            if turns:
                self.beat = self.now - 0.01
            awake = self.looks.look(self.now)
            self.looks.plan(self.now + self.look_every)
            self.health.see(self.pace, self.beat, self.looks.lost if awake else self.looks.lost_before)
            if awake:
                verdict = self.health.judge(self.now, self.looks.lost)
                if verdict is not Verdict.FINE:
                    found.append((round(self.now - start, 2), verdict))
        return found

    def sleep(self, seconds: float, *, beat: bool = False) -> None:
        """Nobody runs, the clock does. There may be one more beat before, that no look has seen."""
        if beat:
            self.beat = self.now + LOOK_S / 2
        self.now += seconds


def test_a_loop_that_turns_is_fine() -> None:
    assert Machine().run(100.0, turns=True) == []


def test_a_stall_is_reported_at_once_and_ever_more_rarely_until_it_is_the_end() -> None:
    machine = Machine()
    (first, *rest) = machine.run(2.2, turns=False)
    assert first == SOON
    assert rest[0][1] is Verdict.STALLED
    assert {verdict for _, verdict in rest[1:]} == {Verdict.HUNG}
    assert rest[0][0] == pytest.approx(first[0] * POLICY.again, abs=2 * LOOK_S)
    assert rest[1][0] == pytest.approx(POLICY.hung_after, abs=2 * LOOK_S)


def test_each_stall_is_reported_anew() -> None:
    machine = Machine()
    assert machine.run(0.3, turns=False) == [SOON]
    assert machine.run(0.3, turns=True) == []
    assert machine.run(0.3, turns=False) == [SOON]


def test_without_a_limit_nothing_is_hung() -> None:
    found = Machine(HealthPolicy(hung_after=0.0)).run(1000.0, turns=False)
    assert {verdict for _, verdict in found} == {Verdict.STALLED}
    assert len(found) == 5  # 0.2, 1.6, 13, 100, 800


def test_before_the_first_beat_nothing_is_expected() -> None:
    machine = Machine()
    machine.beat = 0.0
    assert machine.run(100.0, turns=False) == []


def test_after_a_nap_of_the_whole_machine_nobody_is_blamed() -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.sleep(3600.0)
    assert machine.run(1.0, turns=True) == []


@pytest.mark.parametrize("beat", [False, True])
def test_shards_may_take_longer_to_wake_up(beat: bool) -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.sleep(3600.0, beat=beat)
    assert machine.run(0.2, turns=False) in ([], [SOON])
    assert machine.run(1.0, turns=True) == []


def test_a_shard_that_is_hung_is_found_in_spite_of_a_nap_and_not_sooner() -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.run(1.0, turns=False)
    machine.sleep(3600.0)
    hung = [when for when, verdict in machine.run(2.0, turns=False) if verdict is Verdict.HUNG]
    assert hung[0] == pytest.approx(POLICY.hung_after - 1.0 - LOOK_S - MAX_LATE_S, abs=2 * LOOK_S)


def test_what_is_forgiven_counts_no_more_and_what_comes_then_does() -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.run(3.0, turns=False)
    machine.health.forgive(machine.now, machine.looks.lost)
    hung = [when for when, verdict in machine.run(2.5, turns=False) if verdict is Verdict.HUNG]
    assert hung[0] == pytest.approx(POLICY.hung_after, abs=2 * LOOK_S)


def test_naps_before_a_stall_do_not_delay_its_discovery() -> None:
    machine = Machine()
    for _ in range(5):
        machine.run(1.0, turns=True)
        machine.sleep(10.0)
    machine.run(1.0, turns=True)
    hung = [when for when, verdict in machine.run(2.5, turns=False) if verdict is Verdict.HUNG]
    assert hung[0] == pytest.approx(POLICY.hung_after, abs=2 * LOOK_S)


def test_at_rest_a_loop_that_beats_at_its_pace_is_fine() -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.rest()
    assert machine.pace == 0.5
    assert machine.run(100.0, turns=True) == []


def test_at_rest_a_loop_that_does_not_is_found_at_the_slow_pace() -> None:
    machine = Machine()
    machine.run(1.0, turns=True)
    machine.rest()
    machine.run(1.0, turns=True)
    found = machine.run(3.0, turns=False)
    assert found[0] == (pytest.approx(machine.pace + POLICY.stalled_after, abs=machine.pace), Verdict.STALLED)
    hung = [when for when, verdict in found if verdict is Verdict.HUNG]
    assert hung[0] == pytest.approx(POLICY.hung_after, abs=machine.pace + 0.1)


def test_an_old_beat_counts_as_soon_as_a_quicker_one_is_promised() -> None:
    health = Health(POLICY)
    health.see(0.5, 1000.0, 0.0)
    assert health.judge(1000.5, 0.0) is Verdict.FINE
    health.see(BEAT_S, 1000.0, 0.0)
    assert health.judge(1000.5, 0.0) is Verdict.STALLED


def test_a_loop_is_late_as_soon_as_a_stall_is_worth_a_report_and_for_as_long_as_it_lasts() -> None:
    health = Health(POLICY)
    health.see(BEAT_S, 1000.0, 0.0)
    assert not health.is_late(1000.0 + POLICY.stalled_after, 0.0)
    for _ in range(3):
        assert health.is_late(1000.01 + POLICY.stalled_after, 0.0)
    assert not health.is_late(1000.01 + POLICY.stalled_after, 0.1), "the supervisor did not run either"
    health.see(BEAT_S, 1001.0, 0.0)
    assert not health.is_late(1001.0, 0.0)


def test_a_nap_at_rest_is_nobodys_fault() -> None:
    machine = Machine()
    machine.rest()
    machine.run(1.0, turns=True)
    for seconds in (0.9 * machine.pace, 3600.0):
        machine.sleep(seconds, beat=True)
        assert machine.run(1.0, turns=True) == []


@pytest.mark.parametrize(("hung_after", "pace"), [(0.0, 1.0), (30.0, 1.0), (2.0, 0.5), (1.0, 0.25), (0.2, BEAT_S)])
def test_a_limit_that_is_short_allows_no_long_rest(hung_after: float, pace: float) -> None:
    assert HealthPolicy(hung_after=hung_after).pace == pace
