"""All shards stop: first those who connect, then the work.

The supervisor hands over what its own sockets hold, and only then the shards are told to stop: they get what comes until then.
Those that accept themselves empty the queues of their listening sockets; until the last has, our copies of the sockets keep
new connections away. What waits at sockets of shards that are not there is served by others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from clockworker.shards.machine._sockets import HANDSHAKE_S, Listeners
from clockworker.shards.supervisor._dispatch import Dispatcher
from clockworker.shards.supervisor._drain import Drain
from clockworker.shards.supervisor._lending import Lending
from clockworker.shards.supervisor._member import Members
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")


class Shutdown:
    """grace: seconds that open work has, of which handing over takes its part."""

    def __init__(self, members: Members, listeners: Listeners, lending: Lending, drain: Drain, grace: float) -> None:
        self._members = members
        self._listeners = listeners
        self._lending = lending
        self._drain = drain
        self._grace = grace
        self._accepting: set[ShardProcess] | None = (
            None  # those told to stop that still empty the listening sockets' queues
        )

    def begin(self, dispatchers: Sequence[Dispatcher]) -> None:
        if not dispatchers:
            self._drain_all()
            return
        loop = asyncio.get_running_loop()
        loop.call_later(HANDSHAKE_S, self._hand_over_all, dispatchers, loop.time())

    def no_longer_accepts(self, process: ShardProcess) -> None:
        """It has emptied its queues, or is gone."""
        if self._accepting is not None:
            self._accepting.discard(process)
            self._close_unless_accepting()

    def _hand_over_all(self, dispatchers: Sequence[Dispatcher], began: float) -> None:
        unfinished = len(dispatchers)

        def finished() -> None:
            nonlocal unfinished
            unfinished -= 1
            if not unfinished:
                self._drain.spent = asyncio.get_running_loop().time() - began
                self._drain_all()

        for dispatcher in dispatchers:
            dispatcher.finish(self._grace, finished)

    def _drain_all(self) -> None:
        accepting = [member for member in self._members if member.takes_connections]
        for shard, orphaned in self._lending.orphaned().items():
            try:
                self._drain.begin(self._members[shard], orphaned)
            except OSError as error:
                log.error("what waits at %d sockets of shards that are not there is lost: %s", len(orphaned), error)
        for member in self._members.everyone():
            self._drain.begin(member)
        self._accepting = {member.process for member in accepting if member.process is not None}
        self._close_unless_accepting()
        self._drain.let_go()

    def _close_unless_accepting(self) -> None:
        if not self._accepting:
            self._listeners.close()
