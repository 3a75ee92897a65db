"""Which of the running servers somebody means: by pid, control socket, application or address."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from clockworker._errors import ControlError
from clockworker.shards.observe._query_client import QueryClient
from clockworker.shards.observe._query_paths import default_directory, sweep

_ANSWER_S = 2.0  # a supervisor that is stopped must not hide the others


class Running(msgspec.Struct, frozen=True):
    """A server of this user. app is "" for one that does not say: it starts, or stands still."""

    pid: int
    app: str
    addresses: Sequence[str]
    path: Path

    def __str__(self) -> str:
        return f"{self.pid:>9}  {self.app or 'does not answer'}  {', '.join(self.addresses) or 'no address'}".rstrip()

    def is_meant_by(self, target: str) -> bool:
        return target in (self.app, *self.addresses, *(address.partition("=")[2] for address in self.addresses))


def find_server(target: str | None, environment: Mapping[str, str]) -> Path:
    """The control socket of the one that is meant; None: of the only one. Raises `ControlError`, with a list if there are
    several."""
    if target is not None and ("/" in target or os.path.exists(target)):
        return Path(target)
    directory = default_directory(environment)
    if target is not None and target.isdecimal():
        return directory / f"{target}.sock"
    paths = sweep(directory)
    if not paths:
        raise ControlError(f"no server of this user runs (none has its control socket in {directory}); give its path")
    if target is None and len(paths) == 1:
        return paths[0]
    running = [_ask(path) for path in paths]
    if target is None:
        raise ControlError(_listed("several servers run; give the pid, application or address of one", running))
    meant = [server for server in running if server.is_meant_by(target)]
    if len(meant) == 1:
        return meant[0].path
    if meant:
        raise ControlError(_listed(f"several servers are {target}; give the pid of one", meant))
    raise ControlError(_listed(f"no server of this user is {target}; these run", running))


def _ask(path: Path) -> Running:
    with contextlib.suppress(ControlError), contextlib.closing(QueryClient(path, _ANSWER_S)) as client:
        stats = client.stats()
        return Running(stats.pid, stats.app, stats.addresses, path)
    return Running(int(path.stem), "", (), path)


def _listed(what: str, servers: Iterable[Running]) -> str:
    return "\n".join((f"{what}:", *map(str, servers)))
