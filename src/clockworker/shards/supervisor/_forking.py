"""The process that forks spares, as the supervisor holds it (`_fork_server` is what it does).

It answers in its own time; nobody waits for it but `Spares`, for a moment. As long as an answer is due the supervisor takes in
orphans, by which the fork becomes its child; with them may come one that a shard's child has left behind just then, which is
collected like all strangers.
"""

from __future__ import annotations

import asyncio
import logging
import select
import signal
import socket
from collections import deque
from collections.abc import Callable

from clockworker._errors import ControlError
from clockworker.shards.machine._host import adopt_orphans
from clockworker.shards.protocol._control_channel import ControlChannel, DescriptorsLost
from clockworker.shards.protocol._messages import Fork, Forked
from clockworker.shards.supervisor._spawn import Process, adopt, start_fork_server

log = logging.getLogger("clockworker.supervisor")


def can_fork() -> bool:
    """Whether orphans can be taken in."""
    try:
        _adopts_anyway()
    except OSError:  # a sandbox forbids it
        return False
    return True


def _adopts_anyway() -> bool:
    adopts = adopt_orphans(True)
    adopt_orphans(adopts)
    return adopts


class ForkServer:
    """given: is told each process that it has forked, or why there is none, and whether there never will be one.
    ended: that it has ended, by itself or after `stop`.

    Raises `OSError` from the constructor if there is no process or descriptor to be had."""

    def __init__(self, app: str, given: Callable[[Process | Forked], None], ended: Callable[[str], None]) -> None:
        self._given = given
        self._ended = ended
        self._asked: deque[ControlChannel] = deque()
        self._has_answered = False
        self._adopts = _adopts_anyway()
        self._process = start_fork_server(app)
        self.pid = self._process.pid
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._process.pidfd, self._has_ended)
            loop.add_reader(self._process.channel.fileno(), self._read)
        except OSError:
            loop.remove_reader(self._process.pidfd)
            self._process.discard()
            raise

    @property
    def asked(self) -> int:
        """How many spares it has been asked for that are not there yet."""
        return len(self._asked)

    def ask(self) -> None:
        """For one more. Raises `OSError`."""
        parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child:
            channel = ControlChannel(parent)
            try:
                adopt_orphans(True)
                self._process.channel.send(Fork(), [child.fileno()])
            except OSError:
                channel.close()
                self._look_after_orphans()
                raise
        self._asked.append(channel)

    def wait(self, seconds: float) -> None:
        """For the next answer, no longer than that. One that has yet to import is not waited for."""
        if self._has_answered and self._asked:
            poll = select.poll()
            poll.register(self._process.channel.fileno(), select.POLLIN)
            if poll.poll(1000 * seconds):
                self._read()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        try:
            received = self._process.channel.receive()
        except BlockingIOError:
            return
        except (ControlError, DescriptorsLost) as error:
            log.debug("the process that forks spares (pid %d) is of no use: %s", self.pid, error)
            received = None
        except OSError as error:  # no memory: it is read at the next turn
            log.debug("what the process that forks spares says cannot be read yet: %s", error)
            return
        if received is None:
            asyncio.get_running_loop().remove_reader(self._process.channel.fileno())
            self.stop()
            return
        message, descriptors = received
        assert isinstance(message, Forked)
        self._has_answered = True
        channel = self._asked.popleft()
        self._look_after_orphans()
        if descriptors:
            self._given(adopt(message.pid, descriptors[0], channel))
        else:
            channel.close()
            self._given(message)

    def _has_ended(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.channel.fileno())
        loop.remove_reader(self._process.pidfd)
        end = self._process.reap()
        self._process.close()
        while self._asked:
            self._asked.popleft().close()
        self._look_after_orphans()
        self._ended(end)

    def _look_after_orphans(self) -> None:
        if not self._asked:
            adopt_orphans(self._adopts)
