"""Serving an application in a shard, from its start-up to its shutdown: lifespan, server, stop, drain, lifespan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ssl import SSLContext
from typing import Any, Literal

from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.shards.config._http import Route
from clockworker.shards.worker._shard import Shard


class NoTable:
    """Of a server that has no routes."""

    uses_host = False

    def find(self, method: str, path: str, host: str) -> int:
        return -1


async def serve(
    shard: Shard,
    app: Any,
    *,
    state: Mapping[str, Any] | None = None,
    routes: Sequence[Route] = (),
    bind: str | None = None,
    ssl: SSLContext | Literal[False] | None = None,
) -> None:
    """Serve an ASGI 3 application until the shard stops, and return when all that was asked has been answered."""
    config = shard._config.http
    shared: dict[str, Any] = {**(state or {}), "shard": shard}
    other = Target("other", shard.executor.queues()[0], fresh_context=config.reset_contextvars)
    server = HttpServer(app, config, state=shared, table=NoTable(), targets=[other])
    shard._serve(server, shard.executor.queues()[0], bind, None, ssl)
    await shard.wait_stopped()
    await shard._drain_server(bind)
