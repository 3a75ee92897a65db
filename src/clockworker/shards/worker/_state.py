"""The way of the state from a shard to its successor: a stream between the two (`_stream`), which the successor opens.

It goes through the rings that the two are connected by, which are larger than others, and is never whole anywhere but in the
services: what is on its way is bounded by the stream's window. An item is a list of parts, encoded, as many as make a good
size; or a piece of one that is larger, and then an empty list ends it. A state that is no stream is one large part.

Rejected: a memfd that the old one fills and the successor reads. It would outlive the old one, but that it has ended is no
reason to trust what it has left; it takes the memory of the state once more (a third gigabyte for each), and its pages cost
about as much as all else. And a neighbour that keeps it meanwhile, for the same reasons twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from clockworker._errors import RemoteError, UsageError
from clockworker.ipc import Limits
from clockworker.ipc._keeping import Keeping, Kept
from clockworker.ipc.calls._chain_cy import CHAIN
from clockworker.ipc.calls._definitions import remote_function
from clockworker.ipc.calls._gate import SHUT, WITHIN, Within
from clockworker.ipc.calls._remote import remote
from clockworker.ipc.calls._state import HAND_OVER, TAKE_OVER
from clockworker.shards.worker._current import current_shard

# Of an item. Larger ones go no faster.
ITEM_BYTES = 128 * 1024

# What may be on its way. Where others want the CPUs, each of the two waits for its turn once in half a window.
WINDOW = Limits(window=1 << 20, window_bytes=16 << 20)

_NO_MORE = object()

_encode = msgspec.msgpack.Encoder().encode


class StateNotTaken(Exception):
    """What keeps the state from being taken over. The cause, if there is one, has the traceback that helps."""


@remote
async def hand_over_state(service: str) -> AsyncIterator[list[msgspec.Raw] | bytes]:
    """Run in the old one: what a service hands over."""
    shard = current_shard()
    keeping, most = shard._mesh.keeping, min(ITEM_BYTES, shard._mesh.limits.max_message // 2)
    asked_by = None if (chain := CHAIN.get()) is None else chain.asked_by
    if asked_by is None or asked_by.peer != shard.id or keeping.gate.state != SHUT:
        raise UsageError(f"shard {shard.id} hands over its state to its own successor only, when it is replaced")
    kept = keeping.kept[service]
    with _within():
        parts: Any = kept.instance.hand_over() if kept.state.streams else _once(kept.instance.hand_over())
        try:
            async for item in _items(parts, max(1, most)):
                yield item
        finally:
            await parts.aclose()


remote_function(hand_over_state).limits = WINDOW


async def take_over_state(keeping: Keeping, services: Iterable[str], seconds: float) -> int:
    """Run in the successor: fetch it, of all these. Returns how many bytes it was. Raises `StateNotTaken`."""
    size = 0
    call = keeping.call_twin(hand_over_state)
    deadline = asyncio.get_running_loop().time() + seconds
    for service in services:
        if (kept := keeping.kept.get(service)) is None:
            continue  # started here, and the state is no longer wanted
        arriving = _Arriving(kept, call(service))
        label = f"{kept.state.label}.{TAKE_OVER}()"
        try:
            async with asyncio.timeout_at(deadline) as scope:
                await arriving.take()
        except Exception as error:
            if (failed := arriving.failed) is not None:
                raise failed from failed.__cause__
            if scope.expired():
                raise StateNotTaken(f"{label} had not ended in time (--timeout-hand-over)") from None
            if isinstance(error, StateNotTaken):
                raise
            raise StateNotTaken(f"{label} raised") from error
        finally:
            await arriving.close()
        size += arriving.size
    return size


class _Arriving:
    """What comes of one service. failed: why nothing more does."""

    def __init__(self, kept: Kept, items: Any) -> None:
        self._kept = kept
        self._items = items
        self._parts: Any = self._decoded()
        self.size = 0
        self.failed: StateNotTaken | None = None

    async def take(self) -> None:
        """Give it to the service."""
        instance, state = self._kept.instance, self._kept.state
        with _within():
            if state.streams:
                await instance.take_over(self._parts)
            else:
                await instance.take_over(await anext(self._parts))
        if self.failed is None and await anext(self._parts, _NO_MORE) is not _NO_MORE:
            raise StateNotTaken(
                f"{state.label}.{TAKE_OVER}() returned before it had taken all parts; take and drop what is not wanted"
            )
        if self.failed is not None:  # and it has swallowed that
            raise self.failed

    async def close(self) -> None:
        await self._parts.aclose()
        await self._items.aclose()

    async def _decoded(self) -> AsyncIterator[Any]:
        pieces: list[bytes] = []
        while True:
            try:
                item = await anext(self._items)
            except StopAsyncIteration:
                return
            except Exception as error:
                raise self._fails(_of_hand_over(self._kept, error), error.__cause__) from None
            if isinstance(item, bytes):
                pieces.append(item)
            elif item:
                for part in item:
                    yield self._decode(part)
            else:
                whole = b"".join(pieces)
                pieces.clear()
                yield self._decode(whole)
                del whole

    def _decode(self, part: Any) -> Any:
        self.size += len(memoryview(part))
        try:
            return self._kept.state.decode(part)
        except Exception as error:
            raise self._fails(
                f"{self._kept.state.label}.{TAKE_OVER}() cannot read what it is handed, by another version perhaps: {error}"
            ) from None

    def _fails(self, why: str, cause: BaseException | None = None) -> StateNotTaken:
        self.failed = StateNotTaken(why)
        self.failed.__cause__ = cause
        return self.failed


def _of_hand_over(kept: Kept, error: Exception) -> str:
    said = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
    return f"{kept.state.label}.{HAND_OVER}(), in the shard that is to be replaced, failed: {said}"


async def _once(state: Any) -> AsyncIterator[Any]:
    yield await state


async def _items(parts: AsyncIterator[Any], most: int) -> AsyncIterator[list[msgspec.Raw] | bytes]:
    """The parts, encoded, in items of about `most` bytes."""
    batch: list[msgspec.Raw] = []
    size = 0
    async for part in parts:
        encoded = _encode(part)
        if batch and size + len(encoded) > most:
            yield batch
            batch, size = [], 0
        if len(encoded) > most:
            for piece in _pieces(encoded, most):
                yield piece
            yield []
            continue
        batch.append(msgspec.Raw(encoded))
        size += len(encoded)
    if batch:
        yield batch


def _pieces(encoded: bytes, most: int) -> Iterator[bytes]:
    view = memoryview(encoded)
    for start in range(0, len(view), most):
        yield bytes(view[start : start + most])


@contextmanager
def _within() -> Iterator[None]:
    """What runs inside goes through the gate."""
    outer = WITHIN.get()
    within = Within(always=True)
    WITHIN.set(within)
    try:
        yield
    finally:
        within.ended = True
        WITHIN.set(outer)
