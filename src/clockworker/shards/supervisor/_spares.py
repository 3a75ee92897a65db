"""Spares: processes for shards that are started before there is a shard to start.

Nearly all of what a restart takes is the CPU time of starting Python and importing this package: a quarter of a second, and as
many times that as there are others who want the CPU. A spare has done it. It waits for the message that tells a process which
shard it is, and imports the application only then: so it has the application, and what else is on the disk, as it is by then.
(`_waiting` is what it does.)

Spares are forked, in milliseconds, by a process that has imported all that once (`_forking`, and `worker/_fork_server` for when
that is as good as a process of its own). So however fast shards die or are replaced, the next one finds a spare, and they share
the memory of what is imported. Where it cannot be, each spare is a process that is started: where Python's own start begins
threads or opens descriptors, where orphans cannot be taken in, and for the terminal, which one process has and not two. Shards
that are forked have the same seed of hashes and the same addresses, as in every server that forks its workers; the shards of a
server's start, and so mostly those that serve, are started.

A spare is taken by whatever shard is started next, because another one died or for a HUP. It may still be importing: then it
has a lead. Another one is made in its place at once. One that is otherwise missing is made when all shards are ready and none
is being replaced; the first one a moment after that, when the server has begun its work. It has no place in the statistics and
nobody looks after its loop. If it ends, or there is no process, memory or descriptor for one, nothing is lost but its use:
that is a line for those who debug, and it is tried again later, each time after twice as long. Where little is left of a limit
on processes, there is none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from clockworker.shards.machine._topology import read_process_limit
from clockworker.shards.protocol._messages import Forked
from clockworker.shards.supervisor._forking import ForkServer, can_fork
from clockworker.shards.supervisor._spawn import Process, start_shard, start_spare
from clockworker.shards.supervisor._watch import is_stopped

log = logging.getLogger("clockworker.supervisor")

# After the server has begun to serve.
FIRST_S = 1.0

# After one that has ended by itself, or could not be started; and at most. One that lived longer than that died by chance.
DELAY_S = 1.0
MAX_DELAY_S = 60.0

# A start waits so long for a spare that is being forked: about what it takes to start a process otherwise.
FORK_S = 0.05

# Of a limit on processes, that much is left to the application.
LEFT_TO_OTHERS = 0.1


class Spares:
    """count: how many there are to be. is_calm: whether there is nothing more urgent to start."""

    def __init__(self, app: str, count: int, is_calm: Callable[[], bool]) -> None:
        self._app = app
        self._count = count
        self._is_calm = is_calm
        self._waiting: dict[Process, float] = {}  # the oldest first, and when each was started
        self._forks: ForkServer | None = None
        self._may_fork = can_fork()
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
        if process is None and self._forks is not None:
            self._forks.wait(FORK_S)
            process = self._take(terminal)
        if process is not None:
            asyncio.get_running_loop().call_soon(self._start_missing)
        else:
            process = start_shard(shard, terminal=terminal)
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
        while self._timer is None and self._there_are() < self._count and not self._over:
            try:
                _check_room()
                if self._may_fork and not self._terminal:
                    self._fork_server().ask()
                else:
                    self._add(start_spare(self._app, terminal=self._terminal))
            except OSError as error:
                log.debug("there is no spare process: %s", error)
                self._plan_later()

    def _there_are(self) -> int:
        """Spares, with those that are about to come."""
        return len(self._waiting) + (0 if self._forks is None else self._forks.asked)

    def _add(self, process: Process) -> None:
        """Raises `OSError`; then it has ended."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(process.pidfd, self._ended, process)
        except OSError:
            process.discard()
            raise
        self._waiting[process] = loop.time()

    def _fork_server(self) -> ForkServer:
        if self._forks is None:
            self._forks = ForkServer(self._app, self._forked, self._fork_server_ended)
        return self._forks

    def _forked(self, answer: Process | Forked) -> None:
        if isinstance(answer, Forked):
            log.debug("a spare process cannot be forked: %s", answer.problem)
            if answer.for_good and self._forks is not None:
                self._may_fork = False
                self._forks.stop()
            else:
                self._plan_later()
        elif self._over:
            answer.discard()
        else:
            try:
                self._add(answer)
            except OSError as error:
                log.debug("there is no spare process: %s", error)
                self._plan_later()

    def _fork_server_ended(self, end: str) -> None:
        self._forks = None
        if self._over:
            self._look_whether_all_are_gone()
        elif self._may_fork:
            log.debug("the process that forks spares %s", end)
            self._plan_later()
        else:
            self.fill()

    def _ended(self, process: Process) -> None:
        lived = asyncio.get_running_loop().time() - self._waiting[process]
        self._leave(process)
        log.debug("a spare process (pid %d) %s after %.1f s", process.pid, process.reap(), lived)
        process.close()
        if lived > MAX_DELAY_S:
            self._delay = 0.0
        if not self._over:
            self._plan_later()
        self._look_whether_all_are_gone()

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
        if self._forks is not None:
            self._forks.stop()
        self._look_whether_all_are_gone()

    def _look_whether_all_are_gone(self) -> None:
        if self._over and not self._waiting and self._forks is None:
            self._all_gone.set()

    async def wait_gone(self) -> None:
        """After `stop`."""
        await self._all_gone.wait()


def _check_room() -> None:
    """Raises `OSError` if what is left to a cgroup is the application's."""
    limit = read_process_limit()
    if limit is not None and limit[0] + 1 > (1 - LEFT_TO_OTHERS) * limit[1]:
        raise OSError(f"of {limit[1]} processes and threads that are allowed (pids.max) there are {limit[0]}")
