"""`clockworker-serve`: from the command line to a running supervisor. A user's mistake ends in one line on standard error.

Exit statuses: 0 stopped as told; 1 address in use, or shards that crash again and again; 2 a wrong option or file; 3 the
application cannot be started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping, Sequence

import msgspec
import uvloop

from clockworker._errors import AddressUnavailable, ConfigurationError
from clockworker._version import __version__
from clockworker.executor import Executor, compiled, switched_off
from clockworker.shards.config._application import format_traceback, load_application
from clockworker.shards.config._config import QueueConfig, ServeConfig
from clockworker.shards.config._print import as_toml
from clockworker.shards.config._queues import merge
from clockworker.shards.config._routes import beyond, lacking_for_application, lacking_for_options
from clockworker.shards.config._settings import Settings, read_settings
from clockworker.shards.logs._logging import JsonFormatter, set_up_logging
from clockworker.shards.machine._certificates import context_of
from clockworker.shards.machine._heritage import STRAY, do_nothing, fill_standard_descriptors, settle_signals
from clockworker.shards.machine._host import PidFile, raise_descriptor_limit, set_process_title
from clockworker.shards.machine._machine import check_machine
from clockworker.shards.machine._placement import Placement, place, plural
from clockworker.shards.machine._sockets import Listeners, count_sockets
from clockworker.shards.machine._systemd import with_activated_sockets
from clockworker.shards.machine._topology import read_machine
from clockworker.shards.supervisor._preflight import (
    check_directories,
    check_needs,
    check_together,
    find_warnings,
    with_origins,
)
from clockworker.shards.supervisor._supervisor import Supervisor, log
from clockworker.shards.worker._shard_queues import (
    described,
    is_of_machine,
    make_queues,
    misspelt,
    preemptive_of,
    queues_of,
    shown,
)

EXIT_OK = 0
EXIT_ADDRESS = 1
EXIT_USAGE = 2
EXIT_START_UP = 3


def main(arguments: Sequence[str] | None = None) -> None:
    fill_standard_descriptors()
    sys.exit(serve(sys.argv[1:] if arguments is None else arguments, os.environ))


def serve(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command. Returns its exit status; --help and --version raise `SystemExit`."""
    try:
        settings = read_settings(arguments, environment, version())
    except ConfigurationError as error:
        return _complain(str(error), EXIT_USAGE)
    serves = not settings.check_only and not settings.print_only
    complain = _complain_in_json if serves and settings.config.log_format == "json" else _complain
    try:
        return run(settings, environment)
    except (ConfigurationError, AddressUnavailable) as error:
        status = EXIT_USAGE if isinstance(error, ConfigurationError) else EXIT_ADDRESS
        return complain(with_origins(str(error), settings.origins), status)
    except OSError as error:
        return complain(f"the system has refused what the server needs: {error}", EXIT_ADDRESS)


def run(settings: Settings, environment: MutableMapping[str, str]) -> int:
    """Do what the settings ask for. Raises `ConfigurationError` and `AddressUnavailable`, before any shard is started."""
    check_machine()
    check_directories(settings)
    check_together(settings.config)
    os.environ.update(settings.variables)
    config = with_activated_sockets(settings.config, environment, asked_for="bind" in settings.origins)
    settings = msgspec.structs.replace(settings, config=config)
    placement = place_shards(config)
    if settings.print_only:
        print(as_toml(config, settings.origins, {"shards": str(placement)}, declared_by(config)), end="")
    if settings.check_only:
        return check(settings, placement, environment)
    if settings.print_only:
        return EXIT_OK
    settle_signals(dict.fromkeys(STRAY, do_nothing))
    set_process_title("supervisor", config.app)
    set_up_logging("supervisor", config)
    context_of(config)
    if config.umask is not None:
        os.umask(config.umask)  # the shards inherit it
    with Listeners(config.addresses, placement.count, config.backlog, config.distribution) as listeners:
        announce(settings, placement, listeners, environment)
        with PidFile(config.pid_file) if config.pid_file is not None else contextlib.nullcontext():
            return Supervisor(config, placement, listeners).run()


def place_shards(config: ServeConfig) -> Placement:
    """Decide where each shard runs, on this machine. Raises `ConfigurationError` if that cannot be."""
    placement = place(read_machine(), config.shards, cpus=config.cpus, pin=config.pin)
    if strangers := [shard for shard in sorted(config.shard_queues) if shard >= placement.count]:
        raise ConfigurationError(
            f"shard {strangers[0]} is given queues of its own, but the last of {plural(placement.count, 'shard')} is "
            f"number {placement.count - 1}; change --shard-queue or [shard.N], or start more"
        )
    if (mistake := beyond(config.http.routes, placement.count)) is not None:
        raise ConfigurationError(mistake)
    return placement


def check(settings: Settings, placement: Placement, environment: Mapping[str, str]) -> int:
    """--check-config: all that a start does short of starting, the application's import included. No supervisor will run
    in this process, so it may be imported here."""
    config = settings.config
    check_needs(config)
    for warning in find_warnings(settings, environment):
        print(f"clockworker-serve: {warning}", file=sys.stderr)
    try:
        application = load_application(
            config.app, config.app_dir, factory=config.factory, interface=config.http.interface
        )
        declared = application.queues
        routes = application.served.find_routes() if application.served is not None else ()
        if (mistake := beyond(routes, placement.count)) is not None:
            return _complain(mistake, EXIT_START_UP)
        for shard in range(placement.count):
            if shard == 0 or shard in config.shard_queues:
                of_shard = queues_of(config, shard, declared)
                preemptive = preemptive_of(of_shard)
                Executor(make_queues(of_shard, declared, config.app_dir, config.queue_groups))
                names = [queue.name for queue in of_shard]
                if (mistake := lacking_for_options(config.http, names, shard, preemptive)) is not None:
                    return _complain(with_origins(mistake, settings.origins), EXIT_USAGE)
                if (mistake := lacking_for_application(routes, names, shard, preemptive)) is not None:
                    return _complain(mistake, EXIT_START_UP)
    except ConfigurationError as error:
        return _complain(str(error), EXIT_USAGE if is_of_machine(error) else EXIT_START_UP)
    except BaseException as error:  # KeyboardInterrupt, SystemExit and the like are of the application, too
        return _complain(f"{config.app} cannot be imported\n{format_traceback(error)}", EXIT_START_UP)
    own = [queue for changes in config.shard_queues.values() for queue in changes]
    for warning in misspelt((*config.queues, *own), declared):
        print(f"clockworker-serve: {warning}", file=sys.stderr)
    set_up_logging("supervisor", config)
    raise_descriptor_limit(placement.count, count_sockets(config.addresses), len(config.lines))
    queues = ", ".join(map(str, shown(merge(described(declared), config.queues), declared)))
    print(
        f"configuration is right: {config.app} on {placement}, queues {queues}, "
        f"at {', '.join(map(str, config.addresses)) or 'no address'}"
    )
    return EXIT_OK


def declared_by(config: ServeConfig) -> Sequence[QueueConfig] | None:
    """The queues that the application declares; None if it cannot be imported. No supervisor will run in this process."""
    if not config.app:
        return None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what is printed there is no TOML
            declared = load_application(
                config.app, config.app_dir, factory=config.factory, interface=config.http.interface
            ).queues
            return shown(described(declared), declared)
    except (Exception, SystemExit):
        return None


def announce(settings: Settings, placement: Placement, listeners: Listeners, environment: Mapping[str, str]) -> None:
    log.info(version())
    for name in listeners.names:
        log.info("listening on %s", name)
    if not listeners.names:
        log.info("listening on no address")
    log.info("placement: %s", placement)
    for warning in find_warnings(settings, environment):
        log.warning("%s", warning)


def version() -> str:
    kind = "compiled" if compiled else "pure Python"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    loop = uvloop.__version__  # type: ignore[attr-defined]  # importlib.metadata takes a fifth of the whole start
    off = f"; switched off: {', '.join(found)}" if (found := switched_off()) else ""
    return f"clockworker {__version__} ({kind}), {python}, uvloop {loop}{off}"


def _complain(message: str, status: int) -> int:
    print(f"clockworker-serve: {message}", file=sys.stderr)
    return status


def _complain_in_json(message: str, status: int) -> int:
    """For whatever reads the log of a server that does not start."""
    record = logging.makeLogRecord({"name": log.name, "levelname": "CRITICAL", "msg": message})
    print(JsonFormatter().format(record), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
