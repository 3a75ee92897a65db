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
from clockworker.shards.config._queues import parse_queues, parse_shard_queues
from clockworker.shards.config._schedulers import SCHEDULERS
from clockworker.shards.config._spelling import nearest

PREFIX = "CLOCKWORKER_"

# The groups of the help, in its order.
GROUPS = ("shards", "queues", "sockets", "application", "life", "logs", "operations")


class Option(msgspec.Struct, frozen=True):
    """`read` makes a value of the text, or of all texts if the option may be repeated; a switch has no metavar.

    takes: the types that its value may have in the file. Empty: it is not for the file.
    """

    group: str
    flags: tuple[str, ...]
    metavar: str
    read: Callable[[Any], object]
    help: str
    takes: tuple[type, ...] = (str,)
    repeat: bool = False
    other_variable: str | None = None

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
        "queues",
        ("--queue",),
        "NAME:SHARE[:SCHEDULER]",
        parse_queues,
        "a queue of each shard: one that the application declares, with another share or scheduler, or one more; schedulers: "
        f"{', '.join(SCHEDULERS)}, or MODULE:CLASS of your own; may be repeated; if there is none: default:1",
        takes=(list,),
        repeat=True,
    ),
    Option(
        "queues",
        ("--shard-queue",),
        "SHARD:NAME:SHARE[:SCHEDULER]",
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
        "a line for each connection; default off",
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

# What other servers call the same thing.
OTHER_NAMES = {
    "c": "config",
    "ca-certs": "ssl-ca-certs",
    "cert-reqs": "ssl-cert-reqs",
    "certfile": "ssl-certfile",
    "ciphers": "ssl-ciphers",
    "keyfile": "ssl-keyfile",
    "keyfile-password": "ssl-keyfile-password",
    "ssl-certificate": "ssl-certfile",
    "chdir": "app-dir",
    "graceful-timeout": "timeout-graceful-shutdown",
    "limit-concurrency": "max-connections",
    "pid": "pid-file",
    "pidfile": "pid-file",
    "reload-paths": "reload-dir",
    "respawn-failed-workers": "respawn",
    "threads": "blocking-threads",
    "timeout": "timeout-shard-healthcheck",
    "timeout-worker-healthcheck": "timeout-shard-healthcheck",
    "unix": "uds",
    "unix-socket": "uds",
    "worker-connections": "max-connections",
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
