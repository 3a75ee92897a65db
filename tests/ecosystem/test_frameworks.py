"""Applications of frameworks, served by us and by the server that their users have: the same status, headers and bytes.

ASGI's are compared with uvicorn, WSGI's with gunicorn's threads. What a server says of itself (Date, Server) is left out, and
how a connection goes on. Where the application gives no length, the two may frame a body in different ways: what counts is the
body.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.shards.servers import DEADLINE, Server

MODULES = "tests.ecosystem.frameworks"
ROOT = Path(__file__).parents[2]
OWN_HEADERS = {"date", "server", "connection", "transfer-encoding", "keep-alive"}
TEXT = "".join(f"line {number}\n" for number in range(20_000))


class Framework(NamedTuple):
    """needs: what must be installed. without: what it cannot be asked."""

    app: str
    needs: tuple[str, ...]
    without: frozenset[str] = frozenset()
    peer: str = "uvicorn"


SOCKETS = frozenset({"a WebSocket", "a WebSocket that is refused"})
NO_STATE = frozenset({"state of the lifespan", "a background task"})
FRAMEWORKS = {
    "starlette": Framework("with_starlette:app", ("starlette",)),
    "fastapi": Framework("with_fastapi:app", ("fastapi",)),
    "litestar": Framework("with_litestar:app", ("litestar",)),
    "quart": Framework("with_quart:app", ("quart",)),
    "django-asgi": Framework("with_django:asgi", ("django",), SOCKETS | NO_STATE),
    # Its WSGI side takes a body without a Content-Length for none.
    "django-wsgi": Framework("with_django:wsgi", ("django",), SOCKETS | NO_STATE | {"upload in chunks"}, "gunicorn"),
    "flask": Framework("with_flask:app", ("flask",), SOCKETS | NO_STATE, "gunicorn"),
}

# How each peer is started, and where it says at which port.
PEERS = {
    "uvicorn": (["--port", "0", "--no-access-log"], r"running on http://127\.0\.0\.1:(\d+)"),
    "gunicorn": (
        ["--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "4"],
        r"Listening at: http://127\.0\.0\.1:(\d+)",
    ),
}


class Peer(Server):
    """A running server of another kind."""

    pattern: str

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.wait_log(self.pattern)[0][1])


class Side:
    """One of the two servers, asked."""

    def __init__(self, server: Server, upload_size: int) -> None:
        self.server = server
        self.upload_size = upload_size
        self.connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)

    def close(self) -> None:
        self.connection.close()

    def ask(
        self, method: str, path: str, body: Any = None, given: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body."""
        self.connection.request(method, path, body, given or {}, **options)
        response = self.connection.getresponse()
        content, headers = response.read(), headers_of(response.getheaders())
        if method != "HEAD":  # it was checked by reading
            headers = [(name, value) for name, value in headers if name != "content-length"]
        return response.status, headers, content

    def ask_raw(self, data: bytes, *, then: Callable[[socket.socket], bytes] | None = None) -> bytes:
        """What comes back until the server closes."""
        with socket.create_connection(self.server.address, timeout=DEADLINE) as connection:
            connection.sendall(data)
            answer = b"" if then is None else then(connection)
            while received := connection.recv(65_536):
                answer += received
        return answer


def headers_of(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in OWN_HEADERS)


def body_of(size: int) -> Iterator[bytes]:
    piece = random.Random(size).randbytes(100_000)
    for _ in range(size // len(piece)):
        yield piece


def upload(side: Side, *, chunked: bool) -> object:
    headers = {} if chunked else {"Content-Length": str(side.upload_size)}
    answer = side.ask("POST", "/upload", body_of(side.upload_size), headers, encode_chunked=chunked)
    digest = hashlib.sha256()
    for piece in body_of(side.upload_size):
        digest.update(piece)
    assert digest.hexdigest().encode() in answer[2]
    return answer


def expect_continue(side: Side) -> object:
    def send_body(connection: socket.socket) -> bytes:
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1_000)
        connection.sendall(b"body")
        return answer

    head = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
    answer = side.ask_raw(head, then=send_body)
    first, second, *_ = answer.split(b"\r\n\r\n", 2)
    return first, second.split(b"\r\n")[0], hashlib.sha256(b"body").hexdigest().encode() in answer


def http_1_0(side: Side) -> object:
    """The body ends with the connection. uvicorn sends chunks, which HTTP/1.0 does not know."""
    head, _, content = side.ask_raw(b"GET /stream HTTP/1.0\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower() and side.server.__class__ is Peer:
        content = re.sub(rb"(?:\r\n|^)[0-9a-f]+\r\n(?:\r\n$)?", b"", content)
    return head.split(b"\r\n")[0].partition(b" ")[2], content


def background(side: Side) -> object:
    return side.ask("GET", "/background"), side.ask("GET", "/background-done")


def web_socket(side: Side) -> object:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    host, port = side.server.address
    with connect(f"ws://{host}:{port}/socket", subprotocols=["other", "echo"], open_timeout=DEADLINE) as client:  # type: ignore[list-item]
        assert client.response is not None
        seen: list[object] = [client.subprotocol, client.response.status_code, client.response.headers["x-socket"]]
        for text in ("one", "", "größe", "x" * 100_000):
            client.send(text)
            seen += [client.recv(DEADLINE), client.recv(DEADLINE)]
        client.send(["in ", "two"])
        seen += [client.recv(DEADLINE), client.recv(DEADLINE)]
        client.send("close")
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        return [*seen, client.close_code, client.close_reason]


def refused_socket(side: Side) -> object:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    host, port = side.server.address
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{host}:{port}/no-socket", open_timeout=DEADLINE)
    response = refused.value.response
    return response.status_code, response.body


def after_exception(side: Side) -> object:
    side.connection.close()  # uvicorn has closed it, and did not say so
    return side.ask("GET", "/hello")


def pipelined(side: Side) -> object:
    one = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = side.ask_raw(one * 3 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    return answer.count(b"HTTP/1.1 200 OK"), answer.count(b"hello")


TWICE = {"X-Twice": "1, 2", "User-Agent": "test", "Content-Type": "text/x"}
QUESTIONS: dict[str, Callable[[Side], object]] = {
    "hello": lambda side: side.ask("GET", "/hello"),
    "HEAD": lambda side: side.ask("HEAD", "/hello"),
    "JSON": lambda side: side.ask("GET", "/json"),
    "headers": lambda side: side.ask("GET", "/headers", given=TWICE),
    "an address": lambda side: side.ask("GET", "/address/a%20b/caf%C3%A9?x=1&y=%20&z"),
    "not found": lambda side: side.ask("GET", "/nothing"),
    "wrong method": lambda side: side.ask("POST", "/json", b"x"),
    "cookies": lambda side: side.ask("GET", "/cookies", given={"Cookie": "a=1; b=2"}),
    "redirect": lambda side: side.ask("GET", "/redirect"),
    "static file": lambda side: side.ask("GET", "/static/file.txt"),
    "a part of a static file": lambda side: side.ask("GET", "/static/file.txt", given={"Range": "bytes=10-19"}),
    "HEAD of a static file": lambda side: side.ask("HEAD", "/static/file.txt"),
    "no static file": lambda side: side.ask("GET", "/static/nothing.txt"),
    "a thread": lambda side: side.ask("GET", "/thread"),
    "streaming down": lambda side: side.ask("GET", "/stream"),
    "streaming down in HTTP/1.0": http_1_0,
    "server-sent events": lambda side: side.ask("GET", "/events", given={"Accept": "text/event-stream"}),
    "state of the lifespan": lambda side: side.ask("GET", "/state"),
    "a background task": background,
    "an empty upload": lambda side: side.ask("POST", "/upload", b""),
    "upload": lambda side: upload(side, chunked=False),
    "upload in chunks": lambda side: upload(side, chunked=True),
    "Expect: 100-continue": expect_continue,
    "pipelined": pipelined,
    "an exception": lambda side: side.ask("GET", "/fail"),
    "after an exception": after_exception,
    "a WebSocket": web_socket,
    "a WebSocket that is refused": refused_socket,
}


@contextlib.contextmanager
def both(tmp_path: Path, framework: Framework, upload_size: int) -> Iterator[tuple[Side, Side]]:
    static = tmp_path / "static"
    static.mkdir()
    (static / "file.txt").write_text(TEXT)
    environment = {"STATIC": str(static), "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}  # Allow is a set's order
    module, _, name = framework.app.partition(":")
    app = f"{MODULES}.{module}:{name}"
    options, pattern = PEERS[framework.peer]
    command = [sys.executable, "-m", "clockworker.shards._cli"]
    ours = Server(tmp_path, [app, "--port", "0", "--shards", "1", "--spares", "0"], environment, [], command)
    theirs = Peer(tmp_path, [app, *options], environment, [], [sys.executable, "-m", framework.peer])
    theirs.pattern = pattern
    try:
        ours.wait_serving()
        theirs.wait_log(pattern)
        sides = Side(ours, upload_size), Side(theirs, upload_size)
        try:
            yield sides
        finally:
            for side in sides:
                side.close()
        assert ours.stop() == 0
        theirs.stop()
    finally:
        ours.clean_up()
        theirs.clean_up()


def answer(ask: Callable[[Side], object], side: Side) -> object:
    try:
        return ask(side)
    except (OSError, http.client.HTTPException) as error:
        side.connection.close()
        return repr(error)


@pytest.mark.parametrize(
    ("name", "upload_size"),
    [
        # To import a framework twice takes longer than all that is asked.
        *(pytest.param(name, 2_000_000, id=name) for name in ("starlette", "flask")),
        *(
            pytest.param(name, 50_000_000, id=f"{name}, 50 MB", marks=[pytest.mark.slow, pytest.mark.once])
            for name in FRAMEWORKS
        ),
    ],
)
def test_both_answer_the_same(name: str, upload_size: int, tmp_path: Path) -> None:
    framework = FRAMEWORKS[name]
    for needed in (*framework.needs, framework.peer, "httptools", "websockets"):
        pytest.importorskip(needed)
    different: dict[str, tuple[object, object]] = {}
    with both(tmp_path, framework, upload_size) as (ours, theirs):
        for question, ask in QUESTIONS.items():
            if question not in framework.without:
                answers = answer(ask, ours), answer(ask, theirs)
                if answers[0] != answers[1]:
                    different[question] = answers
    assert not different
    if not framework.without:  # it has a lifespan
        assert ours.server.log.count("the application has shut down") == 1


# Of what a WSGI application is told, what differs for good reasons.
OWN_VARIABLES = {
    "SERVER_SOFTWARE",
    "SERVER_PORT",
    "REMOTE_PORT",
    "REQUEST_URI",  # gunicorn has RAW_URI alone
    "wsgi.multiprocess",  # gunicorn says whether it has several workers now
    "wsgi.multithread",  # gunicorn says no to one thread a request
}
REQUESTS = {
    "plain": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a path": b"GET /a%20b/caf%C3%A9/%FF?x=%20&y HTTP/1.1\r\nHost: example.org:81\r\n\r\n",
    "a path of two slashes": b"GET //a//b/../c HTTP/1.1\r\nHost: x\r\n\r\n",
    "a semicolon": b"GET /a;b?c;d HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "headers": b"GET / HTTP/1.1\r\nHost: x\r\nAccept: a\r\nAccept:  b \r\nX-Empty:\r\nX-Latin: \xe9\r\nCookie: a=1; b\r\n\r\n",
    "an underscore": b"GET / HTTP/1.1\r\nHost: x\r\nX_Real_IP: 192.0.2.1\r\nX-Real-IP: 192.0.2.2\r\n\r\n",
    "a body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nContent-Length: 4\r\n\r\nbody",
    "an empty body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "chunks": b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n3\r\n123\r\n0\r\n\r\n",
    "a proxy": b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n",
}


def test_wsgi_applications_are_told_what_gunicorn_tells_them(tmp_path: Path) -> None:
    for needed in ("gunicorn", "httptools", "websockets"):
        pytest.importorskip(needed)
    different: dict[str, object] = {}
    with both(tmp_path, Framework("with_nothing:app", (), peer="gunicorn"), 0) as sides:
        for name, request in REQUESTS.items():
            told: list[dict[str, object]] = []
            for side in sides:
                given = request.replace(b"Host:", b"Connection: close\r\nHost:", 1)
                content = side.ask_raw(given).partition(b"\r\n\r\n")[2]
                variables: dict[str, object] = json.loads(content)
                told.append({each: value for each, value in variables.items() if each not in OWN_VARIABLES})
            names = told[0].keys() | told[1].keys()
            if unlike := {
                each: [one.get(each) for one in told] for each in names if told[0].get(each) != told[1].get(each)
            }:
                different[name] = unlike
    assert not different
