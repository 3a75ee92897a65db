"""The options of `clockworker-serve`, in one table that the command line, the environment, `clockworker.toml` and the help
all obey. Those of HTTP stand in `_http_options`, a cluster's in `_cluster_options`; what other servers call them, in
`_other_names`.
"""

from __future__ import annotations

from clockworker.shards.config import _parse as parse
from clockworker.shards.config._access_format import parse_access_log_format
from clockworker.shards.config._cluster_options import CLUSTER_OPTIONS
from clockworker.shards.config._config import METRICS_PORT
from clockworker.shards.config._groups import parse_groups
from clockworker.shards.config._http_options import HTTP_OPTIONS
from clockworker.shards.config._option import Option
from clockworker.shards.config._queues import parse_queues, parse_shard_queues
from clockworker.shards.config._schedulers import SCHEDULERS

# In a variable. `jobs:1:fair-fifo,limit=4` is one.
BETWEEN_QUEUES = r"\s+|,(?![^,:\s]+=)"

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
        "microseconds that an idle shard polls at most before it sleeps; default 200 if each has a CPU to itself, else 0",
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
        "shards",
        ("--processes",),
        "N",
        parse.parse_processes,
        "processes of each shard for run_process(), on CPUs that no shard has, if there are any; default: those CPUs by the "
        "number of shards, 1 to 8",
        takes=(int,),
    ),
    Option(
        "queues",
        ("--queue",),
        "[GROUP/]NAME:SHARE[:SCHEDULER][:preemptive]",
        parse_queues,
        "a queue of each shard: one that the application declares, with another share or scheduler, or one more; schedulers: "
        f"{', '.join(SCHEDULERS)}, some with parameters (fair-fifo,limit=4), or MODULE:CLASS of your own; preemptive: Python "
        "that never awaits is cut into slices; may be repeated; if there is none: default:1",
        takes=(list,),
        repeat=True,
        between=BETWEEN_QUEUES,
    ),
    Option(
        "queues",
        ("--queue-group",),
        "[OUTER/]GROUP:SHARE",
        parse_groups,
        "the share of a group of queues, beside the queues and groups outside; those inside divide what it gets; may be "
        "repeated; default 1 for each group that a queue is in",
        takes=(list,),
        repeat=True,
    ),
    Option(
        "queues",
        ("--shard-queue",),
        "SHARD:[GROUP/]NAME:SHARE[:SCHEDULER][:preemptive]",
        parse_shard_queues,
        "a queue that this shard alone has, or has with another share or scheduler; may be repeated",
        takes=(),
        repeat=True,
        between=BETWEEN_QUEUES,
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
        "application",
        ("--reload-include",),
        "PATTERN",
        tuple,
        "files to watch beside *.py: a pattern of their names, such as *.html, or of their paths; may be repeated",
        takes=(str, list),
        repeat=True,
    ),
    Option(
        "application",
        ("--reload-exclude",),
        "PATTERN",
        tuple,
        "files and directories not to watch, by pattern; may be repeated",
        takes=(str, list),
        repeat=True,
    ),
    *HTTP_OPTIONS,
    *CLUSTER_OPTIONS,
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
        ("--timeout-hand-over",),
        "S",
        parse.parse_limit,
        "seconds that services have to hand over their state when a shard is replaced, while calls of them wait; default 10",
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
        ("--shard-lifetime",),
        "S",
        parse.parse_limit,
        "seconds after which a shard is replaced, by one that is ready before it leaves",
        takes=(int, float),
    ),
    Option(
        "life",
        ("--shard-max-rss",),
        "SIZE",
        parse.parse_max_rss,
        "resident memory beyond which a shard is replaced so, for example 512MiB",
        takes=(int, str),
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
        "logs",
        ("--access-log-format",),
        "FORMAT",
        parse_access_log_format,
        "how its lines for HTTP requests look, in gunicorn's atoms, for example '%(h)s \"%(r)s\" %(s)s %(D)s'; switches it on",
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
    Option(
        "operations",
        ("--umask",),
        "MODE",
        parse.parse_umask,
        "mode that new files do not get, of the supervisor and the shards, for example 027; default: as it is inherited",
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
ALIASES = {"gil_switch_interval": "switch_interval", "group": "queue_group"}

# Those of HttpConfig, whose fields have these names but for a few.
OF_HTTP = tuple(option.name for option in OPTIONS if option.group == "http")
HTTP_FIELDS = {"route": "routes", "header": "headers", "h11_max_incomplete_event_size": "incomplete_event_size"}

# Those of ClusterConfig, whose fields have these names without the beginning.
OF_CLUSTER = tuple(option.name for option in OPTIONS if option.group == "cluster")
CLUSTER_PREFIX = "cluster_"
