"""The service whose keys outlive a replacement of their shard."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from ._service import KeyValue

PART_BYTES = 128 << 10


class Keys(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Some keys. deadlines_ms: of those that have one."""

    values: dict[bytes, bytes]
    deadlines_ms: dict[bytes, int]


class KeepingKeyValue(KeyValue):
    async def hand_over(self) -> AsyncIterator[Keys]:
        for values, deadlines_ms in self.store.items(PART_BYTES):
            yield Keys(values, deadlines_ms)

    async def take_over(self, parts: AsyncIterator[Keys]) -> None:
        async for part in parts:
            self.store.load(part.values, part.deadlines_ms)
