"""What the supervisor needs of its machine before it starts: enough open files, and a pid file if one is wanted."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from clockworker._errors import ConfigurationError


def raise_descriptor_limit(shards: int, addresses: int) -> None:
    """Raise the soft limit on open files to the hard one, and check that it is enough for the mesh.

    Each shard costs the supervisor a pidfd, a channel, slots, a doorbell's two and its sockets; a shard holds at
    most four for each peer. Raises `ConfigurationError`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 64 + shards * (5 + addresses)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{shards} shards need {needed} open files, but the limit is {hard}; raise it (ulimit -n) or start fewer"
        )


class PidFile:
    """A file with the supervisor's pid, there while the block runs."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def __enter__(self) -> None:
        try:
            self._path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise ConfigurationError(f"--pid-file {str(self._path)!r} cannot be written: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
