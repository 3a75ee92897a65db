"""Reloading when a source file changes, for whoever develops: the supervisor watches, with watchfiles (extra `reload`)."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence

from clockworker._errors import ConfigurationError

log = logging.getLogger("clockworker.supervisor")


def check_reload() -> None:
    """Raises `ConfigurationError` if watchfiles is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs watchfiles, which is not installed: pip install 'clockworker[reload]'")


class Reloader:
    """changed: told after each change of Python files under the directories, once for those that come together."""

    def __init__(self, directories: Sequence[str], changed: Callable[[], None]) -> None:
        self._directories = [os.path.abspath(directory) for directory in directories]
        self._changed = changed
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="reload")

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    async def _watch(self) -> None:
        try:
            await self._watch_all()
        except (
            Exception
        ) as error:  # watchfiles has errors of its own beside OSError; the kernel limits what one may watch
            log.error("source files are no longer watched: %s", error)

    async def _watch_all(self) -> None:
        from watchfiles import PythonFilter, awatch

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # what it says of each change is said here
        log.info("watching %s for changes", ", ".join(self._directories))
        async for changes in awatch(*self._directories, watch_filter=PythonFilter(), stop_event=self._stop):
            names = sorted({path for _, path in changes})
            log.info("%s changed", ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
            self._changed()
