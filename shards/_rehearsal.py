"""A rehearsal: before shards that serve are replaced, a process by itself imports the application as it is now.

If that fails the shards that there are serve on, which is what whoever saved half an edit, or deployed a mistake, would
wish. A shard's own start does the same steps; this one ends before it makes a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clockworker._errors import ControlError
from clockworker.shards._config import ServeConfig
from clockworker.shards._control import Configure, Failed, Ready
from clockworker.shards._health import HealthPolicy
from clockworker.shards._process import ShardProcess


class Rehearsal:
    """verdict: told once of the end: empty if the application can be imported, else what is wrong with it. Raises
    `OSError` if no process can be started."""

    def __init__(self, config: ServeConfig, shards: int, verdict: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._verdict = verdict
        self._limit = config.timeout_startup
        self._found = ""
        self._ready = False
        self._process = ShardProcess(0, shards, None, config.queue_names(0), HealthPolicy())
        self._loop.add_reader(self._process.pidfd, self._ended)
        self._process.configure(Configure(0, shards, None, 0, config, rehearsal=True))
        self._timer = self._loop.call_later(self._limit, self._overdue)

    def kill(self) -> None:
        """Stop it; there will be no verdict."""
        self._verdict = lambda found: None
        self._process.kill()

    def _overdue(self) -> None:
        self._found = f"the application was not imported within {self._limit:g} s (--timeout-startup)"
        self._process.kill()

    def _ended(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._process.pidfd)
        self._read()
        end = self._process.reap()
        self._process.close()
        self._verdict("" if self._ready else self._found or f"a process that imported the application {end}")

    def _read(self) -> None:
        try:
            match self._process.channel.receive():
                case (Ready(), _):
                    self._ready = True
                case (Failed(message, traceback), _):
                    self._found = "\n".join(filter(None, (message, traceback)))
        except (BlockingIOError, ControlError):
            pass
