"""One incarnation of a shard, as the supervisor holds it: the process, the channel to it, its doorbell, slots, pulse.

The CPU is set from here, right after exec where there was no spare process to take: before the interpreter has imported
anything, so that all of its memory is first touched where it will be used. What a spare has imported by then lies where it
was imported; the kernel moves it (numa_balancing), and what the application brings is the CPU's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from clockworker import ipc
from clockworker.executor._queue import MAX_QUEUES
from clockworker.shards.machine._terminal import Terminal
from clockworker.shards.protocol._control_channel import Lent
from clockworker.shards.protocol._handover import Handover
from clockworker.shards.protocol._health import Health, HealthPolicy
from clockworker.shards.protocol._messages import Configure, ToShard
from clockworker.shards.protocol._pulse import PulseReader, create_dump, create_pulse
from clockworker.shards.protocol._slots import SlotReader, create_slots
from clockworker.shards.protocol._witness import Witness
from clockworker.shards.supervisor._spawn import Process


class ShardProcess:
    """place: its word in the doorbells of its peers. process: begins one, with our terminal or without. lines: the binds whose
    connections are handed over to it.

    Raises `OSError` from the constructor, with nothing left open, if there is no process or descriptor to be had."""

    def __init__(
        self,
        count: int,
        health: HealthPolicy,
        place: int,
        process: Callable[[bool], Process],
        lines: Sequence[str] = (),
    ) -> None:
        self.place = place
        self.started = time.monotonic()
        self.killed = False
        self.health = Health(health)
        with ExitStack() as opened:
            self.doorbell = [Lent(descriptor) for descriptor in ipc.create_doorbell(count)]
            for descriptor in self.doorbell:
                opened.callback(descriptor.close)
            self._slots_descriptor = Lent(create_slots(MAX_QUEUES, count))
            opened.callback(self._slots_descriptor.close)
            self.slots = SlotReader(self._slots_descriptor)
            opened.callback(self.slots.close)
            self._pulse_descriptor = Lent(create_pulse(len(lines)))
            opened.callback(self._pulse_descriptor.close)
            self._dump_descriptor = Lent(create_dump())
            opened.callback(self._dump_descriptor.close)
            self.pulse = PulseReader(self._pulse_descriptor, self._dump_descriptor)
            opened.callback(self.pulse.close)
            witness, self._testimony = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.witness = Witness(witness)
            opened.callback(self.witness.close)
            opened.callback(self._testimony.close)
            self.lines: dict[str, Handover] = {}
            for bind in lines:
                self.lines[bind] = Handover()
                opened.callback(self.lines[bind].close)
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
                *(line.shard_end.fileno() for line in self.lines.values()),
            ],
        )

    def loads(self) -> dict[str, int]:
        """How many of the connections that came in at each bind, and were handed over, it has open or has yet to take."""
        pulse = self.pulse
        return {
            bind: line.given - pulse.taken(number) + pulse.open(number)
            for number, (bind, line) in enumerate(self.lines.items())
        }

    def send(self, message: ToShard, descriptors: Sequence[int] = ()) -> None:
        """Send it, now or as soon as there is room. The descriptors stay the caller's. Raises `OSError` if there are some, and
        none to keep them by."""
        self.channel.send(message, descriptors)

    def run_on(self, cpus: Iterable[int]) -> None:
        """Its loop, if these are CPUs that it may use."""
        with contextlib.suppress(OSError):
            os.sched_setaffinity(self.pid, cpus)

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
