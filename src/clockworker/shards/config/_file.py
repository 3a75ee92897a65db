"""`clockworker.toml`: options by name, `[[queue]]`, `[[group]]` and `[[route]]` tables, `[shard.N]` for what one shard has
otherwise, and `[cluster]`.

    app = "app:main"
    shards = 4

    [[queue]]
    name = "foreground"
    share = 8

    [[route]]
    path = "/reports/*"
    queue = "background"

    [[group]]
    name = "tenants"

    [[group.queue]]
    name = "gold"

    [[shard.0.queue]]
    name = "compaction"

    [cluster]
    url = "nats://127.0.0.1:4222"

An unknown key is an error and not a warning: a limit that was never in force is found out too late.
"""

from __future__ import annotations

import os
from typing import cast

from clockworker._errors import ConfigurationError
from clockworker.shards.config import _toml
from clockworker.shards.config._cluster import SECRET_PREFIX, SECRETS
from clockworker.shards.config._config import QueueConfig, QueueGroupConfig
from clockworker.shards.config._groups import groups_of_file
from clockworker.shards.config._option import Option
from clockworker.shards.config._options import ALIASES, BY_NAME, CLUSTER_PREFIX, OF_CLUSTER, OPTIONS
from clockworker.shards.config._other_names import nearest_option
from clockworker.shards.config._queues import changes_of_file, each_once, queues_of_file
from clockworker.shards.config._routes import routes_of_file

NAME = "clockworker.toml"

# As which a node shows itself to the broker: for the environment alone.
_SECRET_KEYS = tuple(f"{CLUSTER_PREFIX}{name.lower()}" for name in SECRETS)

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def find_file() -> str | None:
    """`clockworker.toml`, if there is one in the working directory."""
    return NAME if os.path.exists(NAME) else None  # Path's raises where the directory may not be read


def read_file(path: str) -> dict[str, object]:
    """The value of each option that the file gives. Raises `ConfigurationError`, which names file, key and value."""
    values: dict[str, object] = {}
    content = _toml.load(path, "--config")
    if "cluster" in content:
        values.update(_read_cluster(path, content.pop("cluster")))
    for key, value in content.items():
        spelled = "shard_queue" if key == "shard" else key.replace("-", "_")
        name = ALIASES.get(spelled, spelled)
        try:
            if name in values:
                how = "with - and with _" if name == spelled else f"also as {name}"
                raise ConfigurationError(f"is given twice, {how}; give it once")
            if name == "queue_group":
                values[name] = groups_of_file(value)
            else:
                values[name] = changes_of_file(value) if key == "shard" else read_value(name, value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {key}: {error}") from None
    if "queue_group" in values:
        groups, queues = cast(tuple[tuple[QueueGroupConfig, ...], tuple[QueueConfig, ...]], values["queue_group"])
        values["queue_group"] = groups
        if queues:
            try:
                values["queue"] = each_once([*cast(tuple[QueueConfig, ...], values.get("queue", ())), *queues])
            except ConfigurationError as error:
                raise ConfigurationError(f"{path}: {error}") from None
    return values


def _read_cluster(path: str, table: object) -> dict[str, object]:
    """Of the options that begin with `cluster_`."""
    if not isinstance(table, dict):
        raise ConfigurationError(
            f"{path}: cluster: the value {_toml.show(table)} is {_kind(table)}; give a table, [cluster]"
        )
    values = {}
    for key, value in table.items():
        name = CLUSTER_PREFIX + key.replace("-", "_")
        try:
            if name in _SECRET_KEYS:
                raise ConfigurationError(
                    f"is a secret, which the file does not take; set the variable {SECRET_PREFIX}{key.upper()}"
                    ", or give credentials, a file"
                )
            if name not in BY_NAME:
                known = [each.removeprefix(CLUSTER_PREFIX) for each in OF_CLUSTER]
                near = nearest_option(key, known)
                raise ConfigurationError(
                    f"unknown key; did you mean {near}?" if near else f"unknown key; known are {', '.join(known)}"
                )
            values[name] = BY_NAME[name].read(_as_text(BY_NAME[name], value))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: [cluster] {key}: {error}") from None
    return values


def read_value(name: str, value: object) -> object:
    """The value of an option, of what TOML has for it. Raises `ConfigurationError`."""
    if name == "queue":
        return queues_of_file(value)
    if name == "route":
        return routes_of_file(value)
    option = BY_NAME.get(name)
    if option is None:
        raise ConfigurationError(_unknown(name))
    if name in OF_CLUSTER:
        raise ConfigurationError(f"stands in the table [cluster], as {name.removeprefix(CLUSTER_PREFIX)}")
    if not option.takes:
        raise ConfigurationError(f"is for the command line and the environment ({option.variable}) only; take it out")
    return option.read(_as_text(option, value))


def _unknown(name: str) -> str:
    known = [*(option.name for option in OPTIONS if option.takes and option.group != "cluster"), "shard", "cluster"]
    near = nearest_option(name, known)
    return f"unknown key; did you mean {near}?" if near else f"unknown key; known are {', '.join(sorted(known))}"


def _as_text(option: Option, value: object) -> str | list[str]:
    """`value` as it would be given on the command line."""
    takes = option.takes
    if type(value) not in takes:
        kinds = " or ".join(_KINDS[kind] for kind in takes if not (kind is int and float in takes))
        form = f" ({option.metavar})" if option.metavar else ""
        raise ConfigurationError(f"the value {_toml.show(value)} is {_kind(value)}; give {kinds}{form}")
    if isinstance(value, list):
        wanted = int if option.name == "cpus" else str
        for item in value:
            if type(item) is not wanted:
                raise ConfigurationError(f"{_toml.show(item)} in the list is {_kind(item)}; give {_KINDS[wanted]}")
    texts = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
    if option.repeat:
        return texts
    return ",".join(texts)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _kind(value: object) -> str:
    return "a boolean" if isinstance(value, bool) else _KINDS.get(type(value), f"a {type(value).__name__}")
