"""What other servers call our options, and what was probably meant by one that there is not."""

from __future__ import annotations

from collections.abc import Iterable

from clockworker.shards.config._spelling import nearest

# What other servers call the same thing.
OTHER_NAMES = {
    "backpressure": "limit-concurrency",
    "c": "config",
    "ca-certs": "ssl-ca-certs",
    "cert-reqs": "ssl-cert-reqs",
    "certfile": "ssl-certfile",
    "ciphers": "ssl-ciphers",
    "keep-alive": "timeout-keep-alive",
    "keyfile": "ssl-keyfile",
    "keyfile-password": "ssl-keyfile-password",
    "h11-max-incomplete-size": "h11-max-incomplete-event-size",
    "url-path-prefix": "root-path",
    "ssl-certificate": "ssl-certfile",
    "chdir": "app-dir",
    "env": "env-file",
    "http": "http2",
    "http-protocols": "http2",
    "http1-buffer-size": "h11-max-incomplete-event-size",
    "http1-header-read-timeout": "timeout-request-header",
    "pythonpath": "app-dir",
    "read-timeout": "timeout-request-header",
    "reload-extra-file": "reload-dir",
    "reuse-port": "distribution",
    "ssl-ca": "ssl-ca-certs",
    "ssl-client-verify": "ssl-cert-reqs",
    "ssl-protocol-min": "ssl-version",
    "statsd-host": "metrics",
    "uds-permissions": "uds-mode",
    "verify-mode": "ssl-cert-reqs",
    "access-logformat": "access-log-format",
    "access-log-fmt": "access-log-format",
    "max-requests": "limit-max-requests",
    "max-requests-jitter": "limit-max-requests-jitter",
    "reload-ignore-patterns": "reload-exclude",
    "workers-lifetime": "shard-lifetime",
    "workers-max-rss": "shard-max-rss",
    "working-dir": "app-dir",
    "graceful-timeout": "timeout-graceful-shutdown",
    "pid": "pid-file",
    "pidfile": "pid-file",
    "reload-paths": "reload-dir",
    "respawn-failed-workers": "respawn",
    "timeout": "timeout-shard-healthcheck",
    "timeout-worker-healthcheck": "timeout-shard-healthcheck",
    "unix": "uds",
    "unix-socket": "uds",
    "worker-connections": "max-connections",
    "websocket-max-message-size": "ws-max-size",
    "websocket-ping-interval": "ws-ping-interval",
    "workers": "shards",
    "workers-kill-timeout": "timeout-graceful-shutdown",
}


def nearest_option(name: str, known: Iterable[str]) -> str | None:
    """What was probably meant; `name` and `known` are without dashes in front."""
    spelled = {other.replace("_", "-"): other for other in known}
    name = name.replace("_", "-").lower()
    same = OTHER_NAMES.get(name)
    if same not in spelled:
        same = nearest(name, spelled) if len(name) > 1 else None
    return None if same is None else spelled[same]
