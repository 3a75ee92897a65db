"""A shop: FastAPI on every shard, and what others keep in Redis is kept by the shards themselves.

    pip install 'clockworker[http]' fastapi
    clockworker-serve examples.shop:main --shards 2

A browser's connection lands on any shard. Its cart lies on the shard that its session's name belongs to, as does the count of
what a client has ordered lately; a notice goes by a topic to every shard that has somebody who listens, and that passes
it on to its WebSockets and event streams. The report computes in the queue `background`, by so much as `foreground` leaves it.
All of it is in memory. Carts outlive a replacement of their shard (SIGHUP), which hands them over to its successor; they die
with a shard that crashes.

In reading order: `_routes` (what the browser asks for), `_shop` (what the routes use), `_sessions`, `_limiter` and `_notices`
(the services), `_report`, `_catalogue` (what is for sale), `_served_by` (which shard and queue have answered).
"""

from __future__ import annotations

import clockworker as cw

from ._routes import app
from ._shop import Shop


@cw.application(queues=[cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background")])
async def main(shard: cw.Shard) -> None:
    shop = await Shop.open(shard)
    shard.queue("background").spawn(shop.sweep_forever(), name="sweep")
    await shard.serve_asgi(app, state={"shop": shop})
