"""Requests that run on another shard than that which has their connection."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clockworker.shards.config._routes import beyond, routes_of_file
from tests.shards.servers import DEADLINE, Serve, Server, eventually

APPLICATION = """
import asyncio, contextlib, hashlib, json, os, time
import clockworker as cw

heard = []
over = []

async def app(scope, receive, send):
    shard = cw.current_shard()
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["opened"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        over.append(True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if over:
        print("TOO LATE", flush=True)
    path = scope["path"]
    digest, size, more = hashlib.sha256(), 0, True
    while more and path != "/placed/deaf":
        event = await receive()
        digest.update(event["body"])
        size += len(event["body"])
        more = event["more_body"]
    headers = [(b"x-shard", b"%d" % shard.id)]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    if path == "/placed/fails":
        raise LookupError("as it should")
    if path == "/placed/half":
        await send(start)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise LookupError("as it should")
    if path == "/placed/silent":
        print("it listens", flush=True)
        await receive()
        heard.append(path)
        return
    if path == "/placed/block":
        print("it blocks", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    if path == "/placed/slow":
        print("it waits", flush=True)
        await asyncio.sleep(3600)
    if path == "/placed/large":
        await send(start)
        for number in range(64):
            await send({"type": "http.response.body", "body": bytes([number]) * 300_000, "more_body": True})
        return await send({"type": "http.response.body", "body": b""})
    said = {
        "shard": shard.id, "queue": str(shard.executor.current_queue().key), "size": size, "digest": digest.hexdigest(),
        "opened": scope["state"]["opened"], "heard": heard, "client": scope["client"], "method": scope["method"],
        "query": scope["query_string"].decode(), "headers": [[a.decode(), b.decode("latin-1")] for a, b in scope["headers"]],
    }
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
"""

FILE = """
app = "app:app"
shards = 2
max_message = "2MiB"

[[queue]]
name = "foreground"
share = 8

[[queue]]
name = "background"

[[route]]
path = "/placed/*"
queue = "background"
place = "shard:1"
"""


def started(serve: Serve, *options: str) -> Server:
    (serve._directory / "clockworker.toml").write_text(FILE)
    server = serve(APPLICATION, "--spares", "0", "--no-pin", *options, app=None)
    server.wait_serving()
    return server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("placed"))
    try:
        server = started(serve, "--access-log")
        yield server
        assert server.stop() == 0
        errors = re.findall(r" ERROR (.*)$", server.log, re.MULTILINE)
        assert all("Exception in ASGI application" in error for error in errors), server.log
        assert "TOO LATE" not in server.log
    finally:
        serve.clean_up()


def at_shard(server: Server, shard: int) -> http.client.HTTPConnection:
    """A connection that this shard has."""
    for _ in range(200):
        connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
        connection.request("GET", "/where")
        if json.loads(connection.getresponse().read())["shard"] == shard:
            return connection
        connection.close()
    pytest.fail(f"no connection at shard {shard}")


def asked(
    connection: http.client.HTTPConnection, path: str, *arguments: object, **options: object
) -> dict[str, object]:
    connection.request("GET" if not arguments else "POST", path, *arguments, **options)  # type: ignore[arg-type]
    said: dict[str, object] = json.loads(connection.getresponse().read())
    return said


@pytest.mark.parametrize("shard", [0, 1])
def test_it_runs_there_whoever_has_the_connection(server: Server, shard: int) -> None:
    connection = at_shard(server, shard)
    for _ in range(2):
        said = asked(connection, "/placed/a?b=1", headers={"X-Two": "é".encode("latin-1")})
        assert (said["shard"], said["queue"], said["opened"]) == (1, "background", True)
        assert (said["client"], said["method"], said["query"]) == ([*connection.sock.getsockname()], "GET", "b=1")
        assert ["host", f"127.0.0.1:{server.address[1]}"] in said["headers"]  # type: ignore[operator]
        said = asked(connection, "/other")
        assert (said["shard"], said["queue"]) == (shard, "foreground")
    connection.close()
    server.wait_log(rf"\[shard {shard} background\] 127\.0\.0\.1:\d+ \"GET /placed/a\?b=1 HTTP/1\.1\" 200 ")


def test_bodies_in_both_directions(server: Server) -> None:
    connection = at_shard(server, 0)
    for size in (0, 1, 100_000, 1_900_000):
        data = random.Random(size).randbytes(size)
        said = asked(connection, "/placed/body", data)
        assert (said["size"], said["digest"]) == (size, hashlib.sha256(data).hexdigest())
    connection.request("GET", "/placed/large")
    response = connection.getresponse()
    assert response.getheader("x-shard") == "1"
    assert response.read() == b"".join(bytes([number]) * 300_000 for number in range(64))
    connection.request("POST", "/placed/body", b"x" * 2_200_000)
    assert connection.getresponse().status == 413
    connection.close()


def test_what_fails_there(server: Server) -> None:
    connection = at_shard(server, 0)
    connection.request("GET", "/placed/fails")
    response = connection.getresponse()
    assert (response.status, response.read()) == (500, b"")
    connection.request("GET", "/placed/half")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        connection.getresponse().read()
    connection.close()
    server.wait_log(r"\[shard 1 background\] Exception in ASGI application", 2)


def test_a_client_that_leaves_is_heard_of_there(server: Server) -> None:
    connection = at_shard(server, 0)
    connection.request("GET", "/placed/silent")
    server.wait_log("it listens")
    connection.close()

    def is_heard() -> bool:
        other = at_shard(server, 0)
        try:
            return "/placed/silent" in asked(other, "/placed/heard")["heard"]  # type: ignore[operator]
        finally:
            other.close()

    eventually(is_heard, "its application has heard")


def test_a_client_that_leaves_in_the_middle_of_a_large_answer(server: Server) -> None:
    for _ in range(3):
        connection = at_shard(server, 0)
        connection.request("GET", "/placed/large")
        assert connection.getresponse().read(1_000)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    connection = at_shard(server, 0)
    assert asked(connection, "/placed/after")["shard"] == 1
    connection.close()


def test_a_shard_that_never_awaits_holds_up_itself_only(server: Server) -> None:
    blocked = at_shard(server, 0)
    other = at_shard(server, 0)
    blocked.request("GET", "/placed/block")
    server.wait_log("it blocks")
    for _ in range(5):
        assert asked(other, "/light")["shard"] == 0
    Path(f"/proc/{server.pid}/cwd/go").touch()
    assert json.loads(blocked.getresponse().read())["shard"] == 1
    blocked.close()
    other.close()


def test_no_request_fails_at_hup_nor_at_term_and_none_comes_behind_the_lifespan(serve: Serve) -> None:
    server = started(serve)
    failures: list[object] = []
    over = threading.Event()
    answered = 0

    def load() -> None:
        nonlocal answered
        while not over.wait(0.003):
            connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
            try:
                connection.connect()
            except OSError:
                continue  # it has stopped
            try:
                connection.request("GET", "/placed/a", headers={"Connection": "close"})
                response = connection.getresponse()
                if (response.status, json.loads(response.read())["shard"]) != (200, 1):
                    failures.append(response.status)
                answered += 1
            except Exception as error:
                failures.append(error)
            finally:
                connection.close()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: answered > 50, "answers")
        server.send(signal.SIGHUP)
        server.wait_log(r"shard \d stopped", 2)
        before = answered
        eventually(lambda: answered > before + 50, "answers of the new ones")
        assert server.stop() == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == [], server.log
    assert "TOO LATE" not in server.log


def test_while_the_other_shard_is_not_there(serve: Serve) -> None:
    server = started(serve)
    connection = at_shard(server, 0)
    connection.request("GET", "/placed/slow")
    server.wait_log("it waits")
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    assert connection.getresponse().status == 502
    connection.close()
    statuses: list[int] = []

    def is_there() -> bool:
        connection.request("GET", "/placed/a")
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        return response.status == 200

    connection = at_shard(server, 0)
    eventually(is_there, "it is there again")
    connection.close()
    assert {*statuses} <= {200, 502, 503}
    assert server.stop() == 0
    assert "a request that is to run on shard 1 cannot" in server.log


def test_a_place_that_is_none(serve: Serve) -> None:
    (route,) = routes_of_file([{"path": "/a", "place": "shard:2"}])
    assert beyond([route], 3) is None
    assert beyond([route], 2) == "route /a: place is 'shard:2', and the last of 2 is shard:1"
    (serve._directory / "clockworker.toml").write_text(FILE.replace("shard:1", "shard:2"))
    server = serve(APPLICATION, app=None)
    assert server.wait_exit() == 2
    assert "place is 'shard:2', and the last of 2 is shard:1" in server.log
    (serve._directory / "clockworker.toml").write_text(FILE.replace("shard:1", "one"))
    server = serve(APPLICATION, app=None)
    assert server.wait_exit() == 2
    assert """place is 'one'; give a shard, for example "shard:1\"""" in server.log
