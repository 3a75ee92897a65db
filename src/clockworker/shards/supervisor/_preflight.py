"""What can be known before anything starts, of which --check-config and the start must say the same.

A mistake raises; what is only strange is a warning. Both are asked here once, so that a check which says "right" is not
followed by a start that says otherwise. That an address is taken is no mistake: the server that is to be replaced has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.config._option import PREFIX
from clockworker.shards.config._options import BY_NAME, OPTIONS
from clockworker.shards.config._other_names import nearest_option
from clockworker.shards.config._settings import Settings
from clockworker.shards.machine._certificates import context_of
from clockworker.shards.machine._host import check_pid_file
from clockworker.shards.machine._sockets import check_address
from clockworker.shards.supervisor._clustering import check_cluster_needs
from clockworker.shards.supervisor._observe import check_control, check_metrics, lacking_for_metrics
from clockworker.shards.supervisor._reload import check_reload

# No options, but nobody's mistake: what the shards get, the build's and the import's, the test kit's, and what Kubernetes sets
# for a service that is called clockworker.
_OTHER_VARIABLES = re.compile(
    PREFIX
    + r"(SHARD_ID|CLUSTER_(USER|PASSWORD|TOKEN|NKEY)|PURE|PLAIN|REQUIRE_EXT|TESTING_\w+"
    + r"|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)\w*)?)"
)


def check_directories(settings: Settings) -> None:
    """Raises `ConfigurationError` if the application cannot be where it is said to be."""
    config = settings.config
    for name, directories in (("app_dir", (config.app_dir,)), ("reload_dir", config.reload_dirs)):
        for directory in directories:
            if not os.path.isdir(directory):
                raise ConfigurationError(f"{settings.origins.get(name, 'the default')}: {directory!r} is no directory")


def check_together(config: ServeConfig) -> None:
    """Raises `ConfigurationError` for options that exclude each other."""
    if config.http.proxy_protocol and config.ssl_certfile is not None:
        raise ConfigurationError(
            "--proxy-protocol cannot be had with --ssl-certfile: a proxy says it before the handshake; have the proxy speak TLS"
        )


def check_needs(config: ServeConfig) -> None:
    """Libraries, addresses and places for files, none of which is touched. Raises `ConfigurationError` and
    `AddressUnavailable`."""
    if config.reload:
        check_reload()
    if config.cluster is not None:
        check_cluster_needs(config.cluster)
    context_of(config)
    for address in config.addresses:
        check_address(address)
    if config.metrics is not None:
        check_metrics(config.metrics)
    if config.control is not None:
        check_control(config.control)
    if config.pid_file is not None:
        check_pid_file(config.pid_file)


def find_warnings(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """What is strange, a line each."""
    config = settings.config
    if config.log_config is not None:
        for name in sorted(settings.origins.keys() & {"log_level", "log_format"}):
            yield f"{settings.origins[name]} has no effect beside --log-config"
    for name in ("reload_dir", "reload_include", "reload_exclude"):
        if name in settings.origins and not config.reload:
            yield f"{settings.origins[name]} has no effect without --reload"
    if "limit_max_requests_jitter" in settings.origins and config.http.limit_max_requests is None:
        yield f"{settings.origins['limit_max_requests_jitter']} has no effect without --limit-max-requests"
    if "blocking_threads" in settings.origins and config.http.threads is not None:
        yield f"{settings.origins['blocking_threads']} has no effect beside --threads"
    if config.metrics is not None and (lacks := lacking_for_metrics()):
        yield f"--metrics: {lacks}; the other pages are served"
    known = {variable for option in OPTIONS for variable in option.variables}
    for variable in sorted({*environment, *settings.variables} - known):
        if variable.startswith(PREFIX) and not _OTHER_VARIABLES.fullmatch(variable):
            near = nearest_option(variable.removeprefix(PREFIX), (option.name for option in OPTIONS))
            yield f"{variable} is no option's variable" + (f"; did you mean {PREFIX}{near.upper()}?" if near else "")


def with_origins(message: str, origins: Mapping[str, str]) -> str:
    """The message, and where options that it names come from, unless that is the command line: who set a variable long ago
    does not look for it under an option's name."""
    hints = [
        f"{flag} is given by {origins[name]}"
        for name, flag in ((name, option.flags[0]) for name, option in BY_NAME.items() if option.flags)
        if not origins.get(name, "-").startswith("-")
        and origins[name] not in message
        and flag in message.replace(",", " ").replace(":", " ").split()
    ]
    return f"{message} ({'; '.join(hints)})" if hints else message
