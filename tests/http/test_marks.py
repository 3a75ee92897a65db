"""Tables of the frameworks themselves: which route a request's path has is compared with what the framework does with it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
import litestar
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

import clockworker as cw
from clockworker._errors import ConfigurationError, UsageError
from clockworker.http._marks import routes_of
from clockworker.http._routes import RouteTable


def queue_of(app: object) -> Callable[..., str | None]:
    """The queue of a request, by the application's own table."""
    routes = routes_of(app)
    table = RouteTable(routes)

    def find(path: str, method: str = "GET", host: str = "") -> str | None:
        number = table.find(method, path, host)
        return routes[number].queue if number >= 0 else "no route"

    return find


async def plain(request: Any) -> PlainTextResponse:
    return PlainTextResponse("")


@cw.queue("background")
async def marked(request: Any) -> PlainTextResponse:
    return PlainTextResponse("")


@cw.queue("sockets")
async def socket(websocket: Any) -> None: ...


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def test_a_mark_is_an_attribute_and_nothing_else() -> None:
    def endpoint() -> int:
        return 1

    assert cw.queue("background", group="client", after="x", limit=2, waiting=3)(endpoint) is endpoint
    assert endpoint() == 1
    mark = endpoint.__clockworker_queue__  # type: ignore[attr-defined]
    assert (mark.queue, mark.group, mark.after, mark.limit, mark.waiting) == ("background", "client", "x", 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "queue is ''; give the name of a queue"),
        ({"name": 1}, "queue is 1; give the name of a queue"),
        ({"name": None}, "give the name of a queue"),
        ({"name": "q", "group": "tenant"}, "group is 'tenant'; give"),
        ({"name": "q", "limit": 0}, "limit is 0; give"),
        ({"name": "q", "waiting": 1}, "waiting is 1, but without a limit"),
    ],
)
def test_a_wrong_mark_is_told_where_it_is_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        cw.queue(**arguments)


def test_what_can_have_no_mark() -> None:
    with pytest.raises(UsageError, match="cannot be marked"):
        cw.queue("q")(len)


def test_the_whole_table_in_its_order() -> None:
    app = Starlette(
        routes=[
            Route("/items/special", plain),
            Route("/items/{id:int}", marked, methods=["GET", "POST"]),
            Route("/items/{id}", plain),
            WebSocketRoute("/items/{id}", socket),
            Route("/{name}.csv", marked),
        ]
    )
    queue = queue_of(app)
    assert queue("/items/special") is None
    assert queue("/items/7") == queue("/items/7", "HEAD") == queue("/items/7", "POST") == "background"
    assert queue("/items/seven") is None
    assert queue("/items/7", "DELETE") == "no route"
    assert queue("/items/7", "WEBSOCKET") == "sockets"
    assert queue("/report.csv") == "background"
    assert [route.path for route in routes_of(app)] == [
        "/items/special",
        "/items/{id:int}",
        "/items/{id}",
        "/items/{id}",
        "/{name}.csv",
    ]


SEGMENTS = st.sampled_from(["a", "b", "{x}", "{x:int}", "7", "a{x}", "{x}.c", "{p:path}"])
PATHS = st.lists(SEGMENTS, max_size=2).map(lambda parts: "/" + "/".join(parts)).filter(lambda path: path.count("{") < 2)
METHODS = st.sampled_from([None, ["GET"], ["POST"], ["GET", "PUT"]])
LEAVES = st.tuples(st.just("route"), PATHS, METHODS)
NODES = LEAVES | st.tuples(st.just("mount"), st.sampled_from(["", "/a", "/a/b", "/m{y}"]), st.lists(LEAVES, max_size=3))


def tree_of(nodes: list[Any], said: list[str]) -> list[BaseRoute]:
    """Routes of Starlette's, of which every other is marked with a queue of its own."""
    routes: list[BaseRoute] = []
    for kind, path, more in nodes:
        if kind == "mount":
            routes.append(Mount(path, Router(tree_of(more, said))))
            continue
        endpoint = functools.partial(plain)
        said.append(f"queue {len(said)}" if len(said) % 2 else "")
        routes.append(Route(path, cw.queue(said[-1])(endpoint) if said[-1] else endpoint, methods=more))
    return routes


def chosen_by_starlette(routes: Any, scope: dict[str, Any]) -> str | None:
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            if isinstance(route, Mount):
                return chosen_by_starlette(route.routes, scope | child)
            mark = getattr(route.endpoint, "__clockworker_queue__", None)
            return None if mark is None else str(mark.queue)
    return "no route"


@given(
    st.lists(NODES, min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", "7", "ab", "x.c", "", "m7"]), max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
)
@example([("mount", "/a", [("route", "/b", None)]), ("route", "/a/b", None)], "/a/b", "GET")
def test_any_request_runs_where_the_endpoint_that_starlette_chooses_says(
    nodes: list[Any], path: str, method: str
) -> None:
    routes = tree_of(nodes, [])
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    expected = chosen_by_starlette(routes, scope)
    found = queue_of(Starlette(routes=routes))(path, method)
    # What has no endpoint is answered with 404 or 405, wherever.
    assert found == expected or (expected == "no route" and found is None)


def test_mounts() -> None:
    inner = Starlette(routes=[Route("/", plain), Route("/a", marked), Route("/{x:path}", plain)])
    app = Starlette(
        routes=[
            Mount("/v1", inner),
            Mount(
                "/v2", routes=[Mount("/deep", routes=[Route("/a", marked)])], middleware=[Middleware(GZipMiddleware)]
            ),
            Mount("/{tenant}/files", GZipMiddleware(Router([Route("/{rest:path}", marked)]))),
            Mount("/app", cw.queue("static")(functools.partial(asgi))),
            Mount("/marked", cw.queue("static")(Router([Route("/a", marked), Route("/b", plain)]))),
            Mount("/v2", routes=[Route("/deep/b", marked), Route("/other", marked)]),
            Route("/v1/b", marked),
            Mount("", asgi),
            Route("/last", marked),
        ]
    )
    queue = queue_of(app)
    assert queue("/v1/a") == queue("/v2/deep/a") == queue("/t/files/x/y") == queue("/marked/a") == "background"
    assert queue("/app/x", "WEBSOCKET") == queue("/marked/b") == queue("/marked/none") == "static"
    assert queue("/v1/") is queue("/v1/b") is None
    # What is mounted has all that begins so, and answers 404 itself.
    assert queue("/v2/other") is queue("/last") is None


def test_hosts_and_middlewares() -> None:
    api = cw.queue("api")(Router([Route("/a", marked), Route("/b", plain)]))
    app = GZipMiddleware(
        Starlette(routes=[Host("api.example.com:80", api), Host("{any}.example.com", api), Route("/b", plain)])  # type: ignore[arg-type]
    )
    queue = queue_of(app)
    assert queue("/a", host="api.example.com:8000") == "background"
    assert queue("/b", host="api.example.com") == queue("/c", host="api.example.com") == "api"
    assert queue("/b", host="www.example.com") is None


def test_classes_and_their_methods() -> None:
    class Report(HTTPEndpoint):
        async def get(self, request: Any) -> PlainTextResponse:
            return PlainTextResponse("")

        @cw.queue("background")
        async def post(self, request: Any) -> PlainTextResponse:
            return PlainTextResponse("")

    queue = queue_of(Starlette(routes=[Route("/x", Report), WebSocketRoute("/x", socket)]))
    assert (queue("/x"), queue("/x", "POST"), queue("/x", "WEBSOCKET")) == (None, "background", "sockets")
    assert queue_of(Starlette(routes=[Route("/x", cw.queue("all")(Report))]))("/x") == "all"


def test_paths_that_a_route_cannot_say() -> None:
    class Dotted(Convertor[str]):
        regex = "[a-z/]+"

    register_url_convertor("dotted", Dotted())
    routes = [
        Route("/{a}-{b}.json", marked),
        Route("/p/{x:path}/of/{y:path}", marked),
        Route("/q/{x:dotted}", marked),
        Route("/a*b", plain),
    ]
    queue = queue_of(Starlette(routes=routes))
    assert queue("/1-2.json") == queue("/p/a/b/of/c") == queue("/q/a/b") == "background"
    assert [route.path for route in routes_of(Starlette(routes=routes))] == [
        "/{a}.json",
        "/p/{x:path}",
        "/q/{x:path}",
    ]
    with pytest.raises(ConfigurationError, match=r"'/a\*b'"):
        routes_of(Starlette(routes=[Route("/a*b", marked)]))


def test_a_group_by_a_part_that_the_path_does_not_have() -> None:
    endpoint = cw.queue("background", group="path:tenant")(functools.partial(plain))
    assert routes_of(Starlette(routes=[Route("/{tenant}", endpoint)]))[0].group == "path:tenant"
    with pytest.raises(ConfigurationError, match="route '/x': group is 'path:tenant'; give a path that has it"):
        routes_of(Starlette(routes=[Route("/x", endpoint)]))


def fastapi_app() -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    leaf = fastapi.APIRouter(prefix="/leaf")
    router = fastapi.APIRouter(prefix="/router")
    sub = fastapi.FastAPI()

    @app.get("/items/special")
    async def special() -> str:
        return ""

    @app.get("/items/{id}")
    @cw.queue("background")
    def item(id: str) -> str:
        return ""

    @cw.queue("outside")  # above the path it is as good
    @app.post("/items/{id}")
    async def change(id: str) -> str:
        return ""

    @leaf.get("/{x}")
    @cw.queue("background")
    async def in_leaf(x: str) -> str:
        return ""

    @router.websocket("/ws")
    @cw.queue("sockets")
    async def ws(websocket: fastapi.WebSocket) -> None: ...

    @sub.get("/a")
    @cw.queue("background")
    async def in_sub() -> str:
        return ""

    router.include_router(leaf, prefix="/within")
    app.include_router(router, prefix="/api")
    app.mount("/sub", sub)
    return app


def test_fastapi() -> None:
    queue = queue_of(fastapi_app())
    assert queue("/items/special") is queue("/docs") is None
    assert queue("/items/7") == queue("/api/router/within/leaf/7") == queue("/sub/a") == "background"
    assert queue("/items/7", "POST") == "outside"
    assert queue("/api/router/ws", "WEBSOCKET") == "sockets"
    assert queue("/nothing") == "no route"


def litestar_app() -> litestar.Litestar:
    @litestar.get("/items/{id:str}")
    @cw.queue("background")
    async def item() -> str:
        return ""

    @litestar.get("/items/special")
    async def special() -> str:
        return ""

    @litestar.post("/items/special")
    @cw.queue("posts")
    async def post_special() -> str:
        return ""

    @litestar.get("/f/{p:path}")
    @cw.queue("files")
    async def files() -> str:
        return ""

    @litestar.websocket("/ws")
    @cw.queue("sockets")
    async def ws(socket: litestar.WebSocket) -> None: ...  # type: ignore[type-arg]

    @litestar.asgi("/mounted", is_mount=True, copy_scope=True)
    @cw.queue("mounted")
    async def mounted(scope: dict[str, Any], receive: object, send: object) -> None: ...

    class Controller(litestar.Controller):
        path = "/c"

        @litestar.get("/{n:int}/x")
        @cw.queue("background")
        async def in_controller(self) -> str:
            return ""

    # Whatever order they are given in.
    return litestar.Litestar([item, special, post_special, files, ws, mounted, Controller])


def test_litestar() -> None:
    queue = queue_of(litestar_app())
    assert queue("/items/special") is queue("/schema") is None
    assert queue("/items/special", "POST") == "posts"
    assert queue("/items/7") == queue("/items/7/") == queue("/c/7/x") == "background"
    assert queue("/f/a/b") == "files"
    assert queue("/ws", "WEBSOCKET") == "sockets"
    assert queue("/mounted") == queue("/mounted/a/b") == "mounted"


def test_applications_without_a_table() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    assert routes_of(app) == []
    assert routes_of(GZipMiddleware(app)) == []
    assert routes_of(cw.queue("all", limit=3)(app)) == [cw.Route("/*", "all", limit=3)]

    class Loop:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

        @property
        def app(self) -> Callable[..., Awaitable[None]]:
            return self

    assert routes_of(Loop()) == []


def test_a_mark_on_the_whole_application_is_for_what_says_nothing() -> None:
    queue = queue_of(cw.queue("all")(Starlette(routes=[Route("/a", marked), Route("/b", plain)])))
    assert (queue("/a"), queue("/b"), queue("/404")) == ("background", "all", "all")
