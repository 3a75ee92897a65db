"""Lost wake-ups: two processes that sleep whenever they have nothing to read."""

from __future__ import annotations

import multiprocessing
import os
import select

import clockworker as cw
from clockworker import ipc
from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer
from tests.reliability._checks import Result, check

_LOST_S = 10  # seconds of sleep on news after which a wake-up is lost


class _Player:
    def __init__(self, outgoing: int, incoming: int, own: tuple[int, int], peer: tuple[int, int]) -> None:
        self._producer, self._consumer = RingProducer(outgoing), RingConsumer(incoming)
        self._bell, self._peer = Doorbell(*own), PeerDoorbell(*peer, 0)
        self._poll = select.poll()
        self._poll.register(own[1], select.POLLIN)
        self.sleeps = 0

    def send(self, call: int) -> None:
        if call % 8 == 0:  # now and then too early: the other sleeps anew before there is anything
            self._peer.ring_ahead()
        assert self._producer.push(1, 0, 0, call, b"")
        self._peer.announce()

    def receive(self) -> int:
        while True:
            self._bell.news()
            if self._consumer.pop() is not None:
                return self._consumer.call
            if self._bell.sleep():
                self.sleeps += 1
                if not self._poll.poll(_LOST_S * 1000):
                    raise AssertionError(f"a wake-up was lost in sleep {self.sleeps:,}")
                self._bell.rung = True
                self._bell.wake()


@check(
    "sleep and wake between two processes: lost wake-ups 0",
    ci=1_000_000,
    release=100_000_000,
    pure=20_000,
    pace=90_000,
)
def wake_ups(trials: int) -> Result:
    """Ping-pong: each waits, asleep unless the answer was faster, for the other."""
    there, back = ipc.create_ring(4096), ipc.create_ring(4096)
    one, other = cw.create_doorbell(1), cw.create_doorbell(1)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    cores = os.sched_getaffinity(0)

    def answer() -> None:
        os.sched_setaffinity(0, {max(cores)})
        player = _Player(back, there, other, one)
        os.sched_setaffinity(0, cores)
        while (call := player.receive()) != 0:
            player.send(call)
        sender.send(player.sleeps)

    process = context.Process(target=answer, daemon=True)
    process.start()
    sender.close()
    try:
        os.sched_setaffinity(0, {min(cores)})  # for its bell: who is not tied to a core is not rung ahead
        player = _Player(there, back, one, other)
        os.sched_setaffinity(0, cores)
        call = 0
        while player.sleeps < trials // 2:
            call += 1
            player.send(call)
            if player.receive() != call:
                raise AssertionError(f"round {call} was answered by another")
            if call > 50 * trials:
                raise AssertionError(f"only {player.sleeps:,} sleeps in {call:,} rounds")
        player.send(0)
        if not receiver.poll(_LOST_S):
            raise AssertionError("the other has not ended")
        sleeps = player.sleeps + receiver.recv()
    finally:
        os.sched_setaffinity(0, cores)
        process.kill()
        process.join()
        receiver.close()
        for descriptor in (there, back, *one, *other):
            os.close(descriptor)
    return Result(sleeps, f"{sleeps:,} sleeps in {call:,} rounds, 0 lost")
