"""The options as `clockworker.serve` takes them: by name, with Python's types.

What may be given is what the file may have, as `_file` reads it, and what a program has instead of a list or a text: a tuple, a
path, a `QueueConfig`, a `Route`. None is an option that is not given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from clockworker._errors import ConfigurationError
from clockworker.shards.config._cluster import TwoNodes
from clockworker.shards.config._config import (
    CertReqs,
    Distribution,
    LogFormat,
    LogLevel,
    QueueConfig,
    TlsVersion,
)
from clockworker.shards.config._file import read_value
from clockworker.shards.config._http import Interface, LifespanMode, Route
from clockworker.shards.config._options import BY_NAME
from clockworker.shards.config._other_names import nearest_option
from clockworker.shards.config._queues import parse_shard_queues

Path: TypeAlias = str | os.PathLike[str]
Size: TypeAlias = int | str

# Of the command alone: a program that wants to know asks by itself, and says what is run by its first argument.
COMMANDS = ("app", "check_config", "print_config")


class ServeOptions(TypedDict, total=False):
    """Keywords of `clockworker.serve`. What each means `clockworker-serve --help` says of the option of its name."""

    shards: int | Literal["auto"] | None
    spares: int | None
    cpus: str | Sequence[int] | None
    no_pin: bool | None
    idle_poll: int | None
    credit: int | None
    max_message: Size | None
    blocking_threads: int | None
    switch_interval: float | None
    processes: int | None
    queue: Sequence[str | Mapping[str, Any] | QueueConfig] | None
    queue_group: Sequence[str] | None
    shard_queue: Sequence[str] | None
    config: Path | None
    bind: str | Sequence[str] | None
    host: str | None
    port: int | None
    uds: Path | None
    uds_mode: str | None
    fd: int | None
    backlog: int | None
    distribution: Distribution | None
    max_connections: int | None
    ssl_certfile: Path | None
    ssl_keyfile: Path | None
    ssl_keyfile_password: str | None
    ssl_ca_certs: Path | None
    ssl_crl: Path | None
    ssl_cert_reqs: CertReqs | int | None
    ssl_ciphers: str | None
    ssl_version: TlsVersion | None
    factory: bool | None
    app_dir: Path | None
    env_file: Path | None
    reload: bool | None
    reload_dir: Path | Sequence[Path] | None
    reload_include: str | Sequence[str] | None
    reload_exclude: str | Sequence[str] | None
    cluster_url: str | Sequence[str] | None
    cluster_name: str | None
    cluster_node: str | None
    cluster_credentials: Path | None
    cluster_ca: Path | None
    cluster_cert: Path | None
    cluster_key: Path | None
    cluster_tls_first: bool | None
    cluster_node_timeout: float | None
    cluster_partitions: int | None
    cluster_two_nodes: TwoNodes | None
    interface: Interface | None
    route: Sequence[str | Mapping[str, Any] | Route] | None
    lifespan: LifespanMode | None
    lifespan_queue: str | None
    reset_contextvars: bool | None
    proxy_headers: bool | None
    forwarded_allow_ips: str | Sequence[str] | None
    proxy_protocol: bool | None
    http2: bool | None
    root_path: str | None
    header: str | Sequence[str] | None
    server_header: bool | None
    date_header: bool | None
    ws_max_size: Size | None
    ws_max_queue: int | None
    ws_ping_interval: float | None
    ws_ping_timeout: float | None
    ws_per_message_deflate: bool | None
    limit_request_line: Size | None
    limit_request_field_size: Size | None
    limit_request_fields: int | None
    h11_max_incomplete_event_size: Size | None
    timeout_request_header: float | None
    timeout_request_body: float | None
    timeout_keep_alive: float | None
    timeout_response: float | None
    limit_concurrency: int | None
    limit_max_requests: int | None
    limit_max_requests_jitter: int | None
    threads: int | None
    timeout_graceful_shutdown: float | None
    timeout_hand_over: float | None
    timeout_shard_healthcheck: float | None
    timeout_startup: float | None
    shard_lifetime: float | None
    shard_max_rss: Size | None
    respawn: bool | None
    log_level: LogLevel | None
    log_format: LogFormat | None
    slow_poll: float | None
    log_config: Path | None
    access_log: bool | None
    access_log_format: str | None
    metrics: str | bool | None
    control: Path | None
    umask: str | None
    pid_file: Path | None


def read_keywords(options: Mapping[str, object]) -> dict[str, object]:
    """The value of each option that is given. Raises `ConfigurationError`, which names it."""
    return {name: _read(name, value) for name, value in options.items() if value is not None}


def _read(name: str, value: object) -> object:
    if name not in BY_NAME or name in COMMANDS:
        raise ConfigurationError(_unknown(name))
    option = BY_NAME[name]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        value = [_plain(item) for item in value]
    elif option.repeat:
        value = [_plain(value)]
    try:
        if name == "config":
            return _text(value, "a path")
        if name == "shard_queue":
            assert isinstance(value, list)
            return parse_shard_queues([_text(item, f"a string ({option.metavar})") for item in value])
        return read_value(name, value)
    except ConfigurationError as error:
        raise ConfigurationError(f"serve({name}=): {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, QueueConfig | Route):
        fields = {field: getattr(value, field) for field in value.__struct_fields__}
        return {
            field: [*item] if isinstance(item, tuple) else item
            for field, item in fields.items()
            if item not in (None, ())
        }
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _text(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"the value {value!r} is of type {type(value).__name__}; give {wanted}")
    return value


def _unknown(name: str) -> str:
    if name == "app":
        return "serve() takes the application as its first argument, not as app="
    if name in COMMANDS:
        return f"serve({name}=): is for the command only: clockworker-serve {BY_NAME[name].flags[0]}"
    known = BY_NAME.keys() - COMMANDS
    near = nearest_option(name, known)
    hint = f"did you mean {near}?" if near else "its options are those of clockworker-serve --help"
    return f"serve() has no option {name!r}; {hint}"
