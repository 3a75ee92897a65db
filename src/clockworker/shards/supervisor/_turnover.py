"""Shards that have grown old or large are replaced, each by one that is ready beside it (`_roll`): a remedy for what leaks.

Looked at once a second. Of shards that are past it at the same time one is replaced after the other. A successor that fails
leaves the old one serving, which is tried again after `AGAIN_S`; and one that is too large from the beginning is not replaced
for ever, but once in that time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from clockworker.shards.config._config import ServeConfig
from clockworker.shards.config._parse import show_size
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess

LOOK_S = 1.0
AGAIN_S = 60.0

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class Turnover:
    """replace: a member, for a reason that is said behind its name."""

    def __init__(self, config: ServeConfig, members: Members, replace: Callable[[Member, str], None]) -> None:
        self._lifetime = config.shard_lifetime
        self._most_resident = config.shard_max_rss
        self._members = members
        self._replace = replace
        self._replaced_at: dict[int, float] = {}  # by shard

    def start(self) -> None:
        if self._lifetime is not None or self._most_resident is not None:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for member in self._members:
            if member.state is State.READY and member.process is not None:
                reason = self._reason(member.process)
                if reason and now - self._replaced_at.get(member.id, -AGAIN_S) >= AGAIN_S:
                    self._replaced_at[member.id] = now
                    self._replace(member, reason)
        loop.call_later(LOOK_S, self._look)

    def _reason(self, process: ShardProcess) -> str:
        if self._lifetime is not None and process.age > self._lifetime:
            return f"has lived for {process.age:.0f} s (--shard-lifetime)"
        if self._most_resident is not None and (resident := _resident(process.pid)) > self._most_resident:
            most = show_size(self._most_resident)
            return f"has {resident / _MIB:.1f} MiB in memory, of {most} (--shard-max-rss)"
        return ""


def _resident(pid: int) -> int:
    """Bytes; 0 of a process that is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
