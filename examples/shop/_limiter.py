"""How often a client may do something, counted once for all shards: on the one that the client's key belongs to.

A bucket of tokens for each client: it holds so many at most, one is taken each time, and one is put back every so many
seconds. Kept as the one number that says when the bucket will be full; a bucket that is full needs no room.
"""

from __future__ import annotations

import time

import clockworker as cw


class Limiter:
    """at_once: what a bucket holds. every_s: seconds after which a token is put back."""

    def __init__(self, shard: cw.Shard, at_once: int, every_s: float) -> None:
        self._every_s = every_s
        self._most_s = at_once * every_s
        self._full_at: dict[str, float] = {}

    @cw.remote
    async def take(self, key: str) -> float:
        """Take a token. Returns 0, or where there is none, and none is taken, the seconds until there will be one."""
        now = time.monotonic()
        full_at = max(now, self._full_at.get(key, now)) + self._every_s
        missing_s = full_at - now - self._most_s
        if missing_s > 0:
            return missing_s
        self._full_at[key] = full_at
        return 0.0

    async def sweep(self) -> None:
        """Forget the buckets that are full."""
        now = time.monotonic()
        for key, full_at in [*self._full_at.items()]:
            if full_at <= now and self._full_at.get(key) == full_at:
                del self._full_at[key]
            await cw.yield_maybe()
