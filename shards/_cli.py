"""`clockworker-serve`: from the command line and the environment to a running supervisor.

One table, `OPTIONS`, says everything about an option: its flags, its environment variable (CLOCKWORKER_ and its name),
how its text is read, its default. argparse splits the command line and prints the help; texts are read afterwards, in
one place, so that an error names where the wrong value came from. A user's mistake ends in one line on standard error.

Exit statuses: 0 stopped as told; 1 address in use, or shards that crash again and again; 2 a wrong option; 3 the
application cannot be started.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from importlib import metadata
from typing import Any

import msgspec

from clockworker._errors import AddressUnavailable, ConfigurationError
from clockworker._version import __version__
from clockworker.executor import compiled
from clockworker.shards import _config as parse
from clockworker.shards._config import Address, QueueConfig, ServeConfig, TcpAddress
from clockworker.shards._host import PidFile
from clockworker.shards._logging import set_up_logging
from clockworker.shards._placement import Placement, order, place
from clockworker.shards._sockets import Listeners
from clockworker.shards._supervisor import Supervisor, log
from clockworker.shards._systemd import with_activated_sockets
from clockworker.shards._topology import allowed_cpus, read_topology

EXIT_ADDRESS = 1
EXIT_USAGE = 2

PREFIX = "CLOCKWORKER_"


class Option(msgspec.Struct, frozen=True):
    """`read` makes a value of the text, or of all texts if the option may be repeated; a switch has no metavar."""

    group: str
    flags: tuple[str, ...]
    metavar: str
    read: Callable[[Any], object]
    help: str
    repeat: bool = False
    other_variable: str | None = None

    @property
    def name(self) -> str:
        return self.flags[0].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


OPTIONS = (
    Option(
        "shards",
        ("--shards", "--workers", "-w"),
        "N|auto",
        parse.parse_shards,
        "number of shards, each a process with a CPU of its own; auto: one a CPU",
        other_variable="WEB_CONCURRENCY",
    ),
    Option("shards", ("--cpus",), "LIST", parse.parse_cpus, "CPUs to use, in this order, for example 0-3,8"),
    Option("shards", ("--no-pin",), "", parse.parse_flag, "leave it to the kernel where shards run"),
    Option(
        "shards",
        ("--idle-poll",),
        "US",
        parse.parse_idle_poll,
        "microseconds that an idle shard polls before it sleeps; 200 if each has a CPU to itself, else 0",
    ),
    Option(
        "queues",
        ("--queue",),
        "NAME:SHARE[:SCHEDULER]",
        parse.parse_queues,
        f"a queue of each shard's executor; schedulers: {', '.join(parse.available_schedulers())}; "
        "may be repeated; default:1 unless given",
        repeat=True,
    ),
    Option(
        "queues",
        ("--shard-queue",),
        "SHARD:NAME:SHARE[:SCHEDULER]",
        parse.parse_shard_queues,
        "a queue that one shard has beside the others, or has otherwise; may be repeated",
        repeat=True,
    ),
    Option(
        "sockets",
        ("--bind", "-b"),
        "HOST:PORT|unix:PATH",
        lambda texts: [parse.parse_bind(text) for text in texts],
        "address to listen on; may be repeated; 127.0.0.1:8000 unless any is given",
        repeat=True,
    ),
    Option("sockets", ("--host",), "HOST", str, "address to listen on, port 8000 unless --port is given"),
    Option("sockets", ("--port", "-p"), "PORT", parse.parse_port, "port to listen on, 0: a free one"),
    Option("sockets", ("--uds",), "PATH", parse.parse_uds, "Unix socket to listen on"),
    Option("sockets", ("--fd",), "N", parse.parse_fd, "listening socket that is already open under this number"),
    Option("sockets", ("--backlog",), "N", parse.parse_backlog, "connections that may wait at each socket; 2048"),
    Option(
        "sockets",
        ("--distribution",),
        "HOW",
        parse.parse_distribution,
        "how connections come to shards: kernel (its hash), least-connections, fixed (by client address); kernel",
    ),
    Option(
        "sockets",
        ("--max-connections",),
        "N",
        parse.parse_max_connections,
        "connections that each shard holds open at once; more wait in the backlog",
    ),
    Option("application", ("--factory",), "", parse.parse_flag, "APP is a function that returns the application"),
    Option("application", ("--app-dir",), "DIR", str, "directory to import APP from; the working directory"),
    Option("application", ("--env-file",), "FILE", str, "file of NAME=VALUE lines for the environment"),
    Option("application", ("--reload",), "", parse.parse_flag, "restart the shards when a source file changes"),
    Option(
        "application",
        ("--reload-dir",),
        "DIR",
        tuple,
        "directory to watch, instead of --app-dir; may be repeated",
        repeat=True,
    ),
    Option(
        "life",
        ("--timeout-graceful-shutdown",),
        "S",
        parse.parse_seconds,
        "seconds that open requests have to finish when told to stop; 30",
    ),
    Option(
        "life",
        ("--timeout-shard-healthcheck",),
        "S",
        parse.parse_seconds,
        "seconds that a shard's loop may be blocked before the shard is killed and restarted, 0: for ever; 30",
    ),
    Option("life", ("--timeout-startup",), "S", parse.parse_seconds, "seconds that a shard has to become ready; 60"),
    Option("life", ("--respawn", "--no-respawn"), "", parse.parse_flag, "restart a shard that dies, or else stop; on"),
    Option("logs", ("--log-level",), "LEVEL", parse.parse_log_level, f"one of {', '.join(parse.LOG_LEVELS)}; info"),
    Option("logs", ("--log-format",), "text|json", parse.parse_log_format, "how lines look; text"),
    Option("logs", ("--log-config",), "FILE", str, "logging.config dictionary, in TOML or JSON"),
    Option("logs", ("--access-log", "--no-access-log"), "", parse.parse_flag, "a line for each connection; off"),
    Option(
        "operations",
        ("--metrics",),
        "[HOST:PORT]",
        parse.parse_metrics,
        f"serve metrics, health and statistics over HTTP; 127.0.0.1:{parse.METRICS_PORT} unless given",
    ),
    Option("operations", ("--control",), "PATH", str, "Unix socket for clockworker-top and other tools"),
    Option("operations", ("--pid-file",), "PATH", str, "file to write the supervisor's pid to"),
)

# The groups of the help, in its order.
GROUPS = ("shards", "queues", "sockets", "application", "life", "logs", "operations")


def main(arguments: Sequence[str] | None = None) -> None:
    sys.exit(serve(sys.argv[1:] if arguments is None else arguments, os.environ))


def serve(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command. Returns its exit status; --help, --version and what argparse rejects raise `SystemExit`."""
    try:
        config = with_activated_sockets(read_config(arguments, environment), environment)
        placement = place_shards(config)
        set_up_logging("supervisor", config.log_level)
        with Listeners(config.addresses, placement.count, config.backlog, config.distribution) as listeners:
            announce(config, placement, listeners)
            with PidFile(config.pid_file) if config.pid_file is not None else contextlib.nullcontext():
                return Supervisor(config, placement, listeners).run()
    except ConfigurationError as error:
        return _complain(error, EXIT_USAGE)
    except AddressUnavailable as error:
        return _complain(error, EXIT_ADDRESS)


def read_config(arguments: Sequence[str], environment: Mapping[str, str]) -> ServeConfig:
    given = vars(_parser().parse_args(_close_metrics(arguments)))
    values: dict[str, Any] = {}
    for option in OPTIONS:
        text, origin = _find(option, given, environment)
        if text is None:
            continue
        try:
            values[option.name] = option.read(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{origin}: {error}") from None
    app = given["app"] or environment.get(PREFIX + "APP")
    if app is None:
        raise ConfigurationError("say what to run: clockworker-serve MODULE:ATTRIBUTE, for example app:main")
    if addresses := _addresses(values):
        values["addresses"] = addresses
    if "no_pin" in values:
        values["pin"] = not values.pop("no_pin")
    for name, field in (("queue", "queues"), ("idle_poll", "idle_poll_us"), ("reload_dir", "reload_dirs")):
        if name in values:
            values[field] = values.pop(name)
    if "shard_queue" in values:
        values["shard_queues"] = _merge(values.get("queues", ServeConfig("").queues), values.pop("shard_queue"))
    return ServeConfig(app=parse.parse_app(app), **values)


def place_shards(config: ServeConfig) -> Placement:
    """Decide where each shard runs. Raises `ConfigurationError` if --cpus names one that this process may not use."""
    allowed = allowed_cpus()
    if config.cpus is not None:
        if missing := sorted(set(config.cpus) - allowed):
            raise ConfigurationError(
                f"--cpus: CPU {', '.join(map(str, missing))} is not among those that this process may use: "
                f"{', '.join(map(str, sorted(allowed)))}"
            )
        ordered = config.cpus
    else:
        ordered = order(read_topology(allowed))
    count = len(ordered) if config.shards == "auto" else config.shards
    return place(count, ordered, pin=config.pin)


def announce(config: ServeConfig, placement: Placement, listeners: Listeners) -> None:
    log.info(version())
    for name in listeners.names:
        log.info("listening on %s", name)
    cpus = len(set(placement.cpus))
    if config.pin and placement.count > cpus:
        log.warning(
            "%d shards share %d CPU%s: they slow each other down; start %d, or add --no-pin",
            placement.count,
            cpus,
            "s" if cpus > 1 else "",
            cpus,
        )


def version() -> str:
    kind = "compiled" if compiled else "pure Python"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"clockworker {__version__} ({kind}), {python}, uvloop {metadata.version('uvloop')}"


def _close_metrics(arguments: Sequence[str]) -> list[str]:
    """--metrics has a value only if what follows looks like one: `--metrics app:main` is APP with metrics."""
    closed = list(arguments)
    for index, (argument, following) in enumerate(itertools.pairwise([*closed, ""])):
        if argument == "--metrics" and not re.fullmatch(r".*:\d+", following):
            closed[index] = "--metrics=1"
    return closed


def _merge(
    queues: tuple[QueueConfig, ...], changes: tuple[tuple[int, QueueConfig], ...]
) -> dict[int, tuple[QueueConfig, ...]]:
    """All queues of each shard that has other ones than `queues`."""
    merged: dict[int, dict[str, QueueConfig]] = {}
    for shard, queue in changes:
        merged.setdefault(shard, {queue.name: queue for queue in queues})[queue.name] = queue
    return {shard: tuple(of_shard.values()) for shard, of_shard in merged.items()}


def _addresses(values: dict[str, Any]) -> tuple[Address, ...]:
    """Put together what --bind, --host, --port, --uds and --fd ask for, and take them out of `values`."""
    addresses: list[Address] = values.pop("bind", [])
    host, port = values.pop("host", None), values.pop("port", None)
    if host is not None or port is not None:
        addresses.append(TcpAddress(host or "127.0.0.1", 8000 if port is None else port))
    addresses.extend(values.pop(name) for name in ("uds", "fd") if name in values)
    return tuple(addresses)


def _find(option: Option, given: dict[str, Any], environment: Mapping[str, str]) -> tuple[Any, str]:
    """The option's text and where it was found: the command line before the environment."""
    if given[option.name] is not None:
        return given[option.name], option.flags[0]
    for variable in filter(None, (option.variable, option.other_variable)):
        if text := environment.get(variable):
            return (re.split(r"[\s,]+", text.strip()) if option.repeat else text), variable
    return None, ""


def _parser() -> argparse.ArgumentParser:
    width = min(shutil.get_terminal_size().columns, 100)
    parser = argparse.ArgumentParser(
        prog="clockworker-serve",
        usage="clockworker-serve [options] APP",
        description="Run an application on shards: one pinned process per core, fair queues inside each.",
        epilog="Each option can also be set by the environment variable named with it; the command line wins.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=width),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("app", metavar="APP", nargs="?", help=f"the application, MODULE:ATTRIBUTE [{PREFIX}APP]")
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for option in OPTIONS:
            if option.group == group:
                _add(section, option)
    section.add_argument(
        "--version", action="version", version=version(), help="print the version, and if it is compiled"
    )
    section.add_argument("-h", "--help", action="help", help="print this")
    return parser


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    variables = ", ".join(filter(None, (option.variable, option.other_variable)))
    help = f"{option.help} [{variables}]".replace("%", "%%")
    if option.metavar:
        action = "append" if option.repeat else "store"
        section.add_argument(*option.flags, dest=option.name, action=action, metavar=option.metavar, help=help)
        return
    section.add_argument(*option.flags, dest=option.name, action=_Switch, nargs=0, help=help)


class _Switch(argparse.Action):
    """A flag, kept as the text that the environment would have. Of two flags the second, --no-..., is off."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, "1" if flag == self.option_strings[0] else "0")


def _complain(error: Exception, status: int) -> int:
    print(f"clockworker-serve: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
