"""`clockworker-serve` with applications of frameworks: which queue a request runs in, and how a start ends that cannot be."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
import websockets.sync.client

from tests.shards.servers import DEADLINE, Serve, Server, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

HERE = """
import clockworker as cw

def here():
    shard = cw.current_shard()
    return {"queue": str(shard.executor.current_queue().key), "shard": shard.id}
"""

FASTAPI = (
    HERE
    + """
import asyncio
from fastapi import FastAPI, Request, WebSocket

app = FastAPI()
release = asyncio.Event()
holding = 0

@app.get("/")
async def root(request: Request):
    assert request.state.shard is cw.current_shard()
    return here()

@app.get("/items/special")
async def special():
    return here()

@app.get("/items/{id}")
@cw.queue("background", group="path:id")
async def item(id: str):
    return here()

@app.get("/kinds/{id}")
@cw.queue("background", group="route")
async def kind(id: str):
    return here()

@app.post("/items/{id}")
async def change(id: str):
    return here()

@app.get("/reports/daily")
async def report():
    return here()

@app.get("/hold")
@cw.queue("background", limit=1, waiting=0)
async def hold():
    global holding
    holding += 1
    await release.wait()
    holding -= 1
    return here()

@app.get("/holding")
async def is_holding():
    return {"holding": holding}

@app.websocket("/ws/{room}")
@cw.queue("background", group="path:room")
async def ws(websocket: WebSocket, room: str):
    await websocket.accept()
    await websocket.receive_text()
    await websocket.send_json(here())
    await websocket.close()

@app.get("/release")
async def let_go():
    release.set()
    return here()
"""
)

# One program with an application of each framework, each on an address of its own.
EACH = (
    FASTAPI
    + """
import django.conf, django.core.asgi, django.core.wsgi, django.http, django.urls
import flask, litestar, quart
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

async def in_starlette(request):
    return JSONResponse(here())

starlette = Starlette(routes=[Mount("/in", routes=[Route("/items/{id}", cw.queue("background")(in_starlette))])])

@litestar.get("/items/{id:str}")
@cw.queue("background")
async def in_litestar() -> dict[str, str | int]:
    return here()

in_quart = quart.Quart(__name__)
in_flask = flask.Flask(__name__)

@in_quart.get("/items/<id>")
async def of_quart(id):
    return here()

def threaded():
    return {"shard": cw.current_shard().id}

@in_flask.get("/items/<id>")
def of_flask(id):
    return threaded()

async def of_django(request, id):
    return django.http.JsonResponse(here())

def of_django_in_a_thread(request, id):
    return django.http.JsonResponse(threaded())

urlpatterns = [
    django.urls.path("items/<id>", of_django),
    django.urls.path("threads/<id>", of_django_in_a_thread),
]
django.conf.settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)

async def main(shard):
    state = {"who": "main"}
    async with asyncio.TaskGroup() as group:
        for name, served in {
            "fastapi": app,
            "starlette": starlette,
            "litestar": litestar.Litestar([in_litestar]),
            "quart": in_quart,
            "django": django.core.asgi.get_asgi_application(),
        }.items():
            routes = [cw.Route("/items/{id}", queue="of_code")] if name in ("quart", "django") else ()
            group.create_task(shard.serve_asgi(served, state=state, routes=routes, bind=name))
        for name, served in {"flask": in_flask, "django-wsgi": django.core.wsgi.get_wsgi_application()}.items():
            group.create_task(shard.serve_wsgi(served, bind=name))
"""
)

QUEUES = ("--queue", "foreground:8", "--queue", "background:1", "--queue", "of_code:1", "--queue", "of_options:1")
ONE = ("--shards", "1", "--no-pin", "--spares", "0")


def port_of(server: Server, name: str = "") -> int:
    return int(server.wait_log(rf"listening on {name + '=' if name else ''}127\.0\.0\.1:(\d+)")[0][1])


def get(
    server: Server, path: str, *, name: str = "", method: str = "GET", **headers: str
) -> tuple[int, Any, str | None]:
    """Status, what the JSON says, and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server, name), timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        kind = response.getheader("content-type", "")
        return response.status, json.loads(body) if "json" in kind else body, response.getheader("retry-after")
    finally:
        connection.close()


def queue_of(server: Server, path: str, **more: str) -> str:
    status, said, _ = get(server, path, **more)
    assert status in (200, 201), (status, said, server.log)
    return str(said["queue"])


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("each"))
    names = ("fastapi", "starlette", "litestar", "quart", "django", "flask", "django-wsgi")
    binds = tuple(word for name in names for word in ("--bind", f"{name}=127.0.0.1:0"))
    server = serve(EACH, *ONE, *QUEUES, "--route", "/reports/*=of_options:header:X-Tenant", "--access-log", bind=binds)
    server.wait_serving()
    yield server
    serve.clean_up()


def test_marks_choose_the_queue(each: Server) -> None:
    for name, path in {"fastapi": "/items/7", "starlette": "/in/items/7", "litestar": "/items/7"}.items():
        assert queue_of(each, path, name=name) == "background", name
    assert queue_of(each, "/", name="fastapi") == "foreground"
    assert queue_of(each, "/items/special", name="fastapi") == "foreground"
    assert queue_of(each, "/items/7", name="fastapi", method="POST") == "foreground"
    assert get(each, "/nothing", name="fastapi")[0] == 404


def test_a_handshakes_route_is_for_all_that_a_websocket_does(each: Server) -> None:
    try:
        with websockets.sync.client.connect(
            f"ws://127.0.0.1:{port_of(each, 'fastapi')}/ws/one", open_timeout=DEADLINE
        ) as client:
            client.send("where are you?")
            assert json.loads(client.recv(DEADLINE))["queue"] == "background"
    except websockets.exceptions.ConnectionClosed as error:
        pytest.fail(f"{error!r}, from {error.__cause__!r}; {each.log}")


def test_requests_are_grouped_as_their_routes_say(each: Server) -> None:
    get(each, "/items/acme", name="fastapi")
    each.wait_log(r'"GET /items/acme HTTP/1\.1" 200 .*\bbackground acme\n')
    get(each, "/kinds/acme", name="fastapi")
    each.wait_log(r'"GET /kinds/acme HTTP/1\.1" 200 .*\bbackground /kinds/\{id\}\n')
    connection = http.client.HTTPConnection("127.0.0.1", port_of(each, "fastapi"), timeout=DEADLINE)
    connection.request("GET", "/reports/daily", headers={"x-tenant": "globex"})
    assert connection.getresponse().status == 200
    connection.close()
    each.wait_log(r'"GET /reports/daily HTTP/1\.1" 200 .*\bof_options globex\n')


def test_so_do_routes_of_the_code_and_of_options(each: Server) -> None:
    assert queue_of(each, "/items/7", name="quart") == "of_code"
    assert queue_of(each, "/items/7", name="django") == "of_code"
    assert queue_of(each, "/reports/daily", name="fastapi") == "of_options"


def test_wsgi_runs_in_threads_that_know_their_shard(each: Server) -> None:
    assert get(each, "/items/7", name="flask")[:2] == (200, {"shard": 0})
    assert get(each, "/threads/7", name="django-wsgi")[:2] == (200, {"shard": 0})
    assert get(each, "/threads/7", name="django")[:2] == (200, {"shard": 0})


def test_a_mark_limits(each: Server) -> None:
    held = http.client.HTTPConnection("127.0.0.1", port_of(each, "fastapi"), timeout=DEADLINE)
    held.request("GET", "/hold")
    eventually(lambda: get(each, "/holding", name="fastapi")[1]["holding"], "the request runs")
    status, _, retry_after = get(each, "/hold", name="fastapi")
    assert status == 503
    assert retry_after is not None
    get(each, "/release", name="fastapi")
    assert held.getresponse().status == 200
    held.close()


STARLETTE = (
    HERE
    + """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def plain(request):
    return JSONResponse(here() | {"version": 1})

@cw.queue("background")
async def marked(request):
    return JSONResponse(here())

app = Starlette(
    routes=[
        Route("/items/special", marked),
        Route("/items/{id}", marked),
        Route("/items/{id}", plain, methods=["POST"]),
        Route("/{any:path}", plain),
    ]
)
"""
)

FILE = """
app = "app:app"
shards = 1
no_pin = true
port = 0
spares = 0

[[queue]]
name = "foreground"

[[queue]]
name = "background"

[[route]]
path = "/items/{id}"
methods = ["POST"]
queue = "background"

[[route]]
path = "/reports/*"
host = "reports.example"
queue = "background"

[[route]]
path = "/items/special"
"""


def test_the_file_is_enough_and_a_new_version_is_checked(serve: Serve, tmp_path: Path) -> None:
    """And a version whose marks name a queue that there is not is no successor."""
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(STARLETTE, app=None, bind=())
    server.wait_serving()
    assert queue_of(server, "/items/7", method="POST") == "background"
    assert queue_of(server, "/items/7") == "background"  # its mark's
    assert queue_of(server, "/items/special") == "foreground"
    assert queue_of(server, "/reports/daily") == "foreground"
    assert queue_of(server, "/reports/daily", Host="reports.example:80") == "background"
    (tmp_path / "app.py").write_text(STARLETTE.replace('cw.queue("background")', 'cw.queue("bakground")'))
    server.send(1)
    server.wait_log(r"the application's route /items/special: queue is 'bakground'.* did you mean 'background'\?")
    assert get(server, "/")[1]["version"] == 1
    (tmp_path / "app.py").write_text(STARLETTE.replace('"version": 1', '"version": 1 + 1'))
    server.send(1)
    eventually(lambda: get(server, "/")[1]["version"] == 2, "the new version serves")
    assert server.stop() == 0


FLASK = """
import flask
import clockworker as cw

app = flask.Flask(__name__)

@app.get("/<path:path>")
def any(path):
    return {"shard": cw.current_shard().id, "version": 1}
"""


def test_a_wsgi_application_is_reloaded(serve: Serve, tmp_path: Path) -> None:
    server = serve(FLASK, *ONE, "--reload", "--route", "/x=default:client", app="app:app")
    server.wait_log("watching .* for changes")
    server.wait_serving()
    assert get(server, "/x")[1] == {"shard": 0, "version": 1}
    (tmp_path / "app.py").write_text(FLASK.replace('"version": 1', '"version": 1 + 1'))
    eventually(lambda: get(server, "/x")[1]["version"] == 2, "the changed source serves")
    assert server.stop() == 0


RAW = """
import clockworker as cw

@cw.queue("background")
async def app(scope, receive, send): ...

async def main(shard):
    await shard.serve_asgi(app)
"""


def check(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    (tmp_path / "app.py").write_text(RAW)
    result = subprocess.run(
        [sys.executable, "-m", "clockworker.shards._cli", "--shards", "1", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=os.environ | environment,
        check=False,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout + result.stderr


def test_check_config_knows_routes_and_marks(tmp_path: Path) -> None:
    background = ("app:app", "--check-config", "--queue", "background:1")
    status, said = check(tmp_path, *background, "--route", "/x=background")
    assert (status, said.splitlines()[-1].startswith("configuration is right: app:app on 1 shard")) == (0, True), said
    status, said = check(tmp_path, *background, "--route", "/x=nightly")
    assert status == 2
    assert (
        "--route /x: queue is 'nightly', which shard 0 does not have, only 'background'; give one of them, or add"
        in said
    )
    status, said = check(tmp_path, *background, CLOCKWORKER_ROUTE="/x=nightly")
    assert status == 2
    assert "(--route is given by CLOCKWORKER_ROUTE)" in said
    status, said = check(tmp_path, "app:app", "--check-config")
    assert status == 3
    assert "the application's route /*: queue is 'background', which shard 0 does not have, only 'default'" in said


def test_without_the_libraries_a_start_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['httptools'] = None\n")
    for app in ("app", "main"):
        status, said = check(
            tmp_path,
            f"app:{app}",
            *("--log-level", "error", "--spares", "0", "--queue", "background:1"),
            PYTHONPATH=str(tmp_path),
        )
        assert status == 3
        assert len(said.splitlines()) == 1, said
        assert re.search(r"needs httptools, not installed: pip install 'clockworker\[http\]'", said), said
