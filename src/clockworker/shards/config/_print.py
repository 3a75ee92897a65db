"""--print-config: the configuration as a `clockworker.toml` that says the same, with where each value came from.

What is not set is shown as a comment, and so are the queues that the application declares: a file that repeated them would
keep them as they are now, whatever a later version declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from clockworker.shards.config import _toml
from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.config._config import InheritedSocket, QueueConfig, QueueGroupConfig, ServeConfig
from clockworker.shards.config._http import Route
from clockworker.shards.config._option import GROUPS, Option
from clockworker.shards.config._options import CLUSTER_PREFIX, HTTP_FIELDS, OF_HTTP, OPTIONS
from clockworker.shards.config._parse import show_size

_COLUMN = 44
# Addresses are shown as `bind`, whatever they were given as; queues and routes as tables, after all plain values.
_SECRET = ("ssl_keyfile_password",)
_ELSEWHERE = ("host", "port", "uds", "uds_mode", "fd", "queue", "queue_group", "route")


def as_toml(
    config: ServeConfig,
    origins: Mapping[str, str],
    remarks: Mapping[str, str],
    declared: Sequence[QueueConfig] | None = None,
) -> str:
    """`origins` and `remarks` are by option; a remark is added to the origin. declared: what the application says of its
    queues; None: that is not known."""
    return "\n".join(_lines(config, origins, remarks, declared)) + "\n"


def _lines(
    config: ServeConfig,
    origins: Mapping[str, str],
    remarks: Mapping[str, str],
    declared: Sequence[QueueConfig] | None,
) -> Iterator[str]:
    def comment(name: str) -> str:
        return "; ".join(filter(None, (origins.get(name, "default"), remarks.get(name))))

    for group in GROUPS:
        if group == "cluster":
            continue
        options = [o for o in OPTIONS if o.group == group and o.takes and o.name not in _ELSEWHERE]
        if options:
            yield f"# {group}"
            for option in options:
                yield _line(option.name, _value(config, option), comment(option.name))
            yield ""
    yield from _cluster(config.cluster, comment)
    for route in config.http.routes:
        yield f"{'[[route]]':{_COLUMN}}# {comment('route')}"
        yield from _route(route)
        yield ""
    if not config.http.routes:
        yield f"{'# [[route]]':{_COLUMN}}# not set: those of the application, or else all in the first queue"
        yield ""
    rest = {queue.name: queue for queue in declared or ()}
    for queue in config.queues:
        yield f"{'[[queue]]':{_COLUMN}}# {comment('queue')}"
        yield from _queue(queue)
        if (beneath := rest.pop(queue.name, None)) is not None:
            yield from _declared(_without(beneath, queue), config.app)
        yield ""
    for queue in rest.values():
        yield f"{'# [[queue]]':{_COLUMN}}# {config.app}"
        yield from _declared(queue, config.app)
        yield ""
    if declared is None and config.app:
        yield f"{'# [[queue]]':{_COLUMN}}# {config.app} cannot be imported (--check-config says why), and may declare some"
    elif not declared and not config.queues:
        yield f"{'# [[queue]]':{_COLUMN}}# not set: those that the application declares, or else one, default"
    for outer in config.queue_groups:
        yield f"{'[[group]]':{_COLUMN}}# {comment('queue_group')}"
        yield from _queue(outer)
        yield ""
    for shard, queues in sorted(config.shard_queues.items()):
        for queue in queues:
            yield f"{f'[[shard.{shard}.queue]]':{_COLUMN}}# {comment('shard_queue')}"
            yield from _queue(queue)
            yield ""


def _cluster(cluster: ClusterConfig | None, comment: Callable[[str], str]) -> Iterator[str]:
    """Without what a url has before its @."""
    if cluster is None:
        yield f"{'# [cluster]':{_COLUMN}}# not set: this machine is alone"
        yield ""
        return
    yield "[cluster]"
    for option in OPTIONS:
        if option.group == "cluster":
            field = option.name.removeprefix(CLUSTER_PREFIX)
            value = [*cluster.shown_urls] if field == "url" else getattr(cluster, field)
            yield _line(field, value, comment(option.name))
    yield ""


def _line(name: str, value: object, comment: str) -> str:
    if value is None:
        return f"{f'# {name}':{_COLUMN}}# not set"
    if name in _SECRET:
        return f"{f'# {name}':{_COLUMN}}# {comment}; not shown"
    return f"{f'{name} = {_toml.show(value)} ':{_COLUMN}}# {comment}"


def _value(config: ServeConfig, option: Option) -> object:
    match option.name:
        case "app":
            return config.app or None  # nothing is run
        case "no_pin":
            return not config.pin
        case "idle_poll":
            return config.idle_poll_us
        case "max_message":
            return show_size(config.max_message)
        case "bind":
            # A descriptor's name that is no bind's, which its text shows, is not part of its address.
            return [f"fd:{a.fd}" if isinstance(a, InheritedSocket) and not a.bind else str(a) for a in config.addresses]
        case "reload_dir":
            return list(config.reload_dirs)
        case "reload_include" | "reload_exclude" as name:
            return list(getattr(config, name))
        case "shard_max_rss":
            return None if config.shard_max_rss is None else show_size(config.shard_max_rss)
        case "umask":
            return None if config.umask is None else f"{config.umask:03o}"
        case "cpus":
            return None if config.cpus is None else list(config.cpus)
        case "metrics":
            return None if config.metrics is None else str(config.metrics)
        case "header":
            return [f"{name}: {value}" for name, value in config.http.headers]
        case "ws_max_size" | "h11_max_incomplete_event_size" as name:
            return show_size(getattr(config.http, HTTP_FIELDS.get(name, name)))
        case name:
            value: object = getattr(config.http if name in OF_HTTP else config, name)
            return value


def _queue(queue: QueueConfig | QueueGroupConfig) -> Iterator[str]:
    for field in queue.__struct_fields__:
        if (value := getattr(queue, field)) is not None:
            yield f"{field} = {_toml.show(value)}"


def _route(route: Route) -> Iterator[str]:
    for field in route.__struct_fields__:
        value = getattr(route, field)
        if value is not None and value != () and (field, value) != ("threads", True):
            yield f"{field} = {_toml.show([*value] if isinstance(value, tuple) else value)}"


def _declared(queue: QueueConfig, app: str) -> Iterator[str]:
    for field in queue.__struct_fields__:
        if (value := getattr(queue, field)) is not None:
            yield f"{f'# {field} = {_toml.show(value)} ':{_COLUMN}}# {app}"


def _without(declared: QueueConfig, given: QueueConfig) -> QueueConfig:
    """What is declared and not given otherwise."""
    names = [field for field in given.__struct_fields__ if getattr(given, field) is not None]
    return msgspec.structs.replace(declared, **dict.fromkeys(names))
