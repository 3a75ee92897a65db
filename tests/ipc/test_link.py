"""Calls in flight and calls that wait, with both ends of the rings in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ends import Ends
from probe import Probe

import clockworker as cw
from clockworker.ipc.calls._call_cy import Call, new_call
from clockworker.ipc.calls._chain_cy import CHAIN, DEEPEST, Chain, unpack_envelope
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._frames import ENVELOPE, Kind
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.rings._connection_cy import Connection
from clockworker.ipc.rings._ring_cy import PoisonedRing

METHOD = remote_methods(Probe)["echo"]


def submit(ends: Ends, kind: Kind = Kind.REQUEST, *, nowait: bool = False, timeout_ns: int = 0) -> Call:
    return start(ends.link, kind, nowait, timeout_ns)


def start(link: Link, kind: Kind = Kind.REQUEST, nowait: bool = False, timeout_ns: int = 0) -> Call:
    call = new_call(link, kind, METHOD, (b"",), timeout_ns, nowait)
    call.start()
    return call


def waiting(ends: Ends) -> list[Call]:
    return list(ends.link.credit.lanes[0].waiting)


def numbers(ends: Ends) -> list[int]:
    return [number for _, number, _ in ends.received()]


def test_credit_is_handed_on_in_order() -> None:
    ends = Ends(credit=2)
    calls = [submit(ends) for _ in range(10)]
    for served in range(10):
        assert waiting(ends) == calls[served + 2 :]
        assert list(ends.link.pending.values()) == calls[served : served + 2]
        assert ends.link.settle(calls[served].number) is calls[served]
    assert ends.link.settle(calls[0].number) is None
    assert ends.link.credit_waits == 8
    assert ends.link.credit.lanes[0].credit == 2
    assert numbers(ends) == list(range(1, 11))
    ends.close()


def test_nobody_overtakes_a_call_that_waits_for_credit() -> None:
    ends = Ends(credit=1)
    first, second = submit(ends), submit(ends)
    ends.link.settle(first.number)
    third = submit(ends)
    assert waiting(ends) == [third]
    ends.link.disconnect("over")
    assert isinstance(second.error, cw.ShardDied)
    assert isinstance(third.error, cw.ShardDown)
    ends.close()


def test_a_call_that_will_not_wait() -> None:
    ends = Ends(credit=1)
    submit(ends, nowait=True)
    for kind in (Kind.REQUEST, Kind.ONE_WAY):
        with pytest.raises(cw.ChannelFull, match=r"1 calls are in flight to shard 1 in this queue.*Probe.echo was not"):
            submit(ends, kind, nowait=True)
    assert numbers(ends) == [1]
    ends.close()


def test_calls_wait_while_a_rings_worth_waits_for_room() -> None:
    ends = Ends(credit=1_000)
    body = bytes(500)
    calls = [new_call(ends.link, Kind.ONE_WAY, METHOD, (body,), 0, False) for _ in range(100)]
    for call in calls:
        call.start()
    assert ends.capacity < sum(500 for call in calls if call.done()) < 3 * ends.capacity
    assert not calls[-1].done()
    with pytest.raises(cw.ChannelFull, match=r"4,\d{3} bytes wait for room on the way to shard 1; Probe.echo was not"):
        submit(ends, nowait=True)
    came: list[int] = []
    while len(came) < 100:
        ends.ring.flush()
        came += numbers(ends)
        assert len(ends.ring.backlog) * 500 < 2 * ends.capacity
    assert came == list(range(1, 101))
    assert all(call.done() for call in calls)
    assert not waiting(ends)
    assert submit(ends, nowait=True).number == 101
    ends.close()


def test_calls_that_wait_for_room_end_with_their_peer() -> None:
    ends = Ends(credit=1_000)
    calls = [new_call(ends.link, Kind.REQUEST, METHOD, (bytes(900),), 0, False) for _ in range(20)]
    for call in calls:
        call.start()
    ends.link.disconnect("over")
    assert {type(call.error) for call in calls} == {cw.ShardDied, cw.ShardDown}
    ends.connect(2)
    assert submit(ends, nowait=True).error is None
    ends.close()


def test_credit_of_one_way_requests_comes_back_many_at_a_time() -> None:
    ends = Ends(credit=8)
    calls = [submit(ends, Kind.ONE_WAY) for _ in range(20)]
    assert [call.done() for call in calls] == [True] * 8 + [False] * 12
    assert not ends.link.pending
    ends.link.give_back(0, 0, 5)
    assert [call.done() for call in calls] == [True] * 13 + [False] * 7
    with pytest.raises(PoisonedRing, match="credit for 9 requests that were not sent"):
        ends.link.give_back(0, 0, 9)
    with pytest.raises(PoisonedRing, match="credit for 1 requests"):
        ends.link.give_back(5, 0, 1)  # a queue into which nothing was sent
    ends.close()


def test_what_is_owed_for_one_way_requests_is_given_back_a_quarter_at_a_time() -> None:
    ends = Ends(credit=8)
    for _ in range(5):
        ends.link.owe(1, 7)
    ends.link.owe(0, 7)  # of an incarnation that is gone
    assert ends.received() == [(Kind.CREDIT, 2, b"")] * 2
    ends.close()


def test_a_caller_that_leaves_before_its_turn_uses_no_credit_and_no_memory() -> None:
    ends = Ends(credit=1)
    first, second, third = submit(ends), submit(ends), submit(ends)
    assert second.cancel()
    assert not second.cancel()
    assert waiting(ends) == [third]
    ends.link.settle(first.number)
    assert ends.link.pending == {2: third}
    ends.close()


def test_a_caller_that_leaves_in_flight_has_its_credit_until_it_is_answered() -> None:
    ends = Ends(credit=1)
    first, second = submit(ends), submit(ends)
    first.cancel()
    assert waiting(ends) == [second]
    assert ends.received() == [(Kind.REQUEST, 1, b"\x91\xc4\x00"), (Kind.CANCEL, 1, b"")]
    assert ends.link.settle(1) is first
    assert numbers(ends) == [2]
    ends.close()


def test_credit_of_an_incarnation_ends_with_it() -> None:
    ends = Ends(credit=1)
    old, second = submit(ends), submit(ends)
    ends.link.disconnect("over")
    for end in (ends.peer, ends.answers, ends.bell):
        end.close()
    ends.connect(2)
    assert isinstance(old.error, cw.ShardDied)
    assert isinstance(second.error, cw.ShardDown)
    assert ends.link.settle(old.number) is None
    assert not ends.link.credit.lanes
    assert submit(ends, nowait=True).error is None, "all of the credit is there again"
    ends.close()


def test_disconnecting_ends_everything() -> None:
    ends = Ends(credit=1)
    sent, second = submit(ends), submit(ends)
    ends.close()
    with pytest.raises(cw.ShardDied, match=r"over with Probe.echo in flight; it may have run or not"):
        sent.conclude()
    with pytest.raises(cw.ShardDown):
        second.conclude()
    with pytest.raises(cw.ShardDown):
        submit(ends)
    assert not ends.link.pending


def test_deadlines_are_forgotten_with_their_calls() -> None:
    ends = Ends(credit=4)
    for _ in range(1_000):
        call = submit(ends, timeout_ns=10**12)
        ends.link.settle(call.number)
        call.finish(Kind.REPLY, b"\xc4\x00")
        ends.received()
    assert len(ends.shared.deadlines) < 200
    ends.close()


def test_only_a_call_with_a_deadline_has_an_envelope() -> None:
    ends = Ends()
    submit(ends)
    submit(ends, timeout_ns=10**12)
    (plain, _, body), (timed, _, enveloped) = ends.received()
    assert (plain, timed) == (Kind.REQUEST, Kind.REQUEST | ENVELOPE)
    assert enveloped.endswith(body)
    assert len(enveloped) == len(body) + 11
    ends.close()


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "many"])
@pytest.mark.parametrize("name", ["credit", "max_message", "streams", "window", "window_bytes"])
def test_limits_that_are_none(name: str, wrong: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=f"{name} is .*; it must be a whole number from 1 to"):
        Limits(**{name: wrong})


# Whatever the connection is.


class Wire(Connection):
    """One that is no ring: what is sent is there to be seen."""

    def __init__(self, peer: int) -> None:
        super().__init__(peer)
        self.sent: list[tuple[int, int, bytes]] = []
        self.soon = 0

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        self.sent.append((kind, call, body))

    def send_soon(self) -> None:
        self.soon += 1

    def close(self) -> None:
        self.connected = False


def test_a_link_over_a_connection_that_is_no_ring() -> None:
    ends = Ends()
    wire = Wire(5)
    link = Link(wire, ends.shared)
    with pytest.raises(cw.ShardDown, match="shard 5 is down"):
        start(link)
    wire.connected, wire.epoch = True, 7
    calls = [start(link) for _ in range(2)]
    assert wire.sent == [(Kind.REQUEST, 1, b"\x91\xc4\x00"), (Kind.REQUEST, 2, b"\x91\xc4\x00")]
    assert wire.soon == 2
    wire.crowded = True
    later = start(link)
    link.settle(1)
    assert len(wire.sent) == 2, "nothing is sent while it is crowded, though there is credit"
    wire.crowded = False
    wire.relieved()
    assert [number for _, number, _ in wire.sent] == [1, 2, 3]
    link.answer(6, 1, Kind.REPLY, b"")
    link.owe(6, 0)
    assert len(wire.sent) == 3, "that was for an earlier incarnation"
    calls[1].cancel()
    assert wire.sent[3:] == [(Kind.CANCEL, 2, b"")]
    wire.broken(PoisonedRing("nonsense"))
    assert [type(error) for error in ends.broken] == [PoisonedRing]
    link.disconnect("it has gone")
    assert isinstance(later.error, cw.ShardDied)
    assert not wire.connected
    ends.close()


# While the peer is replaced.


@contextmanager
def asked_by(link: Link) -> Iterator[Chain]:
    """While a request is served that has come over this link."""
    chain = Chain(1, 0, link)
    token = CHAIN.set(chain)
    try:
        yield chain
    finally:
        CHAIN.reset(token)


def test_before_the_change_calls_go_to_the_old_incarnation_and_after_it_to_the_new() -> None:
    ends = Ends(credit=2)
    new = ends.successor()
    told: list[str] = []
    before = submit(ends)
    ends.link.change(lambda: told.append("quiet"))
    after = submit(ends), submit(ends, nowait=True)
    assert submit(ends, Kind.ONE_WAY).done() is False
    assert numbers(ends) == [before.number] == [1]
    assert numbers(new) == [1, 2]
    assert [call.channel is new.link for call in (before, *after)] == [False, True, True]
    assert told == []
    assert ends.link.settle(before.number) is before
    assert told == ["quiet"]
    assert new.link.settle(2) is after[1]
    assert numbers(new) == [3], "what waited for credit at the new one"
    new.close()
    ends.close()


def test_what_waits_for_credit_at_the_change_is_for_the_new_one_in_order() -> None:
    ends = Ends(credit=1)
    new = ends.successor()
    first, second, third, fourth = [submit(ends) for _ in range(4)]
    second.cancel()
    ends.link.change(lambda: None)
    assert not waiting(ends)
    assert waiting(new) == [fourth]
    assert third.number == 1
    assert third.channel is fourth.channel is new.link
    fourth.cancel()
    assert not waiting(new)
    ends.link.disconnect("the old one has gone")
    assert isinstance(first.error, cw.ShardDied)
    assert third.error is None
    assert submit(ends).channel is new.link
    new.close()
    ends.close()


def test_where_nothing_is_in_flight_it_is_quiet_at_once() -> None:
    ends = Ends()
    new = ends.successor()
    told: list[str] = []
    ends.link.change(lambda: told.append("quiet"))
    assert told == ["quiet"]
    new.close()
    ends.close()


def test_a_call_made_while_serving_goes_to_the_incarnation_that_asked() -> None:
    ends = Ends()
    new = ends.successor()
    with asked_by(new.link):
        assert submit(ends).channel is new.link
        assert ends.link.post(METHOD, (b"",)) is not None, "its way is to be looked for"
    assert submit(ends).channel is ends.link
    ends.link.change(lambda: None)
    with asked_by(ends.link) as chain:
        assert submit(ends).channel is ends.link
        with cw.deadline(5):
            assert submit(ends).channel is ends.link
        chain.ended = True
        assert submit(ends).channel is new.link
        with cw.deadline(5):
            assert submit(ends).channel is new.link
    assert submit(ends).channel is new.link
    new.close()
    ends.close()


def test_at_the_next_replacement_the_two_links_change_parts() -> None:
    ends = Ends()
    new = ends.successor()
    ends.link.change(lambda: None)
    ends.link.disconnect("the old one has gone")
    ends.connect(3)
    assert submit(ends).channel is new.link
    ends.link.change(lambda: None)
    assert submit(ends).channel is ends.link
    new.link.disconnect("it has gone, too")
    ends.link.look_for_split()
    assert submit(ends).channel is ends.link
    assert ends.link.post(METHOD, (b"",)) is None, "there is one way only"
    new.close()
    ends.close()


def test_a_successor_that_fails_leaves_nothing() -> None:
    ends = Ends()
    new = ends.successor()
    with asked_by(new.link):
        call = submit(ends)
    new.link.disconnect("it has failed")
    ends.link.look_for_split()
    assert isinstance(call.error, cw.ShardDied)
    assert submit(ends).channel is ends.link
    new.close()
    ends.close()


@contextmanager
def within(depth: int) -> Iterator[Chain]:
    """Part of so many others."""
    chain = Chain(depth)
    token = CHAIN.set(chain)
    try:
        yield chain
    finally:
        CHAIN.reset(token)


def test_a_call_within_another_does_not_wait_for_the_credit_of_those_above() -> None:
    ends = Ends(credit=1)
    above = [submit(ends), submit(ends)]
    with within(1):
        inner = [submit(ends), submit(ends, Kind.ONE_WAY)]
    assert [call.done() for call in above + inner] == [False] * 4
    frames = ends.received()
    assert [(kind, number) for kind, number, _ in frames] == [(Kind.REQUEST, 1), (Kind.REQUEST | ENVELOPE, 2)]
    _, _, depth, _ = unpack_envelope(frames[1][2])
    assert depth == 1
    assert {lane.depth: len(lane.waiting) for lane in ends.link.credit.lanes.values()} == {0: 1, 1: 1}
    ends.link.settle(2)
    assert inner[1].done()
    with pytest.raises(PoisonedRing):
        ends.link.give_back(0, 2, 1)
    ends.link.give_back(0, 1, 1)
    ends.close()


def test_nobody_waits_at_the_greatest_depth() -> None:
    ends = Ends(credit=2)
    with within(DEEPEST):
        calls = [submit(ends), submit(ends)]
        for kind in (Kind.REQUEST, Kind.ONE_WAY):
            with pytest.raises(cw.ChannelFull, match=f"at depth {DEEPEST} .*within {DEEPEST} others or more"):
                submit(ends, kind)
        ends.link.settle(calls[0].number)
        submit(ends)
    assert not any(lane.waiting for lane in ends.link.credit.lanes.values())
    ends.close()


@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("how", ["settle", "flush", "give_back"])
def test_a_ring_that_is_found_broken_while_waiting_calls_are_sent(how: str, nowait: bool) -> None:
    """Each call ends once, and nothing is left of any."""
    ends = Ends(credit=3)
    ends.drops_broken = True
    kind = Kind.ONE_WAY if how == "give_back" else Kind.REQUEST
    calls = [new_call(ends.link, kind, METHOD, (bytes(900),), 10**12 if nowait else 0, False) for _ in range(12)]
    for call in calls:
        call.start()
    ends.break_ring()
    match how:
        case "settle":
            while ends.ring.connected:
                answered = ends.link.settle(next(iter(ends.link.pending)))
                assert answered is not None
                if not answered.done():
                    answered.finish(Kind.REPLY, b"\xc4\x00")
        case "give_back":
            ends.link.give_back(0, 0, 3)
        case "flush":
            ends.ring.mark_dirty()
            ends.ring.flush()
    ends.link.disconnect("over")
    assert not ends.link.pending
    assert not ends.link.credit.lanes
    assert all(call.done() for call in calls)
    assert {type(call.error) for call in calls} <= {cw.ShardDied, cw.ShardDown, type(None)}
    assert ends.link.streams == 0
    ends.close()


class Served:
    def cancel(self) -> None:
        raise ValueError("a future of the application's")


def test_all_calls_of_a_peer_are_aborted_though_one_does_not_let_itself_be() -> None:
    ends = Ends()
    told: list[Any] = []
    ends.loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    class Other:
        def cancel(self) -> None:
            told.append("cancelled")

    ends.link.serving.update({1: Served(), 2: Other()})
    ends.link.disconnect("over")
    assert [type(each) for each in told] == [ValueError, str]
    ends.close()


@pytest.mark.parametrize(("body", "error"), [(b"", cw.ShardDown), (b"\1", cw.ShardDied)])
def test_a_shard_that_is_leaving_says_so(body: bytes, error: type[Exception]) -> None:
    ends = Ends()
    call = submit(ends)
    assert ends.link.settle(call.number) is call
    call.finish(Kind.LEAVING, body)
    with pytest.raises(error, match="shard 1 is leaving"):
        call.conclude()
    ends.close()


@pytest.mark.parametrize("name", ["credit", "max_message", "streams", "window", "window_bytes"])
def test_limits_that_no_word_holds(name: str) -> None:
    with pytest.raises(cw.ConfigurationError, match=f"{name} is 1{'0' * 20}; it must be a whole number from 1 to"):
        Limits(**{name: 10**20})


# While the peer hands over its state.


def test_calls_to_a_suspended_peer_wait_and_go_to_its_successor_in_order() -> None:
    ends = Ends(credit=4)
    new = ends.successor()
    before = submit(ends)
    ends.link.suspend()
    held = [submit(ends), submit(ends, Kind.ONE_WAY), submit(ends, nowait=True), submit(ends)]
    assert not any(call.done() for call in held)
    assert numbers(ends) == [1]
    assert waiting(ends) == held
    ends.link.settle(before.number)
    assert numbers(ends) == []
    ends.link.change(lambda: None)
    assert [kind for kind, _, _ in new.received()] == [Kind.REQUEST, Kind.ONE_WAY, Kind.REQUEST, Kind.REQUEST]
    assert not ends.link.holding
    assert not new.link.holding
    new.close()
    ends.close()


def test_calls_to_a_suspended_peer_go_to_itself_if_it_stays() -> None:
    ends = Ends(credit=2)
    ends.link.suspend()
    held = [submit(ends) for _ in range(3)]
    with pytest.raises(cw.ChannelFull):
        submit(ends, nowait=True)
    ends.link.resume()
    assert numbers(ends) == [1, 2]
    assert waiting(ends) == held[2:]
    ends.link.resume()
    assert numbers(ends) == []
    ends.close()


def test_of_calls_to_a_suspended_peer_those_made_within_others_go_when_it_is_said_again() -> None:
    ends = Ends(credit=4)
    ends.link.suspend()
    shallow = submit(ends)
    token = CHAIN.set(Chain(1))
    deep = submit(ends)
    CHAIN.reset(token)
    assert numbers(ends) == []
    ends.link.suspend()
    assert numbers(ends) == [deep.number]
    assert waiting(ends) == [shallow]
    later = submit(ends)
    assert waiting(ends) == [shallow, later]
    ends.close()


def test_a_suspended_peer_that_dies_leaves_nobody_waiting() -> None:
    ends = Ends()
    ends.link.suspend()
    held = submit(ends)
    ends.link.disconnect("shard 1 died")
    assert isinstance(held.error, cw.ShardDown)
    ends.connect(2)
    assert submit(ends).number == 1
    ends.link.disconnect("over")
    ends.link.suspend()
    with pytest.raises(cw.ShardDown):
        submit(ends)
    ends.close()
