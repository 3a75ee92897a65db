"""Reloading when a source file changes, for whoever develops: the supervisor watches, with watchfiles (extra `reload`)."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable
from fnmatch import fnmatchcase

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import ServeConfig

log = logging.getLogger("clockworker.supervisor")


def check_reload() -> None:
    """Raises `ConfigurationError` if watchfiles is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs watchfiles, which is not installed: pip install 'clockworker[reload]'")


class Reloader:
    """changed: told after each change of files under the directories, once for those that come together: of Python's, and of
    what `reload_include` names, but nothing that `reload_exclude` does."""

    def __init__(self, config: ServeConfig, changed: Callable[[], None]) -> None:
        self._directories = [os.path.abspath(directory) for directory in config.reload_dirs or (config.app_dir,)]
        self._include = config.reload_include
        self._exclude = config.reload_exclude
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
        from watchfiles import DefaultFilter, PythonFilter, awatch

        # What both ignore are directories such as .git, and the litter of editors.
        python, any_other = PythonFilter(), DefaultFilter()

        def is_watched(change: object, path: str) -> bool:
            path = self._relative(path)
            if any(_matches(path, pattern) for pattern in self._exclude):
                return False
            return python(change, path) or (  # type: ignore[arg-type]
                any_other(change, path) and any(_matches(path, pattern) for pattern in self._include)  # type: ignore[arg-type]
            )

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # what it says of each change is said here
        log.info("watching %s for changes", ", ".join(self._directories))
        async for changes in awatch(*self._directories, watch_filter=is_watched, stop_event=self._stop):
            names = sorted({path for _, path in changes})
            log.info("%s changed", ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
            self._changed()

    def _relative(self, path: str) -> str:
        """To the directory that it was found under."""
        for directory in self._directories:
            if path.startswith(directory + os.sep):
                return path[len(directory) + 1 :]
        return path


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern is of this path, of its name, or of a directory that it is in."""
    pattern = pattern.removeprefix("./").rstrip("/")
    parts = path.split(os.sep)
    ways = [os.sep.join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatchcase(each, pattern) for each in (*parts, *ways))
