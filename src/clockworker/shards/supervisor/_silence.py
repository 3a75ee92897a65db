"""Shards that are ready and serve nothing, or not all of their sockets, are told so. The others serve what connects there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

# A shard that serves nothing for so long after it was ready is told so.
SILENT_S = 0.5


def look(member: Member, process: ShardProcess, binds: Sequence[str]) -> None:
    """At one that has become ready, now and after a while. binds: names of all that there is to serve."""
    if _unserved(member, binds):
        asyncio.get_running_loop().call_later(SILENT_S, _tell, member, process, binds)


def _unserved(member: Member, binds: Sequence[str]) -> list[str]:
    """The binds for which it has no server."""
    return [bind for bind in binds if bind not in member.serves]


def _tell(member: Member, process: ShardProcess, binds: Sequence[str]) -> None:
    if member.process is not process or member.state is not State.READY:
        return
    missing = _unserved(member, binds)
    if missing and not member.serves:
        log.warning(
            "%s is ready and serves none of its sockets: main() has called neither start_server nor create_server; "
            "what connects to it is served by the others",
            member,
        )
        return
    for bind in missing:
        log.warning(
            "%s is ready and does not serve %s: main() has called neither start_server nor create_server %s; what "
            "connects there is served by the shards that do",
            member,
            f"the addresses named {bind!r}" if bind else "the addresses without a name",
            f'with bind="{bind}"' if bind else "without bind=",
        )
