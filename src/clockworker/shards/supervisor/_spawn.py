"""A process for a shard that has not been told yet which one it is: started, tied to us by a channel, and to be waited for.

It is a fresh process (fork and exec at once), or has been forked by one that has imported what a shard needs and does nothing
else (`_fork_server`); never a fork of ours that goes on: that would inherit locks, sockets and memory that nobody meant it to
have. One descriptor is passed by number, the control channel's; everything else goes through that. The pidfd, not the pid,
stands for the process, so that no signal ever hits a stranger.

The environment says whether the process is wanted now, as the shard of that number, or is a spare (`_spares`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Protocol

from clockworker.shards.protocol._birth import (
    CONTROL_VARIABLE,
    FORK_SERVER_VARIABLE,
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


class Child(Protocol):
    """What has begun it, and may end it."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self) -> int:
        """Collect it. Returns the exit status, or a signal's number below 0."""
        ...


class Process:
    """A child of ours. pidfd and channel: become its own. terminal: it has ours."""

    def __init__(self, child: Child, pidfd: int, channel: ControlChannel, *, terminal: bool = False) -> None:
        self._child = child
        self.pid = child.pid
        self.pidfd = pidfd
        self.channel = channel
        self.terminal = terminal
        _running.add(self.pid)

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
        status = self._child.wait()
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
        self._child.kill()
        self.reap()
        self.close()


def start_shard(shard: int, *, terminal: bool) -> Process:
    """Raises `OSError`, with nothing left open, if there is no process or descriptor to be had; the two others as well."""
    return _start({SHARD_VARIABLE: str(shard)}, terminal=terminal)


def start_spare(app: str, *, terminal: bool) -> Process:
    return _start({SPARE_VARIABLE: app}, terminal=terminal)


def start_fork_server(app: str) -> Process:
    return _start({FORK_SERVER_VARIABLE: app}, terminal=False)


def _start(variables: dict[str, str], *, terminal: bool) -> Process:
    with ExitStack() as opened:
        parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = ControlChannel(parent)
        opened.callback(channel.close)
        with child:
            told = {CONTROL_VARIABLE: str(child.fileno()), SUPERVISOR_VARIABLE: str(os.getpid())}
            environment = os.environ | told | variables
            with held_back():
                stdin = None if terminal else subprocess.DEVNULL
                popen = subprocess.Popen(command(), env=environment, pass_fds=[child.fileno()], stdin=stdin)
        opened.callback(popen.wait)
        opened.callback(popen.kill)
        process = Process(popen, os.pidfd_open(popen.pid), channel, terminal=terminal)
        opened.pop_all()
        return process


def adopt(pid: int, pidfd: int, channel: ControlChannel) -> Process:
    """One that another process has begun, and that has become a child of ours."""
    return Process(_Adopted(pid, pidfd), pidfd, channel)


class _Adopted:
    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> int:
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # it had ended, and was collected as a stranger, before we knew of it
            return 0
        return os.waitstatus_to_exitcode(status)
