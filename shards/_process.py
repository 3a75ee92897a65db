"""One incarnation of a shard, as the supervisor holds it: the process, the channel to it, its doorbell and slots.

Shards are fresh processes (fork and exec at once), never forks that go on: a forked interpreter inherits locks, sockets
and memory that nobody meant it to have. One descriptor is passed by number, the control channel's; everything else goes
through that. The pidfd, not the pid, stands for the process, so that no signal ever hits a stranger.

The CPU is set from here, right after exec: before the interpreter has imported anything, so that all of its memory is
first touched where it will be used.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from clockworker import ipc
from clockworker.shards._control import Channel
from clockworker.shards._slots import SlotReader, create_slots

CONTROL_VARIABLE = "CLOCKWORKER_CONTROL_FD"
SUPERVISOR_VARIABLE = "CLOCKWORKER_SUPERVISOR_PID"
SHARD_VARIABLE = "CLOCKWORKER_SHARD_ID"

# A terminal sends these to the whole process group. A shard obeys its supervisor, not the terminal; until it has said
# so to the kernel itself they are held back.
TERMINAL_SIGNALS = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)


class ShardProcess:
    """Raises `OSError` from the constructor, with nothing left open, if there is no process or descriptor to be had."""

    def __init__(self, shard: int, count: int, cpu: int | None, queues: Sequence[str]) -> None:
        self.started = time.monotonic()
        self.doorbell = ipc.create_doorbell(count)
        self.slots_descriptor = create_slots(len(queues), count)
        self.slots = SlotReader(self.slots_descriptor, queues)
        parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(parent)
        environment = os.environ | {
            CONTROL_VARIABLE: str(child.fileno()),
            SUPERVISOR_VARIABLE: str(os.getpid()),
            SHARD_VARIABLE: str(shard),
        }
        # -P: the working directory is not put on sys.path by the interpreter; the shard adds --app-dir itself.
        command = [sys.executable, "-P", "-m", "clockworker.shards._child"]
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        try:
            self._popen = subprocess.Popen(
                command, env=environment, pass_fds=[child.fileno()], stdin=subprocess.DEVNULL
            )
        except OSError:
            self._close_shared()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
            child.close()
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        if cpu is not None:
            try:
                os.sched_setaffinity(self.pid, {cpu})
            except OSError:  # the cpuset was changed under us
                self.kill()
                self.reap()
                self.close()
                raise

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def kill(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> str:
        """Collect the ended process and say how it ended, for a log line."""
        status = self._popen.wait()
        if status < 0:
            try:
                return f"killed by {signal.Signals(-status).name}"
            except ValueError:
                return f"killed by signal {-status}"
        return "stopped" if status == 0 else f"exited with status {status}"

    def close(self) -> None:
        self._close_shared()
        os.close(self.pidfd)

    def _close_shared(self) -> None:
        self.channel.close()
        self.slots.close()
        for descriptor in (*self.doorbell, self.slots_descriptor):
            os.close(descriptor)
