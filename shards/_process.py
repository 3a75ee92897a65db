"""One incarnation of a shard, as the supervisor holds it: the process, the channel to it, its doorbell, slots, pulse.

Shards are fresh processes (fork and exec at once), never forks that go on: a forked interpreter inherits locks, sockets
and memory that nobody meant it to have. One descriptor is passed by number, the control channel's; everything else goes
through that. The pidfd, not the pid, stands for the process, so that no signal ever hits a stranger.

The CPU is set from here, right after exec: before the interpreter has imported anything, so that all of its memory is
first touched where it will be used.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from clockworker import ipc
from clockworker.shards._birth import CONTROL_VARIABLE, SHARD_VARIABLE, SUPERVISOR_VARIABLE, TERMINAL_SIGNALS
from clockworker.shards._control import Channel, Configure, ToShard
from clockworker.shards._handover import Handover
from clockworker.shards._health import Health, HealthPolicy
from clockworker.shards._orphans import reap_orphans
from clockworker.shards._pulse import PulseReader, create_dump, create_pulse
from clockworker.shards._slots import SlotReader, create_slots
from clockworker.shards._terminal import Terminal
from clockworker.shards._witness import Witness

log = logging.getLogger("clockworker.supervisor")

_running: set[int] = set()  # pids of processes of ours that have not been reaped


def reap_strangers() -> None:
    """Collect ended children that are none of ours."""
    reap_orphans(_running)


class ShardProcess:
    """place: its word in the doorbells of its peers. lines: the binds whose connections are handed over to it.

    Raises `OSError` from the constructor, with nothing left open, if there is no process or descriptor to be had."""

    def __init__(
        self,
        shard: int,
        count: int,
        cpu: int | None,
        queues: Sequence[str],
        health: HealthPolicy,
        place: int,
        lines: Sequence[str] = (),
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
            self._pulse_descriptor = create_pulse(len(lines))
            opened.callback(os.close, self._pulse_descriptor)
            self._dump_descriptor = create_dump()
            opened.callback(os.close, self._dump_descriptor)
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
            parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.channel = Channel(parent)
            opened.callback(self.channel.close)
            self._terminal = Terminal() if count == 1 else None
            with child:
                self._popen = _start(
                    shard, child.fileno(), terminal=self._terminal is not None and self._terminal.is_here
                )
            self.pid = self._popen.pid
            _running.add(self.pid)
            opened.callback(self.reap)
            opened.callback(self._popen.kill)
            self.pidfd = os.pidfd_open(self.pid)
            if cpu is not None:
                try:
                    os.sched_setaffinity(self.pid, {cpu})
                except OSError:  # the cpuset was changed under us
                    os.close(self.pidfd)
                    raise
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

    def send_signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass
        except OSError as error:
            log.error("pid %d cannot be sent signal %d: %s", self.pid, number, error.strerror)

    def kill(self) -> None:
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def reap(self) -> str:
        """Collect the ended process and say how it ended, for a log line."""
        status = self._popen.wait()
        if self._terminal is not None:
            self._terminal.restore()
        _running.discard(self.pid)
        reap_strangers()
        if status < 0:
            try:
                return f"killed by {signal.Signals(-status).name}"
            except ValueError:
                return f"killed by signal {-status}"
        return "stopped" if status == 0 else f"exited with status {status}"

    def discard(self) -> None:
        """Of one that has just been started, and is of no use."""
        self.kill()
        self.reap()
        self.close()

    def close(self) -> None:
        """Of an ended and reaped process."""
        os.close(self.pidfd)
        self._opened.close()


def _start(shard: int, channel: int, *, terminal: bool) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        CONTROL_VARIABLE: str(channel),
        SUPERVISOR_VARIABLE: str(os.getpid()),
        SHARD_VARIABLE: str(shard),
    }
    # -P: the working directory is not put on sys.path by the interpreter; the shard adds --app-dir itself.
    command = [sys.executable, "-P", "-m", "clockworker.shards._child"]
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        stdin = None if terminal else subprocess.DEVNULL
        return subprocess.Popen(command, env=environment, pass_fds=[channel], stdin=stdin)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
