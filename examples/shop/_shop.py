"""What the routes of one shard use: the services, and one counter for `--metrics`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

import clockworker as cw

from ._limiter import Limiter
from ._notices import Notices
from ._sessions import Sessions

ORDERS_AT_ONCE = 5
ORDER_EVERY_S = 60.0
SWEEP_EVERY_S = 1.0


@dataclass(frozen=True)
class Shop:
    shard: cw.Shard
    sessions: cw.Sharded[Sessions]
    limiter: cw.Sharded[Limiter]
    notices: cw.Sharded[Notices]
    orders: cw.Counter

    @classmethod
    async def open(cls, shard: cw.Shard) -> Self:
        return cls(
            shard=shard,
            sessions=await shard.start(Sessions),
            limiter=await shard.start(Limiter, ORDERS_AT_ONCE, ORDER_EVERY_S),
            notices=await shard.start(Notices),
            orders=shard.counter("shop_orders"),
        )

    def cart_of(self, session: str) -> Sessions:
        """The sessions of the shard that has this one: a plain call if that is this shard, one through the rings if not."""
        return self.sessions.on(self.shard.owner(session))

    async def wait_s(self, client: str) -> float:
        """Take one of the orders that the client may place now. Returns 0, or how long there is none, in seconds."""
        return await self.limiter.on(self.shard.owner(client)).take(client)

    async def publish(self, text: str) -> None:
        """Tell all who listen, on all shards."""
        await self.notices.local.publish(text)

    async def sweep_forever(self) -> None:
        """Forget sessions and clients of this shard that have not been heard of for long."""
        while True:
            if self.sessions.is_here:
                await self.sessions.local.sweep()
            await self.limiter.local.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)
