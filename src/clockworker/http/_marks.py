"""Where the requests of an endpoint run, said at the endpoint: `@cw.queue("background")`; and the routes of frameworks' tables.

A mark is an attribute of the endpoint, and changes nothing of it. What paths an endpoint has stands in the framework's table,
which is walked once, when the application is served. Every route is taken over, marked or not, in the table's order, and with
the prefixes of mounts: else a request for an unmarked `/items/special` would be one of a marked `/items/{id}` behind it.

The tables of Starlette, FastAPI and Litestar are known by what their routes have (`path`, `endpoint`, `routes`): no framework
is imported. A path that a route cannot say is taken over as one that matches more: two parameters in a segment as one, and what
follows a parameter that may contain slashes, not at all. An unmarked one that is no path at all is left out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import msgspec

from clockworker._errors import ConfigurationError, UsageError
from clockworker.shards.config._http import Route, check_place
from clockworker.shards.config._patterns import KINDS

F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE = "__clockworker_queue__"

# Of an endpoint that takes requests of every method, but no WebSockets.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_DEEPEST = 50  # applications around applications, and mounts in mounts
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


class Mark(msgspec.Struct, frozen=True):
    """What `queue()` was told."""

    queue: str
    group: str | None = None
    after: str | None = None
    limit: int | None = None
    waiting: int | None = None
    threads: bool = True


def queue(
    name: str,
    *,
    group: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    waiting: int | None = None,
    threads: bool = True,
) -> Callable[[F], F]:
    """Have the requests of an endpoint of FastAPI, Starlette or Litestar run in a queue.

        @app.get("/reports/{tenant}")
        @cw.queue("background", group="path:tenant")
        async def report(tenant: str): ...

    It sets `__clockworker_queue__` of the endpoint, and changes nothing else: other servers do not see it. On an application
    that is mounted, or on a whole one, it is for all endpoints that say nothing themselves. Operators' routes go before.

    name, group, after, limit, waiting, threads: as in `cw.Route`. A limit is for each path of the endpoint.

    Raises `ConfigurationError` for a wrong value, and `UsageError` for an endpoint that can have no attribute. That the shard
    has the queue is seen when it serves.
    """
    check_place("cw.queue()", name, group, after, limit, waiting, None, threads)
    if not isinstance(name, str):
        raise ConfigurationError(f"cw.queue({name!r}): give the name of a queue, for example cw.queue('background')")
    mark = Mark(name, group, after, limit, waiting, threads)

    def set_mark(endpoint: F) -> F:
        try:
            setattr(endpoint, ATTRIBUTE, mark)
        except (AttributeError, TypeError):
            raise UsageError(
                f"{endpoint!r} cannot be marked; mark the function or class that it is made of, or give its path a route"
            ) from None
        return endpoint

    return set_mark


def routes_of(app: object) -> list[Route]:
    """The routes of the application's table, in its order; none if it has no table that is known, and no mark. Raises
    `ConfigurationError` for a mark that says what its path has not."""
    mark = _mark_of(app)
    routes = list(_of_application(app, "", None, mark, 0))
    if mark is not None:
        routes += _route("/*", mark, (), None)
    return routes


def _of_application(app: object, prefix: str, host: str | None, mark: Mark | None, depth: int) -> Iterator[Route]:
    """mark: of those that have none."""
    mark = _mark_of(app) or mark
    table = getattr(app, "routes", None)
    if isinstance(table, list | tuple):
        if any(hasattr(route, "path_components") for route in table):
            yield from _of_litestar(table, prefix, host, mark)
        else:
            for route in table:
                yield from _of_starlette(route, prefix, host, mark, depth)
    elif depth < _DEEPEST and callable(inner := getattr(app, "app", None)):  # a middleware
        yield from _of_application(inner, prefix, host, mark, depth + 1)


def _of_starlette(route: Any, prefix: str, host: str | None, mark: Mark | None, depth: int) -> Iterator[Route]:
    path, inner = _path_of(route), getattr(route, "app", None)
    if depth >= _DEEPEST:
        return
    if (included := getattr(route, "original_router", None)) is not None:  # FastAPI's include_router
        prefix += getattr(getattr(route, "include_context", None), "prefix", "")
        mark = _mark_of(included) or mark
        for each in getattr(included, "routes", ()):
            yield from _of_starlette(each, prefix, host, mark, depth + 1)
    elif path is not None and (endpoint := getattr(route, "endpoint", None)) is not None:
        if not hasattr(route, "methods"):
            yield from _route(prefix + path, _mark_of(endpoint) or mark, ("WEBSOCKET",), host)
            return
        for method in _METHODS if isinstance(endpoint, type) else ():
            if (own := _mark_of(getattr(endpoint, method.lower(), None))) is not None:
                yield from _route(prefix + path, own, (method,), host)
        methods = tuple(sorted(route.methods)) if route.methods else _METHODS
        yield from _route(prefix + path, _mark_of(endpoint) or mark, methods, host)
    elif path is not None and inner is not None:  # a mount, behind which nothing below its path comes
        mark = _mark_of(inner) or mark
        yield from _of_mounted(route, inner, prefix + path, host, mark, depth + 1)
        yield from _route(f"{prefix}{path}/*", mark, (), host)
    elif isinstance(own_host := getattr(route, "host", None), str) and inner is not None and "{" not in own_host:
        own_host = own_host.partition(":")[0]
        yield from _of_mounted(route, inner, prefix, own_host, _mark_of(inner) or mark, depth + 1)
        yield from _route(f"{prefix}/*", _mark_of(inner) or mark, (), own_host)


def _of_mounted(
    route: Any, inner: object, prefix: str, host: str | None, mark: Mark | None, depth: int
) -> Iterator[Route]:
    """The mount's own table is that of the application within its middlewares."""
    if table := getattr(route, "routes", None):
        for each in table:
            yield from _of_starlette(each, prefix, host, mark, depth)
    else:
        yield from _of_application(inner, prefix, host, mark, depth)


def _of_litestar(table: Any, prefix: str, host: str | None, mark: Mark | None) -> Iterator[Route]:
    """Litestar looks in a tree, which prefers text to a parameter at each step; and takes no notice of a slash at the end."""

    def order(route: Any) -> tuple[int, ...]:
        steps = [0 if isinstance(each, str) else 1 for each in route.path_components]
        return (*steps, 2) if getattr(getattr(route, "route_handler", None), "is_mount", False) else tuple(steps)

    for route in sorted(table, key=order):
        path = prefix + re.sub(r"\{(\w+):(?!path\})\w+\}", r"{\1}", route.path)
        handlers = getattr(route, "route_handler_map", None)
        if handlers is not None:
            of_methods: list[tuple[tuple[str, ...], Any]] = [
                ((method,), handler) for method, handler in handlers.items()
            ]
        else:
            is_socket = not getattr(route, "methods", None) and not hasattr(route.route_handler, "is_mount")
            of_methods = [(("WEBSOCKET",) if is_socket else (), route.route_handler)]
        for methods, said in of_methods:
            handler = said[0] if isinstance(said, tuple) else said
            own = _mark_of(handler) or _mark_of(getattr(handler, "fn", None)) or mark
            yield from _route(path, own, methods, host)
            if own is not None and path != "/":
                yield from _route(path + "/", own, methods, host)
            if getattr(handler, "is_mount", False):
                yield from _route(path.rstrip("/") + "/*", own, methods, host)


def _route(path: str, mark: Mark | None, methods: tuple[str, ...], host: str | None) -> Iterator[Route]:
    path = _sayable(path)
    if mark is not None:
        place = mark.queue, methods, host, mark.group, mark.after, mark.limit, mark.waiting, mark.threads
        yield Route(path, *place)
        return
    try:
        yield Route(path, None, methods, host)
    except ConfigurationError:
        return


def _sayable(path: str, spanning: Collection[str] = ()) -> str:
    """A path as Starlette writes it, as one of a route's. spanning: parameters of the application's own kinds that may contain
    slashes."""
    said, end = "", 0
    for found in _PARAMETER.finditer(path):
        said, name, kind = said + path[end : found.start()], found[1], found[2]
        end, is_second = found.end(), "{" in said[said.rfind("/") + 1 :]
        if kind == "path" or name in spanning:
            rest = path[end:]
            said = said[: said.rindex("{")] if is_second else said
            return f"{said}{{{name}:path}}{'' if re.search('[{*]', rest) else rest}"
        if is_second:
            said = said[: said.rindex("}") + 1]
        else:
            said += f"{{{name}:{kind}}}" if kind in KINDS and kind != "str" else f"{{{name}}}"
    return said + path[end:]


def _path_of(route: Any) -> str | None:
    """Of a route of Starlette's."""
    path, kinds = getattr(route, "path", None), getattr(route, "param_convertors", None)
    if not isinstance(path, str):
        return None
    spanning = [name for name, kind in kinds.items() if re.fullmatch(kind.regex, "a/b")] if kinds else []
    return _sayable(path, spanning)


def _mark_of(endpoint: object) -> Mark | None:
    while not isinstance(mark := getattr(endpoint, ATTRIBUTE, None), Mark):
        if not isinstance(endpoint, functools.partial):
            return None
        endpoint = endpoint.func
    return mark
