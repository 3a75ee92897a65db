"""Each rule of the fence by itself; test_owners has them together."""

from __future__ import annotations

import msgspec
import pytest

from clockworker.cluster._fence import VERSION, Alive, Fence
from clockworker.cluster._view import Node, View
from clockworker.shards.config._cluster import MIN_NODE_TIMEOUT

TIMEOUT = 5.0


def view_of(*names: str, previous: str = "", two_nodes: str = "both", incarnation: int = 1) -> View:
    nodes = {name: Node(slot, 1, incarnation) for slot, name in enumerate(names, 1)}
    before = {name: Node(slot, 1, 1) for slot, name in enumerate(previous, 1)}
    return View(64, two_nodes, len(names) + 1, before, nodes)  # type: ignore[arg-type]


def fence_of(name: str = "a", view: View | None = None, epoch: int = 7) -> Fence:
    fence = Fence(name, 1, TIMEOUT, 0.0)
    fence.adopt(view or view_of("a", "b", "c"), epoch, 0.0)
    return fence


def say(fence: Fence, at: float) -> Alive:
    """As it does, twice a second, until then."""
    while fence._said + 0.5 < at:
        fence.say(fence._said + 0.5)
    return fence.say(at)


class Other:
    """Another node, as it is heard."""

    def __init__(self, name: str, incarnation: int = 1, epoch: int = 7) -> None:
        self.name = name
        self.alive = Alive(VERSION, incarnation, epoch, 0, {}, [], False)

    def says(self, fence: Fence, at: float, confirms: int | None = None, **changes: object) -> None:
        heard = {} if confirms is None else {fence.name: (fence.incarnation, confirms)}
        self.alive = msgspec.structs.replace(self.alive, number=self.alive.number + 1, heard=heard, **changes)
        fence.heard(self.name, self.alive, at)


# Rule 1.


def test_who_is_confirmed_by_a_quorum_owns_until_the_fence_falls() -> None:
    fence, b = fence_of(), Other("b")
    assert not fence.owns(0.0)
    first = fence.say(10.0).number
    assert not fence.owns(10.0)
    b.says(fence, 11.0, confirms=first)
    assert fence.until(11.0) == pytest.approx(14.0)  # from when it was sent
    assert fence.owns(13.9)
    assert not fence.owns(14.0)


def test_a_later_confirmation_counts_from_its_own_number() -> None:
    fence, b, c = fence_of(), Other("b"), Other("c")
    first, second = fence.say(10.0).number, fence.say(12.0).number
    c.says(fence, 12.5, confirms=second)
    b.says(fence, 12.6, confirms=first)
    assert fence.until(12.6) == pytest.approx(16.0)


def test_of_five_two_others_have_to_confirm() -> None:
    fence = fence_of(view=view_of(*"abcde"))
    numbers = [fence.say(at).number for at in (10.0, 11.0)]
    Other("b").says(fence, 12.0, confirms=numbers[1])
    assert not fence.owns(12.0)
    Other("c").says(fence, 12.0, confirms=numbers[0])
    assert fence.until(12.0) == pytest.approx(14.0)


@pytest.mark.parametrize(
    "other",
    [Other("b", epoch=6), Other("b", epoch=8), Other("b", incarnation=2), Other("d")],
    ids=["an epoch before", "an epoch after", "its successor", "a stranger"],
)
def test_who_does_not_confirm(other: Other) -> None:
    fence = fence_of()
    other.says(fence, 10.1, confirms=fence.say(10.0).number)
    assert not fence.owns(10.1)


def test_a_confirmation_of_the_process_before_us_is_none() -> None:
    fence, b = fence_of(), Other("b")
    number = fence.say(10.0).number
    b.alive = msgspec.structs.replace(b.alive, number=1, heard={"a": (2, number)})
    fence.heard("b", b.alive, 10.1)
    assert not fence.owns(10.1)


def test_who_is_not_in_the_view_owns_nothing() -> None:
    for view in (view_of("b", "c"), view_of("a", "b", "c", incarnation=2)):
        fence = fence_of(view=view)
        Other("b", incarnation=view.nodes["b"].incarnation).says(fence, 10.1, confirms=fence.say(10.0).number)
        assert fence.until(10.1) == 0.0


def test_one_alone_confirms_itself() -> None:
    fence = fence_of(view=view_of("a"))
    assert fence.until(3.0) == pytest.approx(7.0)


def test_of_two_the_lower_is_enough_if_that_was_chosen() -> None:
    both = fence_of(view=view_of("a", "b"))
    assert not both.owns(1.0)
    assert fence_of(view=view_of("a", "b", two_nodes="lowest")).owns(1.0)
    higher = fence_of("b", view_of("a", "b", two_nodes="lowest"))
    assert not higher.owns(1.0)
    Other("a").says(higher, 1.1, confirms=higher.say(1.0).number)
    assert higher.owns(1.2)


# Rule 2.


def test_a_quorum_has_to_say_that_it_is_silent() -> None:
    fence, b = fence_of(), Other("b")
    Other("c").says(fence, 1.0, confirms=say(fence, 1.0).number)
    b.says(fence, 5.9, confirms=say(fence, 5.9).number)
    assert say(fence, 5.9).silent == []
    assert say(fence, 6.0).silent == ["c"]
    b.says(fence, 6.0, confirms=say(fence, 6.0).number)
    assert fence.dead(6.0) == []
    b.says(fence, 6.1, confirms=say(fence, 6.0).number, silent=["c"])
    assert fence.dead(6.1) == ["c"]


def test_who_does_not_hear_us_is_silent_too() -> None:
    fence, c = fence_of(), Other("c")
    c.says(fence, 1.0, confirms=say(fence, 1.0).number)
    c.says(fence, 6.0, confirms=1)
    assert say(fence, 6.0).silent == ["b", "c"]


def test_its_word_has_to_be_of_late_and_of_our_epoch() -> None:
    fence, b = fence_of(view=view_of(*"abcde")), Other("b")
    others = [Other("c"), Other("d")]
    for other in others:
        other.says(fence, 8.0, confirms=say(fence, 8.0).number)
    b.says(fence, 3.9, silent=["e"])
    others[0].says(fence, 8.0, confirms=say(fence, 8.0).number, silent=["e"])
    assert fence.owns(8.0)
    assert fence.dead(8.0) == []  # that of b is four seconds old
    b.says(fence, 8.0, silent=["e"], epoch=6)
    assert fence.dead(8.0) == []
    b.says(fence, 8.0, silent=["e"], epoch=7)
    assert fence.dead(8.0) == ["e"]


def test_who_is_not_confirmed_writes_out_nobody() -> None:
    fence, b = fence_of(), Other("b")
    b.says(fence, 8.0, silent=["c"])
    assert "c" in say(fence, 8.0).silent
    assert fence.dead(8.0) == []


def test_silence_counts_while_we_listen() -> None:
    fence = fence_of()
    say(fence, 10.0)
    fence.listens(10.0)
    assert say(fence, 14.9).silent == []
    assert say(fence, 15.0).silent == ["b", "c"]
    assert fence.say(18.0).silent == []  # we stood still for three seconds


def test_who_has_just_joined_is_not_silent_yet() -> None:
    fence = fence_of(view=view_of("a", "b"))
    say(fence, 100.0)
    fence.adopt(view_of("a", "b", "c"), 8, 100.0)
    assert say(fence, 104.9).silent == ["b"]
    assert say(fence, 105.0).silent == ["b", "c"]


# Rule 3.


def test_a_view_is_settled_when_all_of_the_view_before_are_there() -> None:
    fence = fence_of(view=view_of("a", "b", previous="abc"))
    assert not fence.is_settled(0.0)
    Other("b").says(fence, 1.0)
    assert not fence.is_settled(1.0)
    Other("c", epoch=6).says(fence, 1.1)
    assert not fence.is_settled(1.1)
    Other("c", epoch=7).says(fence, 1.2)  # it counts, though it is not in the view
    assert not fence.is_settled(1.2)  # what a process says late is not heard: the number is the same
    later = Other("c", epoch=7)
    later.says(fence, 1.2)
    later.says(fence, 1.3)
    assert fence.is_settled(1.3)


def test_or_when_a_quorum_is_and_node_timeout_has_passed() -> None:
    fence = fence_of(view=view_of("a", "b", previous="abc"))
    Other("b").says(fence, 1.0)
    assert fence.settles_at() == pytest.approx(6.0)
    assert not fence.is_settled(5.9)
    assert fence.is_settled(6.0)
    assert fence.is_settled(0.0)  # for ever


def test_without_a_quorum_it_never_is() -> None:
    fence = fence_of(view=view_of("a", previous="abc"))
    assert not fence.is_settled(1e6)


def test_the_first_view_is() -> None:
    assert fence_of(view=view_of("a")).is_settled(0.0)


@pytest.mark.parametrize("changes", [{"settled": True}, {"epoch": 8}])
def test_whoever_knows_that_it_is_says_so(changes: dict[str, object]) -> None:
    fence = fence_of(view=view_of("a", previous="abc"))
    Other("d").says(fence, 1.0, **changes)
    assert fence.is_settled(1.0)


def test_that_an_older_view_is_settled_says_nothing() -> None:
    fence = fence_of(view=view_of("a", previous="abc"))
    Other("d", epoch=6).says(fence, 1.0, settled=True)
    assert not fence.is_settled(1.0)


def test_a_successor_counts_once_the_one_before_it_is_silent() -> None:
    fence = fence_of(view=view_of("a", "b", previous="ab"))  # of two a quorum is both
    old, new = Other("b", epoch=6), Other("b", incarnation=2)
    old.says(fence, 2.0)
    new.says(fence, 2.1)
    assert not fence.is_settled(2.1)
    new.says(fence, 6.9)
    assert not fence.is_settled(6.9)
    new.says(fence, 7.1)
    assert fence.is_settled(7.1)


def test_nobody_is_written_out_of_a_view_that_is_not_settled() -> None:
    fence, b = fence_of(view=view_of("a", "b", "c", previous="abcd")), Other("b")
    b.says(fence, 8.0, confirms=say(fence, 8.0).number, silent=["c"])
    assert fence.owns(8.0)
    assert fence.dead(8.0) == []


# What comes late, or twice.


# Rule 4.


def alone(lineage: int = 5) -> Fence:
    fence = fence_of(view=msgspec.structs.replace(view_of("a"), lineage=lineage))
    assert fence.owns(1.0)
    return fence


@pytest.mark.parametrize(("epoch", "lineage"), [(8, 4), (8, 6), (7, 6)])
def test_a_higher_one_of_another_lineage_is_yielded_to_until_it_is_forgotten(epoch: int, lineage: int) -> None:
    fence = alone()
    Other("b").says(fence, 1.0, epoch=epoch, lineage=lineage)
    assert not fence.owns(1.0)
    assert fence.yields_to(1.0) == epoch
    assert fence.say(1.0).heard == {}  # and confirms nobody
    assert not fence.owns(1.0 + 4 * TIMEOUT)
    assert fence.owns(1.1 + 4 * TIMEOUT)
    assert fence.say(1.1 + 4 * TIMEOUT).lineage == 5


@pytest.mark.parametrize(("epoch", "lineage"), [(6, 6), (7, 4), (7, 5), (8, 5), (8, 0)])
def test_a_lower_one_and_one_of_our_own_or_of_none_are_not(epoch: int, lineage: int) -> None:
    fence = alone()
    Other("b").says(fence, 1.0, epoch=epoch, lineage=lineage)
    assert fence.owns(1.0)


def test_who_misses_a_later_view_of_its_own_in_the_store_yields() -> None:
    fence = alone()
    fence.misses(8)
    assert not fence.owns(1.0)
    fence.misses(7)
    assert fence.owns(1.0)
    fence.misses(8)
    fence.misses(0)
    assert fence.owns(1.0)


def test_another_lineage_confirms_nobody_and_settles_nothing() -> None:
    """At the same epoch, lower: it is what its own view says."""
    nodes = msgspec.structs.replace(view_of("a", "b", previous="b"), lineage=5)
    fence, b = fence_of(view=nodes), Other("b")
    b.says(fence, 1.0, confirms=fence.say(1.0).number, lineage=4, settled=True)
    assert not fence.owns(1.0)
    assert not fence.is_settled(1.0)
    b.says(fence, 1.1, confirms=fence.say(1.1).number, lineage=5)
    assert fence.owns(1.1)
    assert fence.is_settled(1.1)


def test_a_view_of_the_same_epoch_is_news_if_its_lineage_is_higher() -> None:
    fence = alone()
    fence.adopt(msgspec.structs.replace(view_of("b"), lineage=4), 7, 2.0)
    assert fence.lineage == 5
    fence.adopt(msgspec.structs.replace(view_of("b"), lineage=6), 7, 2.0)
    assert fence.lineage == 6
    assert not fence.owns(2.0)


def test_what_comes_late_is_not_heard() -> None:
    fence = fence_of()
    number = fence.say(10.0).number
    newer = Alive(VERSION, 1, 7, 5, {}, [], False)
    fence.heard("b", newer, 10.2)
    fence.heard("b", msgspec.structs.replace(newer, number=4, heard={"a": (1, number)}), 10.3)
    assert not fence.owns(10.3)


def test_an_older_view_is_passed_over() -> None:
    fence = fence_of()
    fence.adopt(view_of("b"), 6, 1.0)
    assert fence.epoch == 7
    assert fence.view is not None
    assert "a" in fence.view.nodes


def test_a_name_that_is_heard_is_taken() -> None:
    fence = fence_of()
    assert not fence.may_replace(1.0)  # we have not listened for long
    assert fence.may_replace(5.0)
    Other("a", incarnation=9).says(fence, 5.0)
    assert fence.is_heard(9.9)
    assert not fence.may_replace(9.9)
    assert fence.may_replace(10.0)


# Beats.


@pytest.mark.parametrize("node_timeout", [MIN_NODE_TIMEOUT, 3.0, 5.0, 60.0])
def test_a_process_may_stand_still_for_half_of_node_timeout(node_timeout: float) -> None:
    """Whenever that begins between its own beats and the other's; it and all whom it needs are else in time."""
    for offset in (0.0, 0.3, 0.6, 0.9):
        a, b = (Fence(name, 1, node_timeout, 0.0) for name in "ab")
        for fence in (a, b):
            fence.adopt(view_of("a", "b"), 7, 0.0)
        turns = [(number * a.beat_s, a, b) for number in range(40)]
        turns += [((number + offset) * b.beat_s, b, a) for number in range(40)]
        stops, goes_on = 20.1 * a.beat_s, 20.1 * a.beat_s + node_timeout / 2
        for at, fence, other in sorted(turns, key=lambda turn: turn[0]):
            if fence is a and stops < at < goes_on:
                continue
            if at > 4 * a.beat_s:
                assert a.owns(at)
            other.heard(fence.name, fence.say(at), at)
