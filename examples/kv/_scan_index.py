"""What SCAN walks along: the keys by hash bucket.

A dict has no position that survives a resize, so a cursor can't point into it. Here a key's bucket depends on the key
alone, and a scan visits each bucket once: a key that is there for the whole scan is returned, exactly once, whatever is
added or removed meanwhile. The number of buckets is fixed; beyond some hundred thousand keys a step returns more keys
than COUNT asked for, which SCAN allows. Sorting the keys at each step, or keeping them sorted, would cost every SCAN or
every insertion a time that grows with their number.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

BUCKETS = 1 << 12
_STEP_BYTES = 1 << 20  # enough keys for one step, whatever COUNT says: a page has to fit in a message between shards


class ScanIndex:
    def __init__(self) -> None:
        self._buckets: list[set[bytes]] = [set() for _ in range(BUCKETS)]

    def add(self, key: bytes) -> None:
        self._buckets[_bucket(key)].add(key)

    def add_all(self, keys: Iterable[bytes]) -> None:
        buckets, bucket = self._buckets, _bucket
        for key in keys:
            buckets[bucket(key)].add(key)

    def remove(self, key: bytes) -> None:
        self._buckets[_bucket(key)].remove(key)

    def scan(self, bucket: int, count: int) -> tuple[int, list[bytes]]:
        """The next bucket, 0 at the end, and the keys from `bucket` on, by whole buckets until there are `count`."""
        keys: list[bytes] = []
        size = 0
        while bucket < BUCKETS and len(keys) < count and size < _STEP_BYTES:
            if members := self._buckets[bucket]:
                keys += members
                size += sum(map(len, members))
            bucket += 1
        return (bucket if bucket < BUCKETS else 0), keys


def _bucket(key: bytes) -> int:
    # Bits from the middle: a shard owns keys by some function of their hash too, and must not be left with few buckets.
    return (crc32(key) >> 10) % BUCKETS
