"""What `clockworker-serve` is given: an application of ASGI or WSGI, known by its parameters; and programs that serve one.

In this order: `async def main(shard)` is ours, which whoever finds the application sees to; (scope, receive, send) are ASGI's
and (environ, start_response) WSGI's, of the application or of its `__call__`; one parameter, scope, of what is no coroutine
function is ASGI's older form, which returns what takes receive and send. Where the parameters say nothing, --interface does.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.executor import Queue, QueueGroup
from clockworker.http._marks import routes_of
from clockworker.shards.config._application import accepts, is_coroutine_function, parameters
from clockworker.shards.config._declaration import Application, check_declared
from clockworker.shards.config._http import HttpConfig, Route

if TYPE_CHECKING:
    from clockworker.shards.worker._shard import Shard

Protocol: TypeAlias = Literal["asgi3", "asgi2", "wsgi"]
HttpApplication: TypeAlias = Application[["Shard"], Coroutine[Any, Any, None]]

# What serving needs beyond the package itself.
_NEEDS: dict[Protocol, tuple[str, ...]] = {
    "asgi3": ("httptools", "websockets"),
    "asgi2": ("httptools", "websockets"),
    "wsgi": ("httptools",),
}
_NAMES: dict[Protocol, str] = {"asgi3": "an ASGI", "asgi2": "an ASGI 2", "wsgi": "a WSGI"}


def asgi(
    app: Callable[..., Any],
    *,
    state: Mapping[str, Any] | None = None,
    routes: Iterable[Route] = (),
    queues: Iterable[Queue | QueueGroup] = (),
) -> HttpApplication:
    """A program for `clockworker-serve` that serves an ASGI application, and declares what it needs:

        main = cw.asgi(app, routes=[cw.Route("/health", queue="foreground")], queues=[cw.Queue("foreground", share=8)])

    state: what `scope["state"]` of each request has, beside what the lifespan puts there and `shard`.
    routes: after those of the options, before the marks of endpoints (`cw.queue`).
    queues: as in `cw.application`.

    Raises `ApplicationError` for what is no such application, `ConfigurationError` for what is no such route or queue.
    """
    return _program(_Served(app, _check_routes(routes), _check(app, "asgi")), state, queues)


def wsgi(
    app: Callable[..., Any], *, routes: Iterable[Route] = (), queues: Iterable[Queue | QueueGroup] = ()
) -> HttpApplication:
    """The same of a WSGI application, which runs in threads (`--threads`). app, routes, queues: as in `asgi`, and so are
    `ApplicationError` and `ConfigurationError`."""
    return _program(_Served(app, _check_routes(routes), _check(app, "wsgi")), None, queues)


def interface_of(target: object) -> Protocol | None:
    """What an application speaks, by its parameters; None: they do not tell."""
    if not callable(target):
        return None
    for each in (target,) if inspect.isclass(target) else (target, getattr(target, "__call__", None)):  # noqa: B004
        if (found := parameters(each)) is None:
            continue
        names, required = found
        is_coroutine = is_coroutine_function(target)
        match names[: max(required, 1)]:
            case (_, "receive", "send"):
                return "asgi3"
            case (_, _, _) if is_coroutine:
                return "asgi3"
            case (_, "start_response"):
                return "wsgi"
            case ("scope",) if not is_coroutine:
                return "asgi2"
    return None


def as_asgi3(app: Callable[..., Any], interface: Protocol) -> Callable[..., Coroutine[Any, Any, None]]:
    """The application as a coroutine function of scope, receive and send."""
    if interface == "asgi2":

        async def call(scope: Any, receive: Any, send: Any) -> None:
            await app(scope)(receive, send)

    elif is_coroutine_function(app):
        return app
    else:  # a class whose instances are awaited, or a function that returns an awaitable

        async def call(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

    return call


def as_program(
    target: Callable[..., Any], interface: Protocol, subject: str, queues: tuple[Queue | QueueGroup, ...]
) -> Application[..., Any]:
    """Of a target of the command line. subject: its name. Raises `ApplicationError` if what it needs is not installed."""
    served = _Served(target, (), interface)
    served.get_ready(subject)
    return _program(served, None, queues)


def check_interface(target: Callable[..., Any], interface: Protocol, subject: str) -> None:
    """That its parameters do not contradict --interface. Raises `ApplicationError`."""
    found = interface_of(target)
    needed = {"asgi3": 3, "asgi2": 1, "wsgi": 2}[interface]
    if found not in (None, interface) or not accepts(target, needed):
        names, _ = parameters(target) or ((), 0)
        what = f"is {_NAMES[found]} application" if found else f"is called with ({', '.join(names)})"
        raise ApplicationError(f"{subject} {what}, not as {interface} is; take --interface {interface} out")


def check_needs(subject: str, interface: Protocol) -> None:
    """That the libraries are installed. Raises `ApplicationError`."""
    missing = [name for name in _NEEDS[interface] if importlib.util.find_spec(name) is None]
    if missing:
        raise ApplicationError(
            f"{subject} is {_NAMES[interface]} application, which needs {' and '.join(missing)}, not installed: "
            "pip install 'clockworker[http]'"
        )


def all_routes(http: HttpConfig, routes: Iterable[Route], app: object) -> list[Route]:
    """Those of the options or the file, the application's, and its endpoints' marks: the order in which they decide."""
    return [*http.routes, *routes, *routes_of(app)]


async def serve_application(
    shard: Shard,
    app: Callable[..., Any],
    kind: Literal["asgi", "wsgi"],
    *,
    state: Mapping[str, Any] | None,
    routes: Iterable[Route],
    bind: str | None,
    ssl: SSLContext | Literal[False] | None,
) -> None:
    """`Shard.serve_asgi` and `Shard.serve_wsgi`."""
    interface = _check(app, kind)
    given = _check_routes(routes)
    check_needs("what is served", interface)
    asked = shard._config.http.interface
    if kind == "asgi" and asked in ("asgi2", "asgi3"):
        interface = asked
    # Here, because it needs libraries that are not always there.
    from clockworker.http._serve import serve

    await serve(shard, app, state=state, routes=given, bind=bind, ssl=ssl, interface=interface)


class _Served:
    """An application, and what it is served with."""

    def __init__(self, app: Callable[..., Any], routes: tuple[Route, ...], interface: Protocol) -> None:
        self.app = app
        self.routes = routes
        self.interface = interface

    def get_ready(self, subject: str) -> None:
        check_needs(subject, self.interface)
        # With the application, and not in the step of a queue in which it is served.
        importlib.import_module("clockworker.http._serve")
        if self.interface != "wsgi":
            importlib.import_module("clockworker.http._websocket")

    def find_routes(self) -> list[Route]:
        return [*self.routes, *routes_of(self.app)]


def _program(served: _Served, state: Mapping[str, Any] | None, queues: Iterable[Queue | QueueGroup]) -> HttpApplication:
    async def main(shard: Shard) -> None:
        if served.interface == "wsgi":
            await shard.serve_wsgi(served.app, routes=served.routes)
        else:
            await shard.serve_asgi(served.app, state=state, routes=served.routes)

    return Application(main, check_declared(queues, "wsgi" if served.interface == "wsgi" else "asgi"), served)


def _check(app: object, kind: Literal["asgi", "wsgi"]) -> Protocol:
    """What to speak with it: as it looks, or else the usual of its kind."""
    found = interface_of(app)
    if not callable(app) or found not in (None, *(("asgi3", "asgi2") if kind == "asgi" else ("wsgi",))):
        what = f"{_NAMES[found]} application" if found else f"of type {type(app).__name__}"
        right = "cw.wsgi and serve_wsgi" if kind == "asgi" else "cw.asgi and serve_asgi"
        hint = f"{right} are for that" if found else f"give an application of {kind.upper()}"
        raise ApplicationError(f"{app!r} is {what}; {hint}")
    return found or ("asgi3" if kind == "asgi" else "wsgi")


def _check_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    if isinstance(routes, str | bytes | Route) or not isinstance(routes, Iterable):
        raise ConfigurationError(
            f"routes is {routes!r}; give a list, such as [cw.Route('/health', queue='foreground')]"
        )
    given = tuple(routes)
    for route in given:
        if not isinstance(route, Route):
            raise ConfigurationError(f"a route is {route!r}; give cw.Route('/health', queue='foreground')")
    return given
