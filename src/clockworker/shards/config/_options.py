"""The options of `clockworker-serve`, in one table that the command line, the environment, `clockworker.toml` and the help
all obey.

An option's name is its first flag's: `--app-dir` is `CLOCKWORKER_APP_DIR` in the environment and `app_dir` in the file.
Texts are read by `read`, wherever they come from, so that a value is right or wrong for one reason only. The file has
types; `takes` are those that make sense, and are turned into the text that `read` expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from clockworker.shards.config import _parse as parse
from clockworker.shards.config._config import METRICS_PORT
from clockworker.shards.config._declaration import check_name
from clockworker.shards.config._queues import parse_queues, parse_shard_queues
from clockworker.shards.config._routes import parse_routes
from clockworker.shards.config._schedulers import SCHEDULERS
from clockworker.shards.config._spelling import nearest

PREFIX = "CLOCKWORKER_"

# The groups of the help, in its order.
GROUPS = ("shards", "queues", "sockets", "application", "http", "life", "logs", "operations")


class Option(msgspec.Struct, frozen=True):
    """`read` makes a value of the text, or of all texts if the option may be repeated; a switch has no metavar.

    takes: the types that its value may have in the file. Empty: it is not for the file.
    between: what stands between several values in a variable, as a regular expression.
    """

    group: str
    flags: tuple[str, ...]
    metavar: str
    read: Callable[[Any], object]
    help: str
    takes: tuple[type, ...] = (str,)
    repeat: bool = False
    other_variable: str | None = None
    between: str = r"\s+|,(?!mode=)"  # `unix:PATH,mode=660` is one

    @property
    def name(self) -> str:
        return self.flags[0].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,) if self.other_variable is None else (self.variable, self.other_variable)


OPTIONS = (
    Option(
        "application",
        ("app",),
        "APP",
        parse.parse_app,
        "the application, MODULE:ATTRIBUTE",
    ),
    Option(
        "shards",
        ("--shards", "--workers", "-w"),
        "N|auto",
        parse.parse_shards,
        "number of shards, each a process with a CPU of its own; auto, the default: one a CPU",
        takes=(int, str),
        other_variable="WEB_CONCURRENCY",
    ),
    Option(
        "shards",
        ("--spares",),
        "N",
        parse.parse_spares,
        "processes that have imported all but APP and wait to take the place of a shard that dies or is replaced; default 1",
        takes=(int,),
    ),
    Option(
        "shards",
        ("--cpus",),
        "LIST",
        parse.parse_cpus,
        "CPUs to use, in this order, for example 0-3,8",
        takes=(str, list),
    ),
    Option("shards", ("--no-pin",), "", parse.parse_flag, "leave it to the kernel where shards run", takes=(bool,)),
    Option(
        "shards",
        ("--idle-poll",),
        "US",
        parse.parse_idle_poll,
        "microseconds that an idle shard polls before it sleeps; default 200 if each has a CPU to itself, else 0",
        takes=(int,),
    ),
    Option(
        "shards",
        ("--credit",),
        "N",
        parse.parse_credit,
        "calls in flight from a shard to another, for each queue and each depth of calls within calls; more wait; default 1024",
        takes=(int,),
    ),
    Option(
        "shards",
        ("--max-message",),
        "SIZE",
        parse.parse_max_message,
        "bytes of a call between shards, encoded, or of its result; for example 64MiB; default 16MiB",
        takes=(int, str),
    ),
    Option(
        "shards",
        ("--blocking-threads",),
        "N",
        parse.parse_blocking_threads,
        "threads of each shard for run_blocking(), for each depth of calls within calls; default 8",
        takes=(int,),
    ),
    Option(
        "shards",
        ("--switch-interval", "--gil-switch-interval"),
        "S",
        parse.parse_switch_interval,
        "seconds that a thread keeps the interpreter from another that waits, the loop's among them; default Python's 0.005",
        takes=(int, float),
        other_variable="CLOCKWORKER_GIL_SWITCH_INTERVAL",
    ),
    Option(
        "queues",
        ("--queue",),
        "NAME:SHARE[:SCHEDULER][:preemptive]",
        parse_queues,
        "a queue of each shard: one that the application declares, with another share or scheduler, or one more; schedulers: "
        f"{', '.join(SCHEDULERS)}, or MODULE:CLASS of your own; preemptive: Python that never awaits is cut into slices; may "
        "be repeated; if there is none: default:1",
        takes=(list,),
        repeat=True,
    ),
    Option(
        "queues",
        ("--shard-queue",),
        "SHARD:NAME:SHARE[:SCHEDULER][:preemptive]",
        parse_shard_queues,
        "a queue that this shard alone has, or has with another share or scheduler; may be repeated",
        takes=(),
        repeat=True,
    ),
    Option(
        "queues",
        ("--config",),
        "FILE",
        str,
        "configuration in TOML; default clockworker.toml in the working directory, if it is there",
        takes=(),
    ),
    Option(
        "sockets",
        ("--bind", "-b"),
        "[NAME=]HOST:PORT|unix:PATH",
        parse.parse_binds,
        "address to listen on, for start_server(bind=NAME) if it has a name; may be repeated; none: no address; "
        "default 127.0.0.1:8000",
        takes=(str, list),
        repeat=True,
    ),
    Option("sockets", ("--host",), "HOST", parse.parse_host, "address to listen on; default 127.0.0.1"),
    Option(
        "sockets",
        ("--port", "-p"),
        "PORT",
        parse.parse_port,
        "port to listen on, 0: a free one; default 8000",
        takes=(int,),
    ),
    Option(
        "sockets",
        ("--uds",),
        "PATH",
        parse.parse_uds,
        "Unix socket to listen on; PATH,mode=660: who may write it may connect; default 666",
    ),
    Option(
        "sockets",
        ("--uds-mode",),
        "MODE",
        parse.parse_mode,
        "mode of the Unix sockets that are given none themselves, for example 660",
    ),
    Option(
        "sockets",
        ("--fd",),
        "N",
        parse.parse_fd,
        "listening socket that is already open under this number",
        takes=(int,),
    ),
    Option(
        "sockets",
        ("--backlog",),
        "N",
        parse.parse_backlog,
        "connections that may wait at each socket; default 2048",
        takes=(int,),
    ),
    Option(
        "sockets",
        ("--distribution",),
        "HOW",
        parse.parse_distribution,
        "how connections come to shards: kernel (its hash), least-connections, fixed (by client address); default kernel",
    ),
    Option(
        "sockets",
        ("--max-connections",),
        "N",
        parse.parse_max_connections,
        "connections that each shard holds open at once, those of servers with a limit of their own apart; more wait in the "
        "backlog",
        takes=(int,),
    ),
    Option(
        "sockets",
        ("--ssl-certfile",),
        "FILE",
        parse.parse_path,
        "certificate of the server, with its chain, in PEM: all servers speak TLS but those with an ssl= of their own",
    ),
    Option("sockets", ("--ssl-keyfile",), "FILE", parse.parse_path, "its private key; default: in the same file"),
    Option(
        "sockets",
        ("--ssl-keyfile-password",),
        "TEXT",
        str,
        "password of the key; the variable shows it to fewer than the command line does",
    ),
    Option("sockets", ("--ssl-ca-certs",), "FILE", parse.parse_path, "authorities of the clients' certificates"),
    Option(
        "sockets",
        ("--ssl-crl",),
        "FILE",
        parse.parse_path,
        "those of the clients' certificates that are revoked: lists of all authorities of a chain, in PEM",
    ),
    Option(
        "sockets",
        ("--ssl-cert-reqs",),
        "HOW",
        parse.parse_cert_reqs,
        "whether clients show a certificate: none, optional, required; default none",
        takes=(str, int),
    ),
    Option("sockets", ("--ssl-ciphers",), "LIST", str, "ciphers of TLS 1.2, as OpenSSL names them; default: Python's"),
    Option(
        "sockets",
        ("--ssl-version",),
        "1.2|1.3",
        parse.parse_tls_version,
        "oldest version of TLS; default 1.2",
    ),
    Option(
        "application",
        ("--factory",),
        "",
        parse.parse_flag,
        "APP is a function that returns the application",
        takes=(bool,),
    ),
    Option("application", ("--app-dir",), "DIR", str, "directory to import APP from; default the working directory"),
    Option("application", ("--env-file",), "FILE", parse.parse_path, "file of NAME=VALUE lines for the environment"),
    Option(
        "application",
        ("--reload",),
        "",
        parse.parse_flag,
        "restart the shards when a source file changes",
        takes=(bool,),
    ),
    Option(
        "application",
        ("--reload-dir",),
        "DIR",
        tuple,
        "directory to watch, instead of --app-dir; may be repeated",
        takes=(str, list),
        repeat=True,
    ),
    Option(
        "http",
        ("--interface",),
        "WHAT",
        parse.parse_interface,
        "what APP speaks: auto (`async def main(shard)`, or else what its parameters say), asgi3, asgi2, wsgi; default auto",
    ),
    Option(
        "http",
        ("--route",),
        "PATH=QUEUE[:GROUP]",
        parse_routes,
        "queue of the requests of a path such as /reports/{tenant}/*; GROUP: client, host, header:NAME or path:NAME; may be "
        "repeated: the first that matches",
        takes=(list,),
        repeat=True,
    ),
    Option(
        "http",
        ("--lifespan",),
        "auto|on|off",
        parse.parse_lifespan,
        "whether the application has a lifespan; auto, the default: unless it raises when asked",
    ),
    Option("http", ("--lifespan-queue",), "NAME", check_name, "queue of the lifespan; default: the first"),
    Option(
        "http",
        ("--reset-contextvars",),
        "",
        parse.parse_flag,
        "run each request in a fresh context, not in a copy of its connection's",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--proxy-headers", "--no-proxy-headers"),
        "",
        parse.parse_flag,
        "take the client's address and scheme from X-Forwarded-For and -Proto of proxies that are trusted; default on",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--forwarded-allow-ips",),
        "LIST",
        parse.parse_trusted,
        "addresses and networks of proxies that are trusted, unix for Unix sockets, * for all; default 127.0.0.1,::1",
        takes=(str, list),
        other_variable="FORWARDED_ALLOW_IPS",
    ),
    Option(
        "http",
        ("--http2", "--no-http2"),
        "",
        parse.parse_flag,
        "offer HTTP/2 in TLS handshakes, where h2 is installed; default on",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--root-path",),
        "PATH",
        parse.parse_root_path,
        "path below which a proxy serves the application, and which it takes away",
    ),
    Option(
        "http",
        ("--header",),
        "NAME:VALUE",
        parse.parse_headers,
        "header of each response; may be repeated; in the variable a line each",
        takes=(str, list),
        repeat=True,
        between="\n",
    ),
    Option(
        "http",
        ("--server-header", "--no-server-header"),
        "",
        parse.parse_flag,
        "whether responses have a Server header; default on",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--date-header", "--no-date-header"),
        "",
        parse.parse_flag,
        "whether responses have a Date header; default on",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--ws-max-size",),
        "SIZE",
        parse.parse_ws_max_size,
        "bytes of a WebSocket message; more: closed with 1009; default 16MiB",
        takes=(int, str),
    ),
    Option(
        "http",
        ("--ws-max-queue",),
        "N",
        parse.parse_ws_max_queue,
        "messages that wait for a WebSocket's application; more are not read; default 32",
        takes=(int,),
    ),
    Option(
        "http",
        ("--ws-ping-interval",),
        "S",
        parse.parse_seconds,
        "seconds between two pings of a WebSocket, 0: none; default 20",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--ws-ping-timeout",),
        "S",
        parse.parse_seconds,
        "seconds that the answer to a ping may take, or closed with 1011; 0: as long as it takes; default 20",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--ws-per-message-deflate", "--no-ws-per-message-deflate"),
        "",
        parse.parse_flag,
        "compress WebSocket messages where the client can; default on",
        takes=(bool,),
    ),
    Option(
        "http",
        ("--limit-request-line",),
        "SIZE",
        parse.parse_head_size,
        "bytes of a request's first line; more: 414; default 4094",
        takes=(int, str),
    ),
    Option(
        "http",
        ("--limit-request-field-size",),
        "SIZE",
        parse.parse_head_size,
        "bytes of one header; more: 431; default 8190",
        takes=(int, str),
    ),
    Option(
        "http",
        ("--limit-request-fields",),
        "N",
        parse.parse_limit_request_fields,
        "headers of a request; more: 431; default 100",
        takes=(int,),
    ),
    Option(
        "http",
        ("--h11-max-incomplete-event-size",),
        "SIZE",
        parse.parse_event_size,
        "bytes of a request's whole head; more: 431; default 64KiB",
        takes=(int, str),
    ),
    Option(
        "http",
        ("--timeout-request-header",),
        "S",
        parse.parse_limit,
        "seconds that a request's head may take; more: 408; default 10",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--timeout-request-body",),
        "S",
        parse.parse_limit,
        "seconds that a body which is asked for may stand still; more: cut; default 30",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--timeout-keep-alive",),
        "S",
        parse.parse_limit,
        "seconds between two requests of a connection; more: closed; default 5",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--timeout-response",),
        "S",
        parse.parse_limit,
        "seconds in which a client takes nothing of its response; more: cut; default 60",
        takes=(int, float),
    ),
    Option(
        "http",
        ("--limit-concurrency",),
        "N",
        parse.parse_limit_concurrency,
        "requests and WebSockets of each shard at once; more: 503",
        takes=(int,),
    ),
    Option(
        "http",
        ("--threads",),
        "N",
        parse.parse_threads,
        "threads of each shard for `def` endpoints, WSGI and run_blocking() alike; unless given, anyio's 40, Python's own "
        "number, and --blocking-threads",
        takes=(int,),
    ),
    Option(
        "life",
        ("--timeout-graceful-shutdown",),
        "S",
        parse.parse_seconds,
        "seconds that open requests have to finish when told to stop; default 30",
        takes=(int, float),
    ),
    Option(
        "life",
        ("--timeout-shard-healthcheck",),
        "S",
        parse.parse_seconds,
        "seconds that a shard's loop may be blocked before the shard is killed and restarted, 0: for ever; default 30",
        takes=(int, float),
    ),
    Option(
        "life",
        ("--timeout-startup",),
        "S",
        parse.parse_limit,
        "seconds that a shard has to become ready; default 60",
        takes=(int, float),
    ),
    Option(
        "life",
        ("--respawn", "--no-respawn"),
        "",
        parse.parse_flag,
        "restart a shard that dies, or else stop; default on",
        takes=(bool,),
    ),
    Option(
        "logs", ("--log-level",), "LEVEL", parse.parse_log_level, f"one of {', '.join(parse.LOG_LEVELS)}; default info"
    ),
    Option("logs", ("--log-format",), "text|json", parse.parse_log_format, "how lines look; default text"),
    Option(
        "logs",
        ("--slow-poll",),
        "S",
        parse.parse_seconds,
        "log steps of tasks that take longer than these seconds; 0: none; default 0.1; a queue may have its own in the file",
        takes=(int, float),
    ),
    Option("logs", ("--log-config",), "FILE", parse.parse_path, "logging.config dictionary, in TOML or JSON"),
    Option(
        "logs",
        ("--access-log", "--no-access-log"),
        "",
        parse.parse_flag,
        "a line for each HTTP request, and each connection of other servers; default off",
        takes=(bool,),
    ),
    Option(
        "operations",
        ("--metrics",),
        "[HOST:PORT]",
        parse.parse_metrics,
        f"serve metrics, health and statistics over HTTP; at 127.0.0.1:{METRICS_PORT} unless given",
        takes=(str, bool),
    ),
    Option(
        "operations",
        ("--control",),
        "PATH",
        parse.parse_socket_path,
        "Unix socket for clockworker-top and other tools",
    ),
    Option("operations", ("--pid-file",), "PATH", parse.parse_path, "file to write the supervisor's pid to"),
    Option(
        "operations",
        ("--check-config",),
        "",
        parse.parse_flag,
        "check the configuration and import the application, then exit: 0 if all is well",
        takes=(),
    ),
    Option(
        "operations",
        ("--print-config",),
        "",
        parse.parse_flag,
        "print the configuration as TOML, with where each value came from, then exit",
        takes=(),
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}

# Options that have two long names, by the second one as the file has it.
ALIASES = {"gil_switch_interval": "switch_interval"}

# Those of HttpConfig, whose fields have these names but for a few.
OF_HTTP = tuple(option.name for option in OPTIONS if option.group == "http")
HTTP_FIELDS = {"route": "routes", "header": "headers", "h11_max_incomplete_event_size": "incomplete_event_size"}

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
    "umask": "uds-mode",
    "verify-mode": "ssl-cert-reqs",
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
