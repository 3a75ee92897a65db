"""One incarnation of a shard, as the supervisor holds it: the process, the channel to it, its doorbell, slots, pulse.

The CPU is set from here, right after exec where there was no spare process to take: before the interpreter has imported
anything, so that all of its memory is first touched where it will be used. What a spare has imported by then lies where it
was imported; the kernel moves it (numa_balancing), and what the application brings is the CPU's own.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from clockworker import ipc
from clockworker.shards._control import Configure, ToShard
from clockworker.shards._handover import Handover
from clockworker.shards._health import Health, HealthPolicy
from clockworker.shards._pulse import PulseReader, create_dump, create_pulse
from clockworker.shards._slots import SlotReader, create_slots
from clockworker.shards._spawn import Process
from clockworker.shards._terminal import Terminal
from clockworker.shards._witness import Witness


class ShardProcess:
    """place: its word in the doorbells of its peers. process: begins one, with our terminal or without.

    Raises `OSError` from the constructor, with nothing left open, if there is no process or descriptor to be had."""

    def __init__(
        self,
        count: int,
        queues: Sequence[str],
        health: HealthPolicy,
        place: int,
        process: Callable[[bool], Process],
    ) -> None:
        self.place = place
        self.started = time.monotonic()
        self.killed = False
        self.health = Health(health)
        with ExitStack() as opened:
            self.doorbell = ipc.create_doorbell(count)
            for descriptor in self.doorbell:
                opened.callback(os.close, descriptor)
            self._slots_descriptor = create_slots(len(queues), count)
            opened.callback(os.close, self._slots_descriptor)
            self.slots = SlotReader(self._slots_descriptor, queues)
            opened.callback(self.slots.close)
            self._pulse_descriptor = create_pulse()
            opened.callback(os.close, self._pulse_descriptor)
            self._dump_descriptor = create_dump()
            opened.callback(os.close, self._dump_descriptor)
            self.pulse = PulseReader(self._pulse_descriptor, self._dump_descriptor)
            opened.callback(self.pulse.close)
            witness, self._testimony = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.witness = Witness(witness)
            opened.callback(self.witness.close)
            opened.callback(self._testimony.close)
            self.handover = Handover()
            opened.callback(self.handover.close)
            self._terminal = Terminal() if count == 1 else None
            self._process = process(self._terminal is not None and self._terminal.is_here)
            self.pid, self.pidfd, self.channel = self._process.pid, self._process.pidfd, self._process.channel
            self._opened = opened.pop_all()

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def configure(self, configure: Configure) -> None:
        """The first message, with everything that the shard needs."""
        self.send(
            configure,
            [
                *self.doorbell,
                self._slots_descriptor,
                self._pulse_descriptor,
                self._dump_descriptor,
                self._testimony.fileno(),
                self.handover.shard_end.fileno(),
            ],
        )

    def send(self, message: ToShard, descriptors: Sequence[int] = ()) -> None:
        """Send it, now or as soon as there is room. The descriptors stay the caller's. Raises `OSError` if there are some, and
        none to keep them by."""
        self.channel.send(message, descriptors)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def reap(self) -> str:
        """Collect the ended process and say how it ended, for a log line."""
        end = self._process.reap()
        if self._terminal is not None:
            self._terminal.restore()
        return end

    def discard(self) -> None:
        """Of one that has just been started, and is of no use."""
        self.kill()
        self.reap()
        self.close()

    def close(self) -> None:
        """Of an ended and reaped process."""
        self._process.close()
        self._opened.close()
