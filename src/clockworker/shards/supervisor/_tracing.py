"""The supervisor's side of a trace: asks the shards for it and hands on what they have recorded, unread."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence

from clockworker._errors import UsageError
from clockworker.ipc.rings._memory_cy import is_sealed
from clockworker.shards.protocol._messages import StartTrace
from clockworker.shards.supervisor._member import Member
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

# How long after its end a recording may take to arrive: a shard that stalls has none.
LATE_S = 10.0


class Tracing:
    """One trace at a time."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._waiting: dict[ShardProcess, asyncio.Future[int | None]] = {}

    async def record(self, seconds: float) -> AsyncGenerator[tuple[int, int], None]:
        """The recordings of all shards that have one: shard, and a descriptor to close. Raises UsageError if one is being
        made already."""
        if self._waiting:
            raise UsageError("a trace is being recorded already; wait for its end")
        loop = asyncio.get_running_loop()
        asked = [(member.id, member.process) for member in self._members if member.process is not None]
        for _, process in asked:
            self._waiting[process] = loop.create_future()
            process.send(StartTrace(seconds))
        deadline = loop.time() + seconds + LATE_S
        try:
            for shard, process in asked:
                future = self._waiting[process]
                await asyncio.wait([future], timeout=deadline - loop.time())
                if future.done() and (descriptor := future.result()) is not None:
                    self._waiting[process] = loop.create_future()  # it has been handed over
                    yield shard, descriptor
        finally:
            for future in self._waiting.values():
                if future.done() and (descriptor := future.result()) is not None:
                    os.close(descriptor)
            self._waiting.clear()

    def arrived(self, process: ShardProcess, descriptor: int) -> None:
        """The process has sent its recording. Owns the descriptor."""
        if not is_sealed(descriptor):  # a file that makes us wait, or has another length when it is read
            log.error("what pid %d has sent is no recording", process.pid)
            os.close(descriptor)
            self.ended(process)
            return
        future = self._waiting.get(process)
        if future is None or future.done():
            os.close(descriptor)
        else:
            future.set_result(descriptor)

    def ended(self, process: ShardProcess) -> None:
        """The process has: there is nothing to wait for."""
        future = self._waiting.get(process)
        if future is not None and not future.done():
            future.set_result(None)
