"""What a real server shows of real requests: its page of metrics, its JSON, `clockworker-top`, the access log."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from websockets.sync.client import connect

from tests.shards.servers import DEADLINE, Serve, Server, eventually

APP = """
import asyncio, os

gates = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    if path == "/gate":
        gate = gates.setdefault("gate", asyncio.Event())
        await gate.wait()
    elif path == "/open":
        gates.setdefault("gate", asyncio.Event()).set()
    elif path == "/gone/away":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    elif path == "/raise":
        raise ValueError("as asked")
    status = int(path.rpartition("/")[2]) if path.startswith("/status/") else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-pid", b"%d" % os.getpid())]})
    await send({"type": "http.response.body", "body": b"done"})
"""
ROUTES = """
[[queue]]
name = "light"

[[queue]]
name = "heavy"

[[route]]
path = "/status/{number}"
queue = "light"
group = "header:x-tenant"

[[route]]
path = "/gate"
queue = "heavy"
limit = 1
waiting = 1
"""
REQUESTS = "clockworker_http_requests_total"


def ask(server: Server, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def get(server: Server, page: str) -> str:
    match = server.wait_log(r"metrics on http://([\d.]+):(\d+)/metrics")[0]
    connection = http.client.HTTPConnection(match[1], int(match[2]), timeout=DEADLINE)
    try:
        connection.request("GET", page)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def samples(server: Server) -> dict[tuple[str, ...], float]:
    """Of HTTP, by name, queue, route and status; over all shards."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in parse(get(server, "/metrics")):
        for sample in family.samples:
            labels = sample.labels
            if "le" not in labels:
                key = sample.name, *(labels[label] for label in ("queue", "route", "status") if label in labels)
                found[key] += sample.value  # type: ignore[assignment]
    return found  # type: ignore[return-value]


def wait_count(server: Server, count: float, *key: str) -> None:
    eventually(lambda: samples(server).get(key) == count, f"{count} of {key}", shown=lambda: f": {samples(server)}")


@pytest.fixture
def server(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "serve.toml").write_text(ROUTES)
    server = serve(
        APP,
        *("--config", "serve.toml", "--shards", "1", "--spares", "0", "--metrics", "127.0.0.1:0", "--access-log"),
        app="app:app",
    )
    server.wait_serving()
    return server


def test_what_is_asked_is_counted_and_never_goes_back(server: Server) -> None:
    asked = {"/status/204": 3, "/status/301": 2, "/status/404": 4, "/status/503": 1, "/other": 5, "/raise": 2}
    for path, times in asked.items():
        for _ in range(times):
            ask(server, path)
    wait_count(server, 2, REQUESTS, "light", "other", "5")
    found = samples(server)
    status = [found[REQUESTS, "light", "/status/{number}", str(digit)] for digit in range(6)]
    assert status == [0, 0, 3, 2, 4, 1]
    assert found[REQUESTS, "light", "other", "2"] == 5
    assert found["clockworker_http_request_seconds_count", "light", "/status/{number}"] == 10
    assert 0 < found["clockworker_http_request_seconds_sum", "light", "/status/{number}"] < 10
    # One runs, one waits, and one is refused.
    waiting = [threading.Thread(target=ask, args=(server, "/gate")) for _ in range(2)]
    waiting[0].start()
    eventually(lambda: json.loads(get(server, "/stats"))["total"]["requests"]["running"] == 1, "one that runs")
    waiting[1].start()
    wait_count(server, 1, "clockworker_http_requests_waiting", "/gate")
    assert ask(server, "/gate") == 503
    wait_count(server, 1, "clockworker_http_refused_total", "/gate")
    assert ask(server, "/open") == 200
    for thread in waiting:
        thread.join()
    wait_count(server, 2, REQUESTS, "heavy", "/gate", "2")
    found = samples(server)
    assert found["clockworker_http_requests_waiting", "/gate"] == 0
    assert found[REQUESTS, "heavy", "/gate", "5"] == 1
    # WebSockets.
    host, port = server.address
    with connect(f"ws://{host}:{port}/socket"):
        wait_count(server, 1, "clockworker_websockets_open", "light")
    wait_count(server, 0, "clockworker_websockets_open", "light")
    wait_count(server, 1, REQUESTS, "light", "other", "1")
    assert samples(server)["clockworker_http_request_seconds_count", "light", "other"] == 5 + 1 + 2
    # What is no request.
    connection = server.connect()
    connection.sendall(b"nonsense\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 400")
    connection.close()
    wait_count(server, 1, REQUESTS, "light", "other", "4")
    # A client that has left.
    connection = server.connect()
    connection.sendall(b"GET /gone/away?now HTTP/1.1\r\nHost: a\r\n\r\n")
    eventually(lambda: json.loads(get(server, "/stats"))["total"]["requests"]["running"] == 1, "one that runs")
    connection.close()
    wait_count(server, 1, REQUESTS, "light", "other", "0")
    check_log(server, {**asked, "/gate": 3, "/open": 1})
    # A shard that is killed, and one that is replaced.
    before = samples(server)
    for number, happens in enumerate(("SIGKILL", "SIGHUP"), 1):
        if happens == "SIGKILL":
            os.kill(server.shard_pids()[0], signal.SIGKILL)
        else:
            server.send(signal.SIGHUP)

        def again(happens: int = 1 + number) -> bool:
            after = samples(server)
            for key, value in before.items():
                if key[0].endswith(("_total", "_count", "_sum")) and "http" in key[0]:
                    assert after[key] >= value, (key, happens)
            return len(re.findall(r"shard 0 ready", server.log)) == happens

        eventually(again, f"a new shard after {happens}")
        assert ask(server, "/status/204") == 204
        wait_count(server, 3 + number, REQUESTS, "light", "/status/{number}", "2")
    stats = json.loads(get(server, "/stats"))
    assert stats["total"]["since_start"]["http"]["by_queue"]["light"]["/status/{number}"]["status_2"] == 5
    assert {(route["queue"], route["route"]) for route in stats["routes"]} == {
        ("light", "/status/{number}"),
        ("heavy", "/gate"),
        ("light", "other"),
    }
    check_top(server)


def check_log(server: Server, asked: dict[str, int]) -> None:
    server.wait_log('"GET /gone/away')
    lines = re.findall(
        r'\[shard 0 (\w+)\] 127\.0\.0\.1:\d+ "GET (\S+) HTTP/1\.1" (\d+) (\d+) \d+\.\d (\w+) (\S+)\n', server.log
    )
    assert Counter(path for _, path, *_ in lines) == {**asked, "/socket": 1, "/gone/away?now": 1}
    for within, path, status, size, queue, group in lines:
        assert within == queue == ("heavy" if path == "/gate" else "light")
        assert group == ('""' if path.startswith("/status") else "-")
        if path == "/socket":
            assert status == "101"
        elif path.startswith("/status"):
            assert status == path.removeprefix("/status/")
        elif path == "/raise":
            assert status == "500"
        elif path == "/gone/away?now":
            assert (status, size) == ("0", "0")
        elif status == "200":
            assert size == "4"


def check_top(server: Server) -> None:
    """While something is asked: its figures are of the last seconds."""
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.003):
            ask(server, "/status/200")
            ask(server, "/status/404")

    thread = threading.Thread(target=load)
    thread.start()
    try:

        def look() -> str | None:
            command = [sys.executable, "-m", "clockworker.shards.tools._top", "--once"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
            return done.stdout if re.search(r"4xx [1-9]", done.stdout) else None

        shown = eventually(look, "requests in clockworker-top")
    finally:
        stop.set()
        thread.join()
    [line] = [line for line in shown.splitlines() if line.startswith(" requests/s: ")]
    # What else has happened in the last seconds may be there, too.
    assert re.match(r" requests/s: \S+  (1xx \S+  )?2xx \S+  (3xx \S+  )?4xx \S+  5xx \S+  p99 \S+", line), line
    lines = [line.split() for line in shown.splitlines()]
    at = lines.index(["ROUTE", "QUEUE", "REQ/S", "4XX/S", "5XX/S", "RUN", "WAIT", "TIME50", "TIME99"])
    busiest = lines[at + 1]
    assert busiest[:2] == ["/status/{number}", "light"]
    assert float(busiest[2]) > float(busiest[3]) > 0
    assert len(lines) > at + 3, "the others are there, too"
