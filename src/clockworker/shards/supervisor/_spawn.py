"""A process for a shard that has not been told yet which one it is: started, tied to us by a channel, and to be waited for.

Shards are fresh processes (fork and exec at once), never forks that go on: a forked interpreter inherits locks, sockets
and memory that nobody meant it to have. One descriptor is passed by number, the control channel's; everything else goes
through that. The pidfd, not the pid, stands for the process, so that no signal ever hits a stranger.

The environment says whether the process is wanted now, as the shard of that number, or is a spare (`_spares`).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack

from clockworker.shards.protocol._birth import (
    CONTROL_VARIABLE,
    SHARD_VARIABLE,
    SPARE_VARIABLE,
    SUPERVISOR_VARIABLE,
    command,
    held_back,
)
from clockworker.shards.protocol._control_channel import ControlChannel
from clockworker.shards.supervisor._orphans import reap_orphans

log = logging.getLogger("clockworker.supervisor")

_running: set[int] = set()  # pids of processes of ours that have not been reaped


def reap_strangers() -> None:
    """Collect ended children that are none of ours."""
    reap_orphans(_running)


class Process:
    """as_shard: its number; or None for a spare, of the application `app`. terminal: whether it is to have ours.

    Raises `OSError` from the constructor, with nothing left open, if there is no process or descriptor to be had."""

    def __init__(self, app: str, as_shard: int | None, *, terminal: bool) -> None:
        self.terminal = terminal
        with ExitStack() as opened:
            parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.channel = ControlChannel(parent)
            opened.callback(self.channel.close)
            with child:
                variables = {SPARE_VARIABLE: app} if as_shard is None else {SHARD_VARIABLE: str(as_shard)}
                self._popen = _start(child.fileno(), variables, terminal=terminal)
            self.pid = self._popen.pid
            _running.add(self.pid)
            opened.callback(self.reap)
            opened.callback(self._popen.kill)
            self.pidfd = os.pidfd_open(self.pid)
            opened.pop_all()

    @property
    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def run_on(self, cpus: Iterable[int]) -> None:
        """Nowhere else. Raises `OSError` if the cpuset was changed under us; then the process is gone."""
        try:
            os.sched_setaffinity(self.pid, cpus)
        except OSError:
            self.discard()
            raise

    def send_signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass
        except OSError as error:
            log.error("pid %d cannot be sent signal %d: %s", self.pid, number, error.strerror)

    def reap(self) -> str:
        """Collect the ended process and say how it ended, for a log line."""
        status = self._popen.wait()
        _running.discard(self.pid)
        reap_strangers()
        if status < 0:
            try:
                return f"killed by {signal.Signals(-status).name}"
            except ValueError:
                return f"killed by signal {-status}"
        return "stopped" if status == 0 else f"exited with status {status}"

    def close(self) -> None:
        """Of an ended and reaped process."""
        os.close(self.pidfd)
        self.channel.close()

    def discard(self) -> None:
        """End it, and wait for that."""
        self._popen.kill()
        self.reap()
        self.close()


def _start(channel: int, variables: dict[str, str], *, terminal: bool) -> subprocess.Popen[bytes]:
    environment = os.environ | {CONTROL_VARIABLE: str(channel), SUPERVISOR_VARIABLE: str(os.getpid())} | variables
    with held_back():
        stdin = None if terminal else subprocess.DEVNULL
        return subprocess.Popen(command(), env=environment, pass_fds=[channel], stdin=stdin)
