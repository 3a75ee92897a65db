"""Credit by itself; `test_link` has it at work."""

from __future__ import annotations

import pytest
from ends import Ends
from probe import Probe

from clockworker.ipc.calls._call_cy import Call, new_call
from clockworker.ipc.calls._chain_cy import DEEPEST
from clockworker.ipc.calls._credit_cy import Credit, Debts
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.rings._ring_cy import PoisonedRing


def test_each_queue_has_a_lane_of_its_own() -> None:
    credit = Credit(3)
    lanes = [credit.lane(queue, 0) for queue in (7, 8, 7)]
    assert lanes[0] is lanes[2] is not lanes[1]
    assert {queue: (lane.queue, lane.credit) for queue, lane in credit.lanes.items()} == {7: (7, 3), 8: (8, 3)}


def test_a_peer_gives_back_no_more_than_it_was_sent() -> None:
    credit = Credit(3)
    lane = credit.lane(7, 0)
    for queue, count in ((7, 1), (8, 0)):
        with pytest.raises(PoisonedRing, match=f"credit for {count} requests that were not sent"):
            credit.lane_of_done(queue, 0, count)
    assert credit.lane_of_done(7, 0, 0) is lane


def test_who_waited_is_told_of_once() -> None:
    ends = Ends()
    credit = Credit(1)
    calls: list[Call] = [
        new_call(ends.link, Kind.REQUEST, remote_methods(Probe)["echo"], (b"",), 0, False) for _ in range(3)
    ]
    for call, queue in zip(calls, (7, 8, 7), strict=True):
        credit.lane(queue, 0).waiting[call] = 1
    assert credit.clear() == [calls[0], calls[2], calls[1]]
    assert credit.clear() == []
    assert not credit.lane(7, 0).waiting
    ends.close()


def test_debts_are_paid_a_quarter_of_the_limit_at_a_time_and_by_queue() -> None:
    debts = Debts(12)
    assert [debts.add(queue) for queue in (7, 8, 7, 7, 8, 8, 7)] == [0, 0, 0, 3, 0, 3, 0]
    assert [Debts(1).add(7), Debts(3).add(7)] == [1, 1]


def test_each_depth_has_a_lane_of_its_own() -> None:
    credit = Credit(3)
    lanes = [credit.lane(7, depth) for depth in (0, 1, DEEPEST, 1)]
    assert lanes[1] is lanes[3]
    assert len({id(lane) for lane in lanes}) == 3
    assert [(lane.queue, lane.depth) for lane in credit.lanes.values()] == [(7, 0), (7, 1), (7, DEEPEST)]
    with pytest.raises(PoisonedRing):
        credit.lane_of_done(7, 2, 0)


def test_debts_to_a_peer_that_names_ever_new_lanes_are_bounded() -> None:
    debts = Debts(1_000)
    assert {debts.add(queue) for queue in range(1_024)} == {0}
    assert {debts.add(queue) for queue in range(10_000, 50_000)} == {1}, "paid at once, and forgotten"
    assert [debts.add(5) for _ in range(250)][-2:] == [250, 0], "those that were there are as before"
