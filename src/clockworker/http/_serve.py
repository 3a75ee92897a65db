"""Serving an application in a shard, from its start-up to its shutdown: lifespan, server, stop, drain, lifespan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Literal

from clockworker._errors import ApplicationError, UsageError
from clockworker.http._access import AccessLog
from clockworker.http._application import Protocol, all_routes, as_asgi3
from clockworker.http._in_queue import replace_run_sync
from clockworker.http._lifespan import Lifespan
from clockworker.http._placed import Host, Placed, places_of
from clockworker.http._proxy import Proxies
from clockworker.http._routes import RouteTable
from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.http._threads import set_threads
from clockworker.http._tls import context_of_options
from clockworker.http._wsgi import Wsgi
from clockworker.shards.config._http import Route, shard_of
from clockworker.shards.config._routes import beyond, lacking_for_application
from clockworker.shards.worker._shard import Shard

if TYPE_CHECKING:
    from clockworker.http._websocket import WebSocket

log = logging.getLogger("clockworker.http")

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
    """Serve an application until the shard stops, and return when all that was asked has been answered and it has shut down."""
    config = shard._config.http
    set_threads(config)
    first = shard.executor.queues()[0]
    every = all_routes(config, routes, app)
    table = RouteTable(every)
    if (mistake := beyond(every, shard.count)) is not None:
        raise ApplicationError(mistake)
    targets = [_target(shard, route, number, table, bind or "") for number, route in enumerate(every)]
    _check_threads(shard, every, interface)
    targets.append(Target("other", first, fresh_context=config.reset_contextvars))
    shared: dict[str, Any] = {**(state or {}), "shard": shard}
    asgi: Callable[..., Any] = Wsgi(app, shard._blocking) if interface == "wsgi" else as_asgi3(app, interface)
    of_lifespan = first if config.lifespan_queue is None else shard.queue(config.lifespan_queue)
    mode = "off" if interface == "wsgi" else config.lifespan
    lifespan = Lifespan(asgi, mode, shared, partial(of_lifespan.spawn, name="lifespan"))
    server = HttpServer(
        asgi,
        config,
        state=shared,
        table=table,
        targets=targets,
        proxies=Proxies(config.forwarded_allow_ips) if config.proxy_headers or config.proxy_protocol else None,
        access_log=AccessLog(shard.id, shard._config.access_log_format) if shard._config.access_log else None,
        websockets=None if interface == "wsgi" else _websocket(),
        looks=shard._look_at_requests,
        is_busy=shard.executor._core.is_busy,
    )
    context = context_of_options(shard._config) if ssl is None else ssl
    if context and config.proxy_protocol:
        raise UsageError(
            "--proxy-protocol is for servers without TLS: a proxy says it before the handshake; give ssl=False"
        )
    host = Host(bind or "", asgi, shared, server.failed) if any(route.place for route in every) else None
    shard._check_serves(bind, context)  # before the application has begun what it would have to end
    await lifespan.startup()
    try:
        shard._requests.add(targets)
        if host is not None:
            host.open()
        shard._when_cut(server.log_cut)
        shard._when_cut(lifespan.log_cut)
        shard._serve(server, first, bind, None, context)
        await shard.wait_stopped()
        await shard._drain_server(bind)
        await server.wait_done()
        for placed in places_of(targets):
            await placed.leave()
        if host is not None:
            await host.close(shard._is_connected, for_good=shard._stops_for_good)
    finally:
        await lifespan.shutdown()


def _websocket() -> type[WebSocket]:
    """Its library is imported now: at the first handshake that would be a stall."""
    from clockworker.http._websocket import WebSocket

    return WebSocket


def _target(shard: Shard, route: Route, number: int, table: RouteTable, bind: str) -> Target:
    place = shard.id if route.place is None else shard_of(route.place)
    return Target(
        route.path if number < MOST_LABELS else "other",
        shard.executor.queues()[0] if route.queue is None else shard.queue(route.queue),
        group=route.group,
        after=None if route.after is None else shard.queue(route.after),
        limit=route.limit,
        most_waiting=route.waiting,
        path_value=partial(table.value, number),
        fresh_context=shard._config.http.reset_contextvars,
        in_queue=not route.threads,
        app=None if place == shard.id else Placed(shard, place, bind),
    )


def _check_threads(shard: Shard, routes: Sequence[Route], interface: Protocol) -> None:
    """See to routes with `threads = false`. Raises `ApplicationError` for a queue that is not preemptive."""
    of_queue = [route for route in routes if not route.threads]
    if not of_queue:
        return
    queues = {str(queue.key): queue._queue.preemptive for queue in shard.executor.queues()}
    mistake = lacking_for_application(of_queue, [*queues], shard.id, [name for name, is_it in queues.items() if is_it])
    if mistake is not None:
        raise ApplicationError(mistake)
    if interface == "wsgi":
        return
    if replace_run_sync():
        log.info(
            "anyio.to_thread.run_sync is replaced: in requests of routes with threads = false plain functions run in the "
            "queue"
        )
    else:
        log.warning(
            "threads = false of route %s has no effect: the application does not use anyio, as Starlette and FastAPI do",
            of_queue[0].path,
        )
