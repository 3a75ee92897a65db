"""Spares: processes for shards that are started before there is a shard to start.

Nearly all of what a restart takes is the CPU time of starting Python and importing this package: a quarter of a second, and as
many times that as there are others who want the CPU. A spare has done it. It waits for the message that tells a process which
shard it is, and imports the application only then: so it has the application, and what else is on the disk, as it is by then.
(`_waiting` is what it does.)

A spare is taken by whatever shard is started next, because another one died or for a HUP. It may still be importing: then it
has a lead. Another one is started in its place at once: it takes a little from who starts, and the second of two deaths, or
the next shard of a HUP, finds one with a lead of a whole start. One that is otherwise missing is started when all shards are
ready and none is being replaced; the first one a moment after that, when the server has begun its work. It has no place in the
statistics and nobody looks after its loop. If it ends, or there is no process, memory or descriptor for one, nothing is lost
but its use: that is a line for those who debug, and it is tried again later, each time after twice as long. Where little is
left of a limit on processes, there is none.

Rejected: to fork shards from one process that has imported everything (a forkserver). It costs less, but shards would have the
same hash seed and addresses, and what a library starts when it is imported, a thread or a lock that it holds, does not survive
a fork.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from clockworker.shards.machine._topology import read_process_limit
from clockworker.shards.supervisor._spawn import Process
from clockworker.shards.supervisor._watch import is_stopped

log = logging.getLogger("clockworker.supervisor")

# After the server has begun to serve.
FIRST_S = 1.0

# After one that has ended by itself, or could not be started; and at most. One that lived longer than that died by chance.
DELAY_S = 1.0
MAX_DELAY_S = 60.0

# Of a limit on processes, that much is left to the application.
LEFT_TO_OTHERS = 0.1


class Spares:
    """count: how many there are to be. is_calm: whether there is nothing more urgent to start."""

    def __init__(self, app: str, count: int, is_calm: Callable[[], bool]) -> None:
        self._app = app
        self._count = count
        self._is_calm = is_calm
        self._waiting: dict[Process, float] = {}  # the oldest first, and when each was started
        self._terminal = False  # as the last shard had it
        self._delay = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._all_gone = asyncio.Event()

    def begin(self) -> None:
        """The server serves, for the first time."""
        self._plan(FIRST_S)

    def process(self, shard: int, cpu: int | None, terminal: bool) -> Process:
        """One that is to be that shard: a spare, or else a new one. Raises `OSError`."""
        process = self._take(terminal)
        if process is not None:
            asyncio.get_running_loop().call_soon(self._start_missing)
        else:
            process = Process(self._app, shard, terminal=terminal)
        process.run_on(os.sched_getaffinity(0) if cpu is None else {cpu})
        return process

    def _take(self, terminal: bool) -> Process | None:
        self._terminal = terminal
        for process in self._waiting:
            if process.terminal == terminal and not process.has_ended and not is_stopped(process.pid):
                self._leave(process)
                self._delay = 0.0
                return process
        return None

    def fill(self) -> None:
        """The server may be calm now: start what is missing."""
        if self._is_calm():
            self._start_missing()

    def _start_missing(self) -> None:
        loop = asyncio.get_running_loop()
        while self._timer is None and len(self._waiting) < self._count and not self._over:
            try:
                _check_room()
                process = Process(self._app, None, terminal=self._terminal)
                try:
                    loop.add_reader(process.pidfd, self._ended, process)
                except OSError:
                    process.discard()
                    raise
            except OSError as error:
                log.debug("there is no spare process: %s", error)
                self._plan_later()
                return
            self._waiting[process] = loop.time()

    def _ended(self, process: Process) -> None:
        lived = asyncio.get_running_loop().time() - self._waiting[process]
        self._leave(process)
        log.debug("a spare process (pid %d) %s after %.1f s", process.pid, process.reap(), lived)
        process.close()
        if lived > MAX_DELAY_S:
            self._delay = 0.0
        if not self._over:
            self._plan_later()
        elif not self._waiting:
            self._all_gone.set()

    def _leave(self, process: Process) -> None:
        del self._waiting[process]
        asyncio.get_running_loop().remove_reader(process.pidfd)

    def _plan_later(self) -> None:
        self._delay = min(MAX_DELAY_S, 2 * self._delay or DELAY_S)
        self._plan(self._delay)

    def _plan(self, delay: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self.fill()

    def stop(self) -> None:
        """There will be no more, and those that there are end at once."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for process in self._waiting:
            process.send_signal(signal.SIGKILL)
        if not self._waiting:
            self._all_gone.set()

    async def wait_gone(self) -> None:
        """After `stop`."""
        await self._all_gone.wait()


def _check_room() -> None:
    """Raises `OSError` if what is left to a cgroup is the application's."""
    limit = read_process_limit()
    if limit is not None and limit[0] + 1 > (1 - LEFT_TO_OTHERS) * limit[1]:
        raise OSError(f"of {limit[1]} processes and threads that are allowed (pids.max) there are {limit[0]}")
