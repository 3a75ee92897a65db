"""Requests that compute without an await, in a preemptive queue of a real server: others are answered meanwhile.

No time is measured. A request that hogs goes on until others have been answered, so that without cuts no test here ends.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clockworker.executor import compiled
from tests.shards.servers import DEADLINE, Serve, Server, at_best, eventually

pytest.importorskip("greenlet")
pytestmark = pytest.mark.skipif(not compiled, reason="preemption is for compiled modules")

QUEUES = ("--queue", "foreground:8", "--queue", "reports:1:preemptive", "--shards", "1", "--spares", "0")

HOGS = """
import time

lights = 0

def spin():
    # For 0.2 s, and until 5 requests were answered in between.
    end, wanted = time.monotonic() + 0.2, lights + 5
    while time.monotonic() < end or lights < wanted:
        pass

async def app(scope, receive, send):
    global lights
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"].startswith("/reports/"):
        spin()
    else:
        lights += 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


def get(server: Server, path: str, status: int = 200, method: str = "GET", body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        data = response.read()
        assert response.status == status, data
        return data
    finally:
        connection.close()


def top(how: str = "--once") -> str:
    command = [sys.executable, "-m", "clockworker.shards.tools._top", how]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout


def test_light_requests_are_answered_beside_eight_that_compute(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    server = serve(HOGS, *QUEUES, "--route", "/reports/{name}=reports", "--slow-poll", "0.01", app="app:app")
    server.wait_serving()

    def stalls() -> int:
        found: int = json.loads(top("--json"))["shards"][0]["stalls"]
        return found

    def stalls_meanwhile(count: int = 8) -> int:
        before = stalls()
        with ThreadPoolExecutor(count) as pool:
            hogs = [pool.submit(get, server, f"/reports/{number}") for number in range(count)]
            while not all(hog.done() for hog in hogs):
                assert get(server, "/light") == b"done"
            assert [hog.result() for hog in hogs] == [b"done"] * count
        return stalls() - before

    assert at_best(stalls_meanwhile, 0) == 0
    said = r"\[shard 0 reports\] a step of task '/reports/\{name\}' in queue 'reports' took \d\.\d+ s in \d+ slices"
    server.wait_log(said)

    def hog() -> re.Match[str] | None:
        """Of the last seconds, in which there was none if the machine is busy."""
        stalls_meanwhile(1)
        return re.search(r"^ reports +(\S+) .*/reports/\{name\} \d+\.\d%$", top(), re.MULTILINE)

    found = eventually(hog, "the hog in clockworker-top", shown=lambda: f":\n{top()}")
    assert found[1] not in ("0", "0.0")
    stats = json.loads(top("--json"))
    light, reports = (stats["total"]["since_start"]["queues"][name] for name in ("foreground", "reports"))
    assert (light["preemptive"], light["cuts"], light["whole_step"]["buckets"]) == (0, 0, [])
    assert reports["preemptive"] == 1
    assert reports["cuts"] >= 8
    assert sum(reports["whole_step"]["buckets"]) == reports["polls"] >= 8
    assert list(reports["hogs"]["service_ns"]) == ["/reports/{name}"]
    assert server.stop() == 0


FASTAPI = """
import asyncio, threading, time
import anyio
import clockworker as cw
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
lights = 0
behind = []

def here():
    queue = cw.current_executor().current_queue() if threading.current_thread() is threading.main_thread() else None
    return "thread" if queue is None else queue.key

def spin():
    wanted = lights + 5
    while lights < wanted:
        pass

def depends():
    spin()
    return here()

def generates():
    yield here()

@app.get("/light")
async def light():
    global lights
    lights += 1
    return here()

@app.get("/reports/{name}")
def report(name: str, tasks: BackgroundTasks, one: str = Depends(depends), other: str = Depends(generates)):
    spin()
    tasks.add_task(lambda: behind.append(here()))
    return [here(), one, other]

@app.get("/streams/{name}")
def stream(name: str):
    return StreamingResponse(f"{here()} " for _ in range(3))

@app.get("/errors/{name}")
def error(name: str):
    raise StopIteration(name)

@app.get("/threads/{name}")
@cw.queue("reports")
def in_thread(name: str):
    return here()

@app.get("/marks/{name}")
@cw.queue("reports", threads=False)
def marked(name: str):
    return here()

@app.get("/after/{name}")
@cw.queue("reports", threads=False, after="foreground")
def after(name: str, tasks: BackgroundTasks):
    tasks.add_task(lambda: behind.append(here()))
    return here()

@app.get("/kept/{name}")
@cw.queue("reports", threads=False)
async def kept(name: str):
    run = anyio.to_thread.run_sync
    in_c = await run(threading.get_ident) == threading.get_ident()
    return [await run(here), await run(here, limiter=anyio.CapacityLimiter(1)), in_c, await asyncio.to_thread(here)]

@app.get("/behind")
async def what_was_behind():
    return behind
"""
FILE = """
[[route]]
path = "/reports/{name}"
queue = "reports"
threads = false

[[route]]
path = "/streams/{name}"
queue = "reports"
threads = false

[[route]]
path = "/errors/{name}"
queue = "reports"
threads = false
"""


def test_def_endpoints_run_in_their_queue_where_the_route_says_so(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(FASTAPI, *QUEUES, app="app:app")
    server.wait_serving()
    server.wait_log("anyio.to_thread.run_sync is replaced")
    with ThreadPoolExecutor(4) as pool:
        hogs = [pool.submit(get, server, f"/reports/{number}") for number in range(4)]
        while not all(hog.done() for hog in hogs):
            assert json.loads(get(server, "/light")) == "foreground"
        assert [json.loads(hog.result()) for hog in hogs] == [["reports"] * 3] * 4
    eventually(lambda: json.loads(get(server, "/behind")) == ["reports"] * 4, "background tasks")
    assert get(server, "/streams/1") == b"reports " * 3
    get(server, "/errors/1", 500)
    assert json.loads(get(server, "/threads/1")) == "thread"
    assert json.loads(get(server, "/marks/1")) == "reports"
    # A thread it is for functions of C, for who limits threads, and for who asks asyncio for one.
    assert json.loads(get(server, "/kept/1")) == ["reports", "thread", False, "thread"]
    # Once it is in a queue that is not preemptive, plain functions have threads again.
    assert json.loads(get(server, "/after/1")) == "reports"
    eventually(lambda: json.loads(get(server, "/behind")) == [*["reports"] * 4, "thread"], "background tasks")
    assert server.stop() == 0


def test_the_next_request_of_a_connection_inherits_nothing(serve: Serve, tmp_path: Path) -> None:
    """It may be begun in a step of the one before."""
    pytest.importorskip("fastapi")
    server = serve(FASTAPI, *QUEUES, app="app:app")
    server.wait_serving()
    for other in ("/threads/1", "/marks/1"):
        connection = server.connect()
        for path in ("/marks/1", other, "/threads/1"):
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        connection.sendall(b"GET /light HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := connection.recv(65536):
            data += piece
        connection.close()
        second = b"thread" if other == "/threads/1" else b"reports"
        assert re.findall(rb'"(\w+)"', data) == [b"reports", second, b"thread", b"foreground"]
    assert server.stop() == 0


WSGI = """
import threading
import clockworker as cw

lights = 0
closed = []

def here():
    queue = cw.current_executor().current_queue() if threading.current_thread() is threading.main_thread() else None
    return b"thread" if queue is None else queue.key.encode()

def spin():
    wanted = lights + 5
    while lights < wanted:
        pass

class Body:
    def __init__(self, pieces):
        self._pieces = pieces

    def __iter__(self):
        return self

    def __next__(self):
        spin()
        return next(self._pieces)

    def close(self):
        closed.append(here())

def app(environ, start_response):
    global lights
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise SystemExit("no")
    if path.endswith("/closed"):
        start_response("200 OK", [])
        return [b",".join(closed)]
    body = environ["wsgi.input"].read()
    if path.startswith("/reports/"):
        spin()
        start_response("200 OK", [("content-type", "text/plain")])
        return Body(iter([b"", here(), b" ", body]))
    lights += 1
    start_response("200 OK", [])
    return [here()]
"""


def test_a_wsgi_application_runs_in_the_queue_where_the_route_says_so(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(
        '[[route]]\npath = "/light"\n[[route]]\npath = "/*"\nqueue = "reports"\nthreads = false\n'
    )
    server = serve(WSGI, *QUEUES, app="app:app")
    server.wait_serving()
    large = b"x" * 3_000_000  # beyond what is kept in memory
    with ThreadPoolExecutor(3) as pool:
        bodies = [b"", b"small", large]
        hogs = [pool.submit(get, server, f"/reports/{len(body)}", 200, "POST", body) for body in bodies]
        while not all(hog.done() for hog in hogs):
            assert get(server, "/light") == b"thread"
        assert [hog.result() for hog in hogs] == [b"reports " + body for body in bodies]
    assert get(server, "/reports/closed") == b"reports,reports,reports"
    get(server, "/raise", 500)
    assert "RuntimeError: the application raised SystemExit" in server.log
    assert server.stop() == 0


def test_a_stream_whose_client_has_left_ends(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(
        '[[route]]\npath = "/endless"\nqueue = "reports"\nthreads = false\n[[route]]\npath = "/*"\n'
    )
    source = """
closed = []

class Endless:
    def __iter__(self):
        return self

    def __next__(self):
        return b"more"

    def close(self):
        closed.append(1)

def app(environ, start_response):
    start_response("200 OK", [])
    return Endless() if environ["PATH_INFO"] == "/endless" else [b"%d" % len(closed)]
"""
    server = serve(source, *QUEUES, app="app:app")
    server.wait_serving()
    connection = server.connect()
    connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()
    eventually(lambda: get(server, "/closed") == b"1", "its end")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("file", "status"), [('[[route]]\npath = "/x"\nqueue = "plain"\nthreads = false\n', 2), ("", 3)]
)
def test_a_queue_that_is_not_preemptive_is_found_before_anything_is_served(
    serve: Serve, tmp_path: Path, file: str, status: int
) -> None:
    (tmp_path / "clockworker.toml").write_text(file)
    application = """
import clockworker as cw

async def app(scope, receive, send): ...

main = cw.asgi(app, routes=[cw.Route("/x", queue="plain", threads=False)])
"""
    of_file = "async def main(scope, receive, send): ...\n"
    for more in ((), ("--check-config",)):
        server = serve(of_file if file else application, "--queue", "plain:1", "--shards", "1", *more)
        assert server.wait_exit() == status
        assert "threads is false, which is for preemptive queues, and 'plain' of shard 0 is not one" in server.log
        assert "add --queue plain:1:preemptive, or take it out" in server.log
        assert "Traceback" not in server.log


def test_one_that_is_served_in_main_is_said_in_a_line(serve: Serve) -> None:
    source = """
import clockworker as cw

async def app(scope, receive, send): ...

async def main(shard):
    await shard.serve_asgi(app, routes=[cw.Route("/x", threads=False)])
"""
    server = serve(source, "--queue", "plain:1", "--shards", "1")
    assert server.wait_exit() == 3
    assert "route /x: threads is false, which is for preemptive queues, and 'plain' of shard 0 is not one" in server.log
    assert "Traceback" not in server.log


def test_that_it_has_no_effect_is_said(serve: Serve) -> None:
    source = """
import clockworker as cw

async def app(scope, receive, send): ...

async def main(shard):
    await shard.serve_asgi(app, routes=[cw.Route("/x", queue="reports", threads=False)])
"""
    server = serve(source, *QUEUES, "--lifespan", "off")
    server.wait_log("threads = false of route /x has no effect: the application does not use anyio")
    server.wait_serving()
    assert server.stop() == 0
