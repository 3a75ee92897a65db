"""What an application speaks, as its parameters say it, and programs made of one."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import fastapi
import flask
import litestar
import pytest
import quart
import starlette.applications
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

import clockworker as cw
from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.http import _application
from clockworker.http._application import as_asgi3, interface_of
from clockworker.shards.config._application import load_application


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


async def asgi_under_other_names(s: Any, r: Any, w: Any) -> None: ...


def asgi_by_a_function(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def wsgi_as_uwsgi_has_it(env: Any, start_response: Any) -> list[bytes]:
    return []


def asgi2(scope: Any) -> Any:
    return functools.partial(asgi, scope)


async def main(shard: Any) -> None: ...


def two(request: Any, reply: Any) -> None: ...


def none() -> None: ...


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any, exc_info: Any = None) -> list[bytes]:
        return []


class Slotted:
    """As sentry's middleware has it."""

    __slots__ = ("__call__",)

    def __init__(self) -> None:
        self.__call__ = self._run  # type: ignore[method-assign]

    async def _run(self, scope: Any, receive: Any, send: Any) -> None: ...


class Awaited:
    """An application of ASGI that is a class, as Starlette's endpoints are."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope

    def __await__(self) -> Iterator[None]:
        self.scope["called"] = True
        return iter(())


class Asgi2:
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        self.scope["called"] = True


class Iterated:
    """An application of WSGI that is a class."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


@functools.cache
def django_settings() -> None:
    if not settings.configured:  # by another test in this process
        settings.configure(ALLOWED_HOSTS=["*"])
    django.setup()


def of_django(kind: Callable[[], object]) -> object:
    django_settings()
    return kind()


APPLICATIONS: dict[str, tuple[Callable[[], object], str | None]] = {
    "a function": (lambda: asgi, "asgi3"),
    "other names": (lambda: asgi_under_other_names, "asgi3"),
    "a plain function": (lambda: asgi_by_a_function, "asgi3"),
    "an object": (Asgi, "asgi3"),
    "an object's own": (Slotted, "asgi3"),
    "a method": (lambda: Asgi().__call__, "asgi3"),
    "a partial": (lambda: functools.partial(asgi), "asgi3"),
    "a class": (lambda: Awaited, "asgi3"),
    "FastAPI": (fastapi.FastAPI, "asgi3"),
    "Starlette": (starlette.applications.Starlette, "asgi3"),
    "Litestar": (lambda: litestar.Litestar([]), "asgi3"),
    "Quart": (lambda: quart.Quart("x"), "asgi3"),
    "Django": (lambda: of_django(ASGIHandler), "asgi3"),
    "WSGI": (lambda: wsgi, "wsgi"),
    "WSGI as uWSGI has it": (lambda: wsgi_as_uwsgi_has_it, "wsgi"),
    "WSGI, an object": (Wsgi, "wsgi"),
    "WSGI, a class": (lambda: Iterated, "wsgi"),
    "Flask": (lambda: flask.Flask("x"), "wsgi"),
    "Django, WSGI": (lambda: of_django(WSGIHandler), "wsgi"),
    "ASGI 2": (lambda: asgi2, "asgi2"),
    "ASGI 2, a class": (lambda: Asgi2, "asgi2"),
    "ours": (lambda: main, None),
    "two arguments": (lambda: two, None),
    "no argument": (lambda: none, None),
    "a class of one": (lambda: Asgi, None),
    "nothing to call": (lambda: 7, None),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_what_it_speaks(name: str) -> None:
    make, expected = APPLICATIONS[name]
    assert interface_of(make()) == expected


@pytest.mark.parametrize("app", [Awaited, Asgi2, asgi2, asgi_by_a_function, asgi])
def test_all_of_asgi_are_called_alike(app: Any) -> None:
    scope: dict[str, Any] = {}
    interface = interface_of(app)
    assert interface is not None
    asyncio.run(as_asgi3(app, interface)(scope, None, None))
    assert scope == ({"called": True} if isinstance(app, type) else {})


def test_who_is_a_coroutine_function_is_called_itself() -> None:
    app = Asgi()
    assert as_asgi3(app, "asgi3") is app


SOURCE = """
import functools
import clockworker as cw

async def main(shard): pass
async def asgi(scope, receive, send): pass
def wsgi(environ, start_response): pass
def untold(*arguments): pass
def make(): return asgi

program = cw.asgi(asgi, routes=[cw.Route("/health", queue="foreground")], queues=[cw.Queue("foreground")])
declared = cw.application(asgi, queues=[cw.Queue("foreground", share=3)])
declared_program = cw.application(program, queues=[cw.Queue("foreground", share=4)])
makes = cw.application(make, queues=[cw.Queue("foreground", share=5)])
late = cw.asgi(asgi)
cw.queue("late")(asgi)
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., Any]:
    name = f"target_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda attribute, factory=False, **more: load_application(
        f"{name}:{attribute}", str(tmp_path), factory=factory, **more
    )


@pytest.mark.parametrize(
    ("attribute", "options", "queues", "routes"),
    [
        ("main", {}, [], None),
        ("asgi", {}, [], ["/*"]),
        ("asgi", {"interface": "asgi3"}, [], ["/*"]),
        ("wsgi", {}, [], []),
        ("wsgi", {"interface": "wsgi"}, [], []),
        ("untold", {"interface": "wsgi"}, [], []),
        ("untold", {"interface": "asgi2"}, [], []),
        ("make", {"factory": True}, [], ["/*"]),
        ("program", {}, [1], ["/health", "/*"]),
        ("program", {"interface": "asgi3"}, [1], ["/health", "/*"]),
        ("declared", {}, [3], ["/*"]),
        ("declared_program", {}, [4], ["/health", "/*"]),
        ("makes", {"factory": True}, [5], ["/*"]),
        ("late", {}, [], ["/*"]),  # the table is looked at when all is imported
    ],
)
def test_targets(
    load: Callable[..., Any], attribute: str, options: dict[str, Any], queues: list[int], routes: list[str] | None
) -> None:
    application = load(attribute, **options)
    assert [queue.share for queue in application.queues] == queues
    found = None if application.served is None else [route.path for route in application.served.find_routes()]
    assert found == routes


@pytest.mark.parametrize(
    ("attribute", "interface", "message"),
    [
        ("main", "asgi3", "main is called with (shard), not as asgi3 is; take --interface asgi3 out"),
        ("main", "wsgi", "main is called with (shard), not as wsgi is"),
        ("asgi", "wsgi", "asgi is an ASGI application, not as wsgi is; take --interface wsgi out"),
        ("wsgi", "asgi3", "wsgi is a WSGI application, not as asgi3 is"),
        ("wsgi", "asgi2", "wsgi is a WSGI application, not as asgi2 is"),
        ("make", "asgi3", "make is called with (), not as asgi3 is"),
        ("untold", "auto", "untold is not a coroutine function but a plain `def`"),
    ],
)
def test_a_contradiction_is_told(load: Callable[..., Any], attribute: str, interface: str, message: str) -> None:
    with pytest.raises(ApplicationError) as caught:
        load(attribute, interface=interface)
    assert message in str(caught.value)


def test_what_is_not_installed_is_named(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"httptools", "websockets"}
    find = importlib.util.find_spec
    monkeypatch.setattr(_application.importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(
        ApplicationError, match=r"asgi is an ASGI .* needs httptools and websockets, not installed: pip"
    ):
        load("asgi")
    with pytest.raises(
        ApplicationError, match=r"wsgi is a WSGI .* needs httptools, not installed: pip .*'clockworker\[h"
    ):
        load("wsgi")
    with pytest.raises(ApplicationError, match=r"program is an ASGI .* needs httptools and websockets"):
        load("program")
    assert load("main") is not None
    missing.remove("httptools")
    assert load("wsgi") is not None
    with pytest.raises(ApplicationError, match="needs websockets, not"):
        load("asgi")


def test_a_program_takes_what_it_can_serve() -> None:
    assert cw.asgi(asgi, routes=[cw.Route("/x", "q")]).served is not None
    with pytest.raises(ApplicationError, match=r"is a WSGI application; cw\.wsgi and serve_wsgi are for that"):
        cw.asgi(wsgi)
    with pytest.raises(ApplicationError, match=r"is an ASGI application; cw\.asgi and serve_asgi are for that"):
        cw.wsgi(asgi)
    with pytest.raises(ApplicationError, match="7 is of type int; give an application of ASGI"):
        cw.asgi(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"routes is Route.*; give a list, such as \[cw.Route"):
        cw.asgi(asgi, routes=cw.Route("/x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"a route is '/x'; give cw\.Route"):
        cw.asgi(asgi, routes=["/x"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match=r"asgi\(queues=...\) is 'web'; give a list"):
        cw.asgi(asgi, queues="web")  # type: ignore[arg-type]
