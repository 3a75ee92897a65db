"""The keys of one shard: values, deadlines and the clock they are held against.

An expired key is removed when it is next touched, or by `sweep`, whichever comes first. The sweep finds it in a heap of
(deadline, key); a deadline that was changed or dropped leaves its old entry there, which counts for nothing unless it
is still the key's deadline, and the heap is rebuilt when most of it is such leftovers. Redis samples keys at random
instead, for want of an order; a heap finds the due ones alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from ._scan_index import ScanIndex


class Store:
    """Byte strings by key. `now_ms` is the wall clock in milliseconds; deadlines are on the same clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self._values: dict[bytes, bytes] = {}
        self._deadlines_ms: dict[bytes, int] = {}  # a subset of the keys of `_values`
        self._due: list[tuple[int, bytes]] = []  # heap; holds at least every item of `_deadlines_ms`
        self._index = ScanIndex()  # exactly the keys of `_values`

    def __len__(self) -> int:
        """Keys held, those included whose deadline has passed unnoticed; so counts Redis."""
        return len(self._values)

    @property
    def expiring(self) -> int:
        """Keys that have a deadline."""
        return len(self._deadlines_ms)

    def get(self, key: bytes) -> bytes | None:
        if key in self._deadlines_ms:
            self._expire(key)
        return self._values.get(key)

    def set(self, key: bytes, value: bytes, *, keep_deadline: bool = False) -> None:
        if not keep_deadline:
            self._deadlines_ms.pop(key, None)
        elif key in self._deadlines_ms:
            self._expire(key)
        if key not in self._values:
            self._index.add(key)
        self._values[key] = value

    def remove(self, key: bytes) -> bool:
        """Whether the key was there."""
        if self.get(key) is None:
            return False
        self._drop(key)
        return True

    def deadline_ms(self, key: bytes) -> int | None:
        """When the key expires; None if it has no deadline, or is not there."""
        if key in self._deadlines_ms:
            self._expire(key)
        return self._deadlines_ms.get(key)

    def set_deadline(self, key: bytes, deadline_ms: int) -> None:
        """Give a key that is there a deadline. One that has passed removes it at once."""
        if deadline_ms <= self.now_ms():
            self._drop(key)
            return
        self._deadlines_ms[key] = deadline_ms
        heapq.heappush(self._due, (deadline_ms, key))
        if len(self._due) > 64 + 2 * len(self._deadlines_ms):
            self._due = [(deadline_ms, key) for key, deadline_ms in self._deadlines_ms.items()]
            heapq.heapify(self._due)

    def clear_deadline(self, key: bytes) -> bool:
        """Whether the key had a deadline."""
        return self.deadline_ms(key) is not None and self._deadlines_ms.pop(key) is not None

    def clear(self) -> None:
        self._values = {}
        self._deadlines_ms = {}
        self._due = []
        self._index = ScanIndex()

    def scan(self, bucket: int, count: int) -> tuple[int, list[bytes]]:
        """Keys from `bucket` on, about `count` of them; before them where to go on, 0 at the end."""
        bucket, keys = self._index.scan(bucket, count)
        return bucket, [key for key in keys if self.get(key) is not None]

    def items(self, limit: int) -> Iterator[tuple[dict[bytes, bytes], dict[bytes, int]]]:
        """Everything, in parts of about `limit` bytes: values by key, and deadlines. Nothing may be changed meanwhile."""
        values: dict[bytes, bytes] = {}
        size = 0
        for key, value in self._values.items():
            values[key] = value
            size += len(key) + len(value)
            if size >= limit:
                yield values, self._deadlines_of(values)
                values, size = {}, 0
        if values:
            yield values, self._deadlines_of(values)

    def load(self, values: dict[bytes, bytes], deadlines_ms: dict[bytes, int]) -> None:
        """Take what `items` gave, of keys that are not there."""
        self._values.update(values)
        self._deadlines_ms.update(deadlines_ms)
        self._index.add_all(values)
        for key, deadline_ms in deadlines_ms.items():
            heapq.heappush(self._due, (deadline_ms, key))

    def sweep(self, limit: int) -> int:
        """Remove what has expired, looking at no more than `limit` deadlines. Fewer returned: none is due any more."""
        now_ms = self.now_ms()
        for looked in range(limit):
            if not self._due or self._due[0][0] > now_ms:
                return looked
            deadline_ms, key = heapq.heappop(self._due)
            if self._deadlines_ms.get(key) == deadline_ms:
                self._drop(key)
        return limit

    def _deadlines_of(self, values: dict[bytes, bytes]) -> dict[bytes, int]:
        if not self._deadlines_ms:
            return {}
        return {key: self._deadlines_ms[key] for key in values if key in self._deadlines_ms}

    def _expire(self, key: bytes) -> None:
        if self._deadlines_ms[key] <= self.now_ms():
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        del self._values[key]
        self._deadlines_ms.pop(key, None)
        self._index.remove(key)
