"""Serving an application in a shard, from its start-up to its shutdown: lifespan, server, stop, drain, lifespan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from ssl import SSLContext
from typing import Any, Literal

from clockworker.http._access import AccessLog
from clockworker.http._application import Protocol, all_routes, as_asgi3
from clockworker.http._lifespan import Lifespan
from clockworker.http._routes import RouteTable
from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.shards.config._http import Route
from clockworker.shards.worker._shard import Shard

MOST_LABELS = 64  # routes that are counted by their names


async def serve(
    shard: Shard,
    app: Any,
    *,
    state: Mapping[str, Any] | None = None,
    routes: Sequence[Route] = (),
    bind: str | None = None,
    ssl: SSLContext | Literal[False] | None = None,
    interface: Protocol = "asgi3",
) -> None:
    """Serve an application until the shard stops, and return when all that was asked has been answered."""
    config = shard._config.http
    shared: dict[str, Any] = {**(state or {}), "shard": shard}
    every = all_routes(config, routes, app)
    table = RouteTable(every)
    targets = [_target(shard, route, number, table) for number, route in enumerate(every)]
    targets.append(Target("other", shard.executor.queues()[0], fresh_context=config.reset_contextvars))
    called = as_asgi3(app, interface)
    lifespan = Lifespan(
        called,
        "off" if interface == "wsgi" else config.lifespan,
        shared,
        shard._queue_or_first(config.lifespan_queue).spawn,
    )
    server = HttpServer(
        called,
        config,
        state=shared,
        table=table,
        targets=targets,
        access_log=AccessLog(shard.id) if shard._config.access_log else None,
    )
    shard._check_serves(bind, ssl)  # before an application has begun what would have to be undone
    await lifespan.startup()
    try:
        shard._requests.add(targets)
        shard._when_cut(server.log_cut)
        shard._when_cut(lifespan.log_cut)
        shard._serve(server, shard.executor.queues()[0], bind, None, ssl)
        await shard.wait_stopped()
        await shard._drain_server(bind)
        await server.wait_done()
    finally:
        await lifespan.shutdown()


def _target(shard: Shard, route: Route, number: int, table: RouteTable) -> Target:
    return Target(
        route.path if number < MOST_LABELS else "other",
        shard.executor.queues()[0] if route.queue is None else shard.queue(route.queue),
        group=route.group,
        after=None if route.after is None else shard.queue(route.after),
        limit=route.limit,
        most_waiting=route.waiting,
        path_value=partial(table.value, number),
        fresh_context=shard._config.http.reset_contextvars,
    )
