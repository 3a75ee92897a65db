"""TLS as HTTP's servers have it: what they offer in a handshake, and what they say of it in the scope of a request."""

from __future__ import annotations

import ssl
from typing import Any

from clockworker.shards.config._config import ServeConfig
from clockworker.shards.machine._certificates import context_of


def context_of_options(config: ServeConfig) -> ssl.SSLContext | None:
    """What the options ask for, if they ask for TLS; and HTTP/2, where that is to be had. It is no other server's context: a
    server of streams offers no HTTP."""
    context = context_of(config)
    if context is not None:
        context.set_alpn_protocols(["h2", "http/1.1"] if config.http.http2 and speaks_http2() else ["http/1.1"])
    return context


def speaks_http2() -> bool:
    """Whether h2 is installed."""
    try:
        import clockworker.http._http2  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("h2", "hyperframe"):
            raise
        return False
    return True
