"""From the command line, the environment and `clockworker.toml` to one `ServeConfig`, and where each value came from.

The order is: option, environment, file, default. What is given further ahead replaces what is given further back, lists
included: one --queue puts all `[[queue]]` tables of the file out of force. (The queues that the application declares are no
such list: see `_queues`.) Addresses are one value with many names
(--bind, --host, --port, --uds, --fd): the foremost source that has any of them decides, and only a --host that lacks a
port, or a --port that lacks a host, takes it from further back. So it is if the value is that there is none.

The variables of --env-file stand behind those of the environment, and with them before the file's values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config._arguments import split_command_line
from clockworker.shards.config._cluster import ClusterConfig, check_cluster, parse_node
from clockworker.shards.config._config import (
    DEFAULT_MODE,
    Address,
    InheritedSocket,
    ServeConfig,
    TcpAddress,
    UnixAddress,
)
from clockworker.shards.config._environment import read_env_file
from clockworker.shards.config._file import find_file, read_file
from clockworker.shards.config._http import HttpConfig
from clockworker.shards.config._keywords import read_keywords
from clockworker.shards.config._option import Option
from clockworker.shards.config._options import BY_NAME, CLUSTER_PREFIX, HTTP_FIELDS, OF_CLUSTER, OF_HTTP, OPTIONS
from clockworker.shards.config._queues import by_shard

# Option -> field of ServeConfig, where they have different names.
_FIELDS = {"queue": "queues", "queue_group": "queue_groups", "reload_dir": "reload_dirs", "idle_poll": "idle_poll_us"}
_ADDRESS_OPTIONS = ("bind", "host", "port", "uds", "fd")
_COMMANDS = ("check_config", "print_config")


class Setting(msgspec.Struct, frozen=True):
    """A value that was given. `rank` orders the sources, the foremost first."""

    value: Any
    origin: str
    rank: int


class Settings(msgspec.Struct, frozen=True):
    """`origins` has each option that was given; `variables` are the env file's that the environment lacks."""

    config: ServeConfig
    origins: dict[str, str]
    variables: dict[str, str]
    check_only: bool = False
    print_only: bool = False


def read_settings(arguments: Sequence[str], environment: Mapping[str, str], version: str = "") -> Settings:
    """Raises `ConfigurationError`; for --help and --version, which print, `SystemExit`."""
    given = split_command_line(arguments, version)
    found: dict[str, Setting] = {}
    for name, text in given.items():
        if text is not None:
            flag = BY_NAME[name].flags[0] if name != "app" else "command line"
            found[name] = _read(BY_NAME[name], text, flag, 0)
    return _complete(found, environment)


def settings_of(app: str, app_dir: str, options: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """The same of values that a program gives by name, as `_keywords` has them. app_dir: what it is unless one is given
    anywhere. Raises `ConfigurationError`."""
    found = {name: Setting(value, f"serve({name}=)", 0) for name, value in read_keywords(options).items()}
    found["app"] = Setting(app, "serve()", 0)
    return _complete(found, environment, app_dir)


def _complete(found: dict[str, Setting], environment: Mapping[str, str], app_dir: str | None = None) -> Settings:
    """With what environment, files and defaults say."""
    _add_environment(found, environment, "", 1)
    path = found["config"].value if "config" in found else find_file()
    of_file = {name: Setting(value, path, 3) for name, value in read_file(path).items()} if path else {}
    variables = {}
    if (env_file := found.get("env_file") or of_file.get("env_file")) is not None:
        variables = _read_env_file(env_file.value, environment)
        _add_environment(found, variables, f" in {env_file.value}", 2)
    for name, setting in of_file.items():
        found.setdefault(name, setting)
    commands = {name: name in found and found.pop(name).value for name in _COMMANDS}
    found.pop("config", None)
    if commands["print_config"] and not commands["check_config"]:
        found.setdefault("app", Setting("", "default", 4))  # what else is set can be shown
    if app_dir is not None:
        found.setdefault("app_dir", Setting(app_dir, "default", 4))
    config, origins = _put_together(found)
    return Settings(config, origins, variables, commands["check_config"], commands["print_config"])


def _read_env_file(path: str, environment: Mapping[str, str]) -> dict[str, str]:
    variables = {name: value for name, value in read_env_file(path).items() if name not in environment}
    for name in ("config", "env_file", *_COMMANDS):
        if BY_NAME[name].variable in variables:
            raise ConfigurationError(
                f"{path}: {BY_NAME[name].variable} comes too late here; give {BY_NAME[name].flags[0]}"
            )
    for name in ("CLOCKWORKER_PURE", "CLOCKWORKER_PLAIN"):
        if name in variables:
            raise ConfigurationError(f"{path}: {name} comes too late here; set it in the environment")
    return variables


def _add_environment(found: dict[str, Setting], environment: Mapping[str, str], where: str, rank: int) -> None:
    for option in OPTIONS:
        for variable in option.variables:
            if option.name not in found and (text := environment.get(variable)):
                texts = [part for part in re.split(option.between, text) if part] if option.repeat else text
                found[option.name] = _read(option, texts, variable + where, rank)


def _read(option: Option, text: str | list[str], origin: str, rank: int) -> Setting:
    try:
        return Setting(option.read(text), origin, rank)
    except ConfigurationError as error:
        if option.name == "app" and rank == 0:
            raise
        # Kubernetes sets NAME_PORT for each service, and a service may well be called clockworker.
        hint = "; is that Kubernetes's? Then set enableServiceLinks: false" if str(text).startswith("tcp://") else ""
        raise ConfigurationError(f"{origin}: {error}{hint}") from None


def _put_together(found: dict[str, Setting]) -> tuple[ServeConfig, dict[str, str]]:
    if "app" not in found:
        raise ConfigurationError("say what to run: clockworker-serve MODULE:ATTRIBUTE, for example app:main")
    origins = {name: setting.origin for name, setting in found.items()}
    if given := [found[name] for name in _ADDRESS_OPTIONS if name in found]:
        foremost = min(setting.rank for setting in given)
        addresses = _addresses(found, foremost)
        found["addresses"] = Setting(addresses, "", foremost)
        origins["bind"] = ", ".join(
            found[name].origin for name in _ADDRESS_OPTIONS if name in found and _counts(found, name, foremost)
        )
    for name in _ADDRESS_OPTIONS:
        found.pop(name, None)
    if (mode := found.pop("uds_mode", None)) is not None and "addresses" in found:
        found["addresses"] = _with_mode(found["addresses"], mode.value)
    of_http = {HTTP_FIELDS.get(name, name): found.pop(name).value for name in OF_HTTP if name in found}
    cluster = _cluster({name: found.pop(name) for name in OF_CLUSTER if name in found})
    fields = {_FIELDS.get(name, name): setting.value for name, setting in found.items()}
    if "access_log_format" in fields:
        fields.setdefault("access_log", True)  # who says how lines look wants some
    if "no_pin" in fields:
        fields["pin"] = not fields.pop("no_pin")
    if "shard_queue" in fields:
        fields["shard_queues"] = by_shard(fields.pop("shard_queue"))
    return ServeConfig(**fields, http=HttpConfig(**of_http), cluster=cluster), origins


def _cluster(found: dict[str, Setting]) -> ClusterConfig | None:
    """None without a url: then nothing else may be said of it."""
    if not found:
        return None
    values = {name.removeprefix(CLUSTER_PREFIX): setting.value for name, setting in found.items()}
    if not values.get("url"):
        name, setting = next(iter(found.items()))
        what = name.removeprefix(CLUSTER_PREFIX)
        raise ConfigurationError(
            f"{setting.origin}: {what} is given for a cluster, and no url; give that of a NATS server, for example "
            'url = "nats://127.0.0.1:4222" in [cluster], or --cluster-url'
        )
    if "node" not in values:
        values["node"] = parse_node("auto")
    config = ClusterConfig(**values)
    check_cluster(config)
    return config


def _with_mode(addresses: Setting, mode: int) -> Setting:
    """Unix sockets have it, but for those that have another one of their own."""
    value = [
        msgspec.structs.replace(each, mode=mode)
        if isinstance(each, UnixAddress) and each.mode == DEFAULT_MODE
        else each
        for each in addresses.value
    ]
    return msgspec.structs.replace(addresses, value=tuple(value))


def _counts(found: dict[str, Setting], name: str, foremost: int) -> bool:
    """Whether an address option is in force: of the foremost source that has any, or the other half of its address."""
    if name not in found:
        return False
    if found[name].rank == foremost:
        return True
    other = {"host": "port", "port": "host"}.get(name)
    return other in found and found[other].rank == foremost


def _addresses(found: dict[str, Setting], foremost: int) -> tuple[Address, ...]:
    value = {name: found[name].value for name in _ADDRESS_OPTIONS if _counts(found, name, foremost)}
    addresses: list[Address] = list(value.get("bind", ()))
    if "bind" in value and not addresses and len(value) > 1:
        other = next(name for name in value if name != "bind")
        raise ConfigurationError(
            f"{found['bind'].origin}: no address is to be listened on, but {found[other].origin} gives one ({other}); "
            "give one or the other"
        )
    if "host" in value or "port" in value:
        addresses.append(TcpAddress(value.get("host", "127.0.0.1"), value.get("port", 8000)))
    addresses.extend(value[name] for name in ("uds", "fd") if name in value)
    _check_once(addresses, found.get("metrics"))
    return tuple(addresses)


def _check_once(addresses: Sequence[Address], metrics: Setting | None) -> None:
    """The start would take what we listen on ourselves for another server's."""
    places: set[object] = set()
    for address in addresses:
        place = _place(address)
        if place in places:
            raise ConfigurationError(f"{address} is an address that is given twice; take one out, or change it")
        if place is not None:
            places.add(place)
    if metrics is not None and metrics.value is not None and _place(metrics.value) in places:
        raise ConfigurationError(
            f"{metrics.origin}: {metrics.value} is an address of the application; choose another for the metrics"
        )


def _place(address: Address) -> object:
    """What two that cannot both be listened on have in common. None for any free port."""
    match address:
        case TcpAddress(host, port):
            return (host, port) if port else None
        case UnixAddress(path):
            return path
        case InheritedSocket(descriptor):
            return descriptor
