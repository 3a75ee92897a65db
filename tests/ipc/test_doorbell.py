from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clockworker as cw
from clockworker import ipc
from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer


class Bell:
    """A doorbell of a mesh of four, the shard's own end, and those of the peers 1 and 3."""

    def __init__(self) -> None:
        self.memory, self.eventfd = ipc.create_doorbell(4)
        self.own = Doorbell(self.memory, self.eventfd)
        self.one = PeerDoorbell(self.memory, os.dup(self.eventfd), 1)
        self.three = PeerDoorbell(self.memory, os.dup(self.eventfd), 3)

    def rung(self) -> int:
        try:
            return os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        for end in (self.own, self.one, self.three):
            end.close()
        os.close(self.memory)
        os.close(self.eventfd)


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def test_descriptors_are_close_on_exec() -> None:
    for descriptor in ipc.create_doorbell(2):
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_a_shard_that_is_awake_is_not_rung_for(bell: Bell) -> None:
    assert not bell.one.announce()
    assert bell.rung() == 0
    assert bell.own.has_news()
    assert bell.own.news() == [1]


def test_news_names_each_that_flushed_once(bell: Bell) -> None:
    assert bell.own.news() is None
    bell.three.announce()
    bell.one.announce()
    bell.one.announce()
    assert bell.own.news() == [1, 3]
    assert bell.own.news() is None
    bell.three.announce()
    assert bell.own.news() == [3]


def test_a_sleeper_is_rung_for_once_a_sleep_by_each(bell: Bell) -> None:
    assert bell.own.sleep()
    assert bell.own.asleep()
    assert bell.one.announce()
    assert not bell.one.announce()
    assert bell.three.announce()
    assert bell.rung() == 2
    bell.own.wake()
    bell.own.wake()
    assert not bell.own.asleep()
    assert bell.own.news() == [1, 3]
    assert bell.own.sleep()
    assert bell.one.announce()


def test_sleep_is_refused_while_there_is_news(bell: Bell) -> None:
    bell.one.announce()
    assert not bell.own.sleep()
    assert not bell.own.asleep()
    bell.own.news()
    assert bell.own.sleep()


def test_a_new_incarnation_of_a_peer_counts_on(bell: Bell) -> None:
    for _ in range(3):
        bell.one.announce()
    assert bell.own.news() == [1]
    again = PeerDoorbell(bell.memory, os.dup(bell.eventfd), 1)
    assert bell.own.sleep()
    assert again.announce()
    assert bell.own.news() == [1]
    again.close()


def test_a_new_owner_starts_awake_or_wakes(bell: Bell) -> None:
    bell.one.announce()
    owner = Doorbell(bell.memory, bell.eventfd)
    assert owner.news() == [1]
    owner.close()


def test_the_second_word_of_a_shard_is_looked_at_once_it_is_used(bell: Bell) -> None:
    """Two incarnations of shard 1, each with its word."""
    successor = PeerDoorbell(bell.memory, os.dup(bell.eventfd), 4 + 1)
    successor.announce()
    assert bell.own.news() is None
    bell.own.listen(4 + 1)
    assert bell.own.has_news()
    assert bell.own.news() == [5]
    assert not bell.own.has_news()
    assert bell.own.sleep()
    assert successor.announce()
    assert bell.rung() == 1
    bell.one.announce()
    bell.own.wake()
    assert bell.own.news() == [1, 5]
    successor.close()


# Ringing ahead


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bell]:
    """The shard is tied to core 0, its peers to core 1."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    bell = Bell()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1})
    for end in (bell.one, bell.three):
        end.close()
    bell.one, bell.three = (PeerDoorbell(bell.memory, os.dup(bell.eventfd), peer) for peer in (1, 3))
    yield bell
    bell.close()


def woken(bell: Bell) -> None:
    """What the loop does that finds the eventfd to be readable."""
    bell.own.rung = True
    bell.own.wake()


def test_a_bell_ahead_wakes_a_sleeper_once_and_news_ring_no_more(apart: Bell) -> None:
    apart.one.ring_ahead()
    assert apart.one.rings == 0
    assert apart.own.sleep()
    assert apart.one.may_ring_ahead()
    apart.one.ring_ahead()
    apart.one.ring_ahead()
    assert not apart.one.may_ring_ahead()
    assert not apart.one.announce()
    assert (apart.one.rings, apart.one.rings_ahead) == (1, 1)
    assert apart.rung() == 1 << 32
    assert apart.own.news() == [1]


def test_a_bell_ahead_is_for_one_sleep(apart: Bell) -> None:
    assert apart.own.sleep()
    apart.one.ring_ahead()
    woken(apart)
    assert apart.own.sleep()  # it has looked on for a while
    assert apart.own.wakeups_in_vain == 1
    assert apart.one.announce()
    assert apart.rung() == 1


def test_who_was_promised_news_stays_awake_for_them(apart: Bell) -> None:
    assert apart.own.sleep()
    apart.one.ring_ahead()
    woken(apart)
    assert apart.own.news() is None
    apart.one.announce()
    assert not apart.own.sleep()
    assert not apart.own.asleep()
    assert apart.own.news() == [1]
    assert apart.own.sleep()
    assert (apart.own.wakeups, apart.own.wakeups_in_vain) == (1, 0)


def test_a_promise_that_was_kept_is_not_waited_for_again(apart: Bell) -> None:
    assert apart.own.sleep()
    apart.one.ring_ahead()
    apart.one.announce()
    woken(apart)
    assert apart.own.news() == [1]
    assert apart.own.sleep()
    assert (apart.own.wakeups, apart.own.wakeups_in_vain) == (1, 0)
    assert apart.rung() == 0


@pytest.mark.parametrize(("own", "peers"), [({0, 1}, {1}), ({1}, {1})])
def test_nobody_is_rung_ahead_who_might_wake_up_in_our_place(
    own: set[int], peers: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: own)
    bell = Bell()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: peers)
    peer = PeerDoorbell(bell.memory, os.dup(bell.eventfd), 1)
    assert bell.own.sleep()
    peer.ring_ahead()
    assert bell.rung() == 0
    assert peer.announce()
    peer.close()
    bell.close()


@pytest.mark.slow
def test_two_processes_exchange_frames_and_lose_no_wake_up() -> None:
    """Each sleeps whenever it has nothing to read: a lost frame or wake-up would leave both asleep."""
    count = 200_000 if cw.compiled else 20_000
    rings = [ipc.create_ring(4096) for _ in range(2)]
    bells = [ipc.create_doorbell(2) for _ in range(2)]
    descriptors = [*rings, *bells[0], *bells[1]]
    script = Path(__file__).with_name("echo.py")
    child = subprocess.Popen([sys.executable, script, str(count), *map(str, descriptors)], pass_fds=descriptors)
    outgoing, incoming = RingProducer(rings[0]), RingConsumer(rings[1])
    own, peer = Doorbell(*bells[0]), PeerDoorbell(bells[1][0], os.dup(bells[1][1]), 0)
    sent = received = sleeps = missed = 0
    try:
        while received < count:
            # Bursts of changing length: sometimes the ring is full, sometimes empty.
            burst = sent * 7 % 150 + 1
            while sent < count and burst and outgoing.push(1, 0, 0, sent, b"x" * (sent % 100)):
                sent += 1
                burst -= 1
            peer.announce()
            while True:
                own.news()  # before looking: what comes after it keeps us awake
                while (body := incoming.pop()) is not None:
                    assert incoming.call == received
                    assert body == b"x" * (received % 100)
                    received += 1
                peer.announce()  # there is room
                if received == sent:
                    break
                if own.sleep():
                    sleeps += 1
                    if not select.select([bells[0][1]], [], [], 10)[0]:
                        missed += 1
                    else:
                        own.rung = True
                    own.wake()
        status = child.wait(timeout=60)
    finally:
        child.kill()
    assert missed == 0
    assert sleeps > 0
    assert status == 0
    for end in (outgoing, incoming, own, peer):
        end.close()
    for descriptor in descriptors:
        os.close(descriptor)
