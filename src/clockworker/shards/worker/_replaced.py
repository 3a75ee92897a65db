"""A shard's part in a replacement in which state moves, as the supervisor asks for it: as a peer of the one that is replaced,
as that one, and as its successor."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from clockworker.ipc import Mesh
from clockworker.shards.config._application import format_traceback
from clockworker.shards.protocol._messages import Held, IsShut, NotTaken, Running, Taken, ToSupervisor
from clockworker.shards.worker._hidden import hide
from clockworker.shards.worker._state import StateNotTaken, take_over_state

LOOK_S = 0.002

# So long after the gate began to close it is said what is still running.
TELL_AFTER_S = 0.3

MOST_NAMED = 3

# Bytes of a traceback, and of a message: both have to fit into one.
TRACEBACK_LIMIT = 48_000
MESSAGE_LIMIT = 8_000


class Replacement:
    """tell: sends the supervisor a message."""

    def __init__(self, mesh: Mesh, tell: Callable[[ToSupervisor], None]) -> None:
        self._mesh = mesh
        self._tell = tell
        self._waiting: dict[int, asyncio.Task[None]] = {}  # until there is something to say of the hold of a shard
        self._taking: asyncio.Task[None] | None = None
        self._closing_since = 0.0

    def hold(self, shard: int, again: bool) -> None:
        """Calls to that shard wait; it may be this one."""
        if shard != self._mesh.shard_id:
            self._mesh.suspend(shard)
            if not again:
                self._wait(shard, lambda: not self._mesh.unsent(shard), Held(shard))
            return
        keeping = self._mesh.keeping
        if not again:
            self._mesh.share_cpu(True)
            keeping.gate.close()
            self._closing_since = time.monotonic()
            self._tell(Held(shard))
            return
        keeping.gate.let_deep_through()
        if time.monotonic() - self._closing_since > TELL_AFTER_S and (running := keeping.running()):
            self._tell(Running(tuple(running[:MOST_NAMED])))

    def shut(self) -> None:
        """Nothing is to begin any more on what moves."""
        self._wait(self._mesh.shard_id, self._mesh.keeping.try_to_shut, IsShut())

    def release(self, shard: int) -> None:
        """It stays where it is."""
        self._wait_no_more(shard)
        if shard != self._mesh.shard_id:
            self._mesh.resume(shard)
        else:
            self._mesh.share_cpu(False)
            self._mesh.keeping.open()

    def moved(self) -> None:
        """What this shard had, its successor has."""
        self._mesh.keeping.move()

    def take(self, services: tuple[str, ...], seconds: float) -> None:
        self._taking = asyncio.get_running_loop().create_task(self._take(services, seconds), name="take over")
        hide(self._taking)

    def stop(self) -> None:
        for shard in [*self._waiting]:
            self._wait_no_more(shard)
        if self._taking is not None:
            self._taking.cancel()

    def _wait(self, shard: int, condition: Callable[[], bool], then: ToSupervisor) -> None:
        self._wait_no_more(shard)
        if condition():
            self._tell(then)
        else:
            waiting = asyncio.get_running_loop().create_task(self._tell_when(condition, then))
            hide(waiting)
            self._waiting[shard] = waiting

    def _wait_no_more(self, shard: int) -> None:
        if (waiting := self._waiting.pop(shard, None)) is not None:
            waiting.cancel()

    async def _tell_when(self, condition: Callable[[], bool], then: ToSupervisor) -> None:
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(LOOK_S)
        self._tell(then)

    async def _take(self, services: tuple[str, ...], seconds: float) -> None:
        self._mesh.share_cpu(True)
        try:
            size = await take_over_state(self._mesh.keeping, services, seconds)
            gc.freeze()  # as `Shard.ready` does with what was there before
        except Exception as error:
            cause = error.__cause__ if isinstance(error, StateNotTaken) else error
            said = f"{error}" if isinstance(error, StateNotTaken) else "the state could not be fetched"
            trace = "" if cause is None else format_traceback(cause)
            self._tell(NotTaken(_cut(said)[:MESSAGE_LIMIT].decode(errors="ignore"), _last(trace)))
        else:
            self._mesh.share_cpu(False)
            self._tell(Taken(size))


def _cut(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _last(trace: str) -> str:
    return _cut(trace)[-TRACEBACK_LIMIT:].decode(errors="ignore")
