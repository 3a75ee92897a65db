"""Routes of HTTP as operators write them: PATH=QUEUE[:GROUP] on the command line, `[[route]]` tables in the file; and whether
the queues that routes name are there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from clockworker._errors import ConfigurationError
from clockworker.shards.config._declaration import check_name
from clockworker.shards.config._http import MAX_COUNT, HttpConfig, Route, shard_of
from clockworker.shards.config._queues import DEFAULT
from clockworker.shards.config._spelling import did_you_mean

_FORM = "PATH=QUEUE[:GROUP], for example /reports/*=background or /reports/*=background:client"

_KEYS: dict[str, tuple[type, str]] = {
    "path": (str, "a string such as '/reports/*'"),
    "queue": (str, 'a string such as "background"'),
    "methods": (list, 'a list such as ["GET", "POST"]'),
    "host": (str, 'a string such as "api.example.com"'),
    "group": (str, '"client", "host", "route", "header:NAME" or "path:NAME"'),
    "after": (str, 'a string such as "background"'),
    "limit": (int, f"a whole number from 1 to {MAX_COUNT}"),
    "waiting": (int, f"a whole number from 0 to {MAX_COUNT}"),
    "threads": (bool, "true or false"),
    "place": (str, 'a shard such as "shard:1"'),
}


def parse_route(text: str) -> Route:
    """PATH=QUEUE[:GROUP], for example `/reports/*=background:header:x-tenant`."""
    path, sign, target = text.rpartition("=")  # a path may have one, too
    queue, colon, group = target.partition(":")
    if not sign or not path or not queue or (colon and not group):
        raise ConfigurationError(f"{text!r} is not {_FORM}")
    return Route(path, check_name(queue), group=group or None)


def parse_routes(texts: Sequence[str]) -> tuple[Route, ...]:
    return _each_once([parse_route(text) for text in texts])


def routes_of_file(value: object) -> tuple[Route, ...]:
    """The file's `[[route]]` tables, or a list of texts as on the command line, or of both."""
    if not isinstance(value, list) or not all(isinstance(item, str | dict) for item in value):
        raise ConfigurationError(f"route is {value!r}; give tables [[route]], each with a path")
    return _each_once([parse_route(item) if isinstance(item, str) else _route(item) for item in value])


def lacking_for_options(
    http: HttpConfig, queues: Sequence[str], shard: int, preemptive: Collection[str] = ()
) -> str | None:
    """What is to be said of a queue that the options or the file name and this shard, which has these queues, has not, or has
    in another way. preemptive: those of its queues that are."""
    if (name := http.lifespan_queue) is not None and name not in queues:
        return f"--lifespan-queue is {name!r}, {_there_are(name, queues, shard)}"
    return _lacking(http.routes, "--route", queues, shard, preemptive)


def lacking_for_application(
    routes: Iterable[Route], queues: Sequence[str], shard: int, preemptive: Collection[str] = ()
) -> str | None:
    """The same of routes that the application has."""
    return _lacking(routes, "the application's route", queues, shard, preemptive)


def beyond(routes: Iterable[Route], count: int) -> str | None:
    """What is to be said of a place that is none of so many shards."""
    for route in routes:
        if route.place is not None and shard_of(route.place) >= count:
            last = f"the last of {count} is shard:{count - 1}" if count > 1 else "there is shard:0 alone"
            return f"route {route.path}: place is {route.place!r}, and {last}"
    return None


def _lacking(
    routes: Iterable[Route], whose: str, queues: Sequence[str], shard: int, preemptive: Collection[str]
) -> str | None:
    for route in routes:
        for key in ("queue", "after"):
            if (name := getattr(route, key)) is not None and name not in queues:
                return f"{whose} {route.path}: {key} is {name!r}, {_there_are(name, queues, shard)}"
        if not route.threads and (name := route.queue or queues[0]) not in preemptive:
            return (
                f"{whose} {route.path}: threads is false, which is for preemptive queues, and {name!r} of shard {shard} is "
                f"not one; add --queue {name}:1:preemptive, or take it out"
            )
    return None


def _there_are(name: str, queues: Collection[str], shard: int) -> str:
    if [*queues] == [DEFAULT.name]:  # which another one would replace, and not stand beside
        right = f"add --queue {DEFAULT.name}:8 --queue {name}:1, the first for requests that no route names"
    else:
        right = f"{did_you_mean(name, queues)}give one of them, or add --queue {name}:1"
    return f"which shard {shard} does not have, only {', '.join(map(repr, queues))}; {right}"


def _route(table: dict[str, Any]) -> Route:
    path = table.get("path")
    where = f"[[route]] {path!r}" if isinstance(path, str) else "[[route]]"
    for key, value in table.items():
        if key not in _KEYS:
            raise ConfigurationError(
                f"{where}: unknown key {key!r}; {did_you_mean(key, _KEYS)}a route has {', '.join(_KEYS)}"
            )
        kind, right = _KEYS[key]
        if type(value) is not kind:
            raise ConfigurationError(f"{where}: {key} is {value!r}; give {right}")
    if path is None:
        raise ConfigurationError(f'{where}: there is no path; give one, for example path = "/reports/*"')
    if "queue" in table:
        check_name(table["queue"])
    return Route(**table)


def _each_once(routes: list[Route]) -> tuple[Route, ...]:
    seen: set[tuple[object, ...]] = set()
    for route in routes:
        what = (route.path, frozenset(route.methods), route.host)
        if what in seen:
            raise ConfigurationError(f"route {route.path!r} is given twice, and the first decides; give it once")
        seen.add(what)
    return tuple(routes)
