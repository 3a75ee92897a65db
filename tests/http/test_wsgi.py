"""WSGI applications, called as an ASGI server calls them, and then behind a real one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import hashlib
import http.client
import io
import json
import random
import re
import select
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

import clockworker as cw
from clockworker.http import _wsgi
from clockworker.http._pipes import LIMIT, InputPipe, OutputPipe
from clockworker.http._wsgi import Wsgi
from clockworker.shards.worker._blocking_pools import BlockingPools
from tests.conftest import Run, until
from tests.http.test_environ import scope
from tests.shards.servers import DEADLINE, Serve, Server, eventually

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Callable[[bytes], object]]], Iterable[bytes]]


class Client:
    """One request and what comes of it. `body` is its pieces; after them the client stays until it `leaves`."""

    def __init__(self, *body: bytes, announce: bool = True, **changes: Any) -> None:
        self.body = list(body)
        headers = changes.pop("headers", [(b"host", b"x")])
        if body and announce:
            headers = [*headers, (b"content-length", b"%d" % sum(map(len, body)))]
        self.scope = scope(headers=headers, **changes)
        self.sent: list[dict[str, Any]] = []
        self.asked = 0  # for the request's body, or what follows
        self.leaves = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if not self.body:
            await self.leaves.wait()
            return {"type": "http.disconnect"}
        body = self.body.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self.body)}

    async def send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self.sent.append(message)

    async def ask(self, app: Application, threads: int = 2) -> None:
        pools = BlockingPools(threads)
        try:
            await Wsgi(app, pools)(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        finally:
            await pools.drain()
            pools.close()

    @property
    def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        assert self.sent[0]["type"] == "http.response.start"
        return self.sent[0]["status"], self.sent[0]["headers"]

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", True)


PLAIN = [("Content-Type", "text/plain")]


def hello(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [*PLAIN, ("X-Twice", "1"), ("X-Twice", "2")])
    return [b"hello"]


def echo(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [environ["wsgi.input"].read()]


def test_a_request_and_its_response(run: Run) -> None:
    async def body() -> None:
        client = Client()
        await client.ask(hello)
        assert client.head == (
            200,
            [(b"content-type", b"text/plain"), (b"x-twice", b"1"), (b"x-twice", b"2"), (b"content-length", b"5")],
        )
        assert client.sent[1:] == [{"type": "http.response.body", "body": b"hello", "more_body": False}]
        assert client.asked == 0  # for a body that there is not

    run(body)


@pytest.mark.filterwarnings("ignore::wsgiref.validate.WSGIWarning")
def test_both_sides_keep_to_the_protocol(run: Run) -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        print("an error", file=environ["wsgi.errors"])
        write = start_response("200 OK", PLAIN)
        write(b"written ")
        lines = list(environ["wsgi.input"])
        yield from lines

    async def body() -> None:
        client = Client(b"one\ntw", b"o\nthree", method="POST")
        await client.ask(app)
        assert b"".join(client.pieces) == b"written one\ntwo\nthree"
        assert client.is_complete

    run(body)


def test_reading_a_body(run: Run) -> None:
    read: list[object] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        file = environ["wsgi.input"]
        read.extend((file.readline(), file.read(3), file.readline(2), file.readlines(1), next(file), file.read(2)))
        read.append(file.read(40_000) == b"x" * 40_000)
        read.append(file.read() == b"x" * 60_000)
        read.extend((file.read(), file.read(1), file.readline(), list(file)))
        start_response("204 No Content", [])
        return []

    async def body() -> None:
        client = Client(b"li", b"ne\n12", b"3abc\n", b"d\ne\n", b"x" * 70_000, b"x" * 30_000, b"", method="POST")
        await client.ask(app)
        assert read == [b"line\n", b"123", b"ab", [b"c\n"], b"d\n", b"e\n", True, True, b"", b"", b"", []]
        read.clear()

    run(body)


@pytest.mark.parametrize("chunked", [False, True])
def test_an_empty_body(run: Run, chunked: bool) -> None:
    """Where the head says that there is none nobody asks, who would wait for the next request."""

    async def body() -> None:
        headers = [(b"transfer-encoding", b"chunked")] if chunked else []
        client = Client(*[b""] * chunked, announce=False, headers=headers)
        await client.ask(echo)
        assert client.head[1][-1] == (b"content-length", b"0")
        assert (client.pieces, client.is_complete) == ([b""], True)

    run(body)


def respond(*pieces: bytes, status: str = "200 OK", length: int | None = None, whole: bool = False) -> Application:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(status, [] if length is None else [("Content-Length", str(length))])
        return list(pieces) if whole else iter(pieces)

    return app


# Method, application; then status, Content-Length and body.
RESPONSES: dict[str, tuple[str, Application, tuple[int, int | None, bytes]]] = {
    "one piece": ("GET", respond(b"abc", whole=True), (200, 3, b"abc")),
    "several": ("GET", respond(b"ab", b"", b"c", whole=True), (200, None, b"abc")),
    "a generator": ("GET", respond(b"abc"), (200, None, b"abc")),
    "nothing": ("GET", respond(), (200, 0, b"")),
    "empty pieces": ("GET", respond(b"", b""), (200, 0, b"")),
    "a length": ("GET", respond(b"ab", b"c", length=3), (200, 3, b"abc")),
    "a length of 0": ("GET", respond(length=0), (200, 0, b"")),
    "HEAD with a length": ("HEAD", respond(length=3), (200, 3, b"")),
    "HEAD with a body": ("HEAD", respond(b"abc", b"d", length=4), (200, 4, b"")),
    "HEAD without": ("HEAD", respond(whole=True), (200, None, b"")),
    "HEAD of one piece": ("HEAD", respond(b"abc", whole=True), (200, None, b"")),
    "204": ("GET", respond(status="204 No Content"), (204, None, b"")),
    "204 with a body": ("GET", respond(b"abc", status="204 No Content"), (204, None, b"")),
    "304": ("GET", respond(status="304 Not Modified", length=7), (304, 7, b"")),
    "no reason": ("GET", respond(status="200"), (200, 0, b"")),
    "more than its length": ("GET", respond(b"abc", b"d", length=2), (200, 2, b"ab")),
    "more than none": ("GET", respond(b"abc", length=0), (200, 0, b"")),
}


@pytest.mark.parametrize("case", RESPONSES)
def test_responses(run: Run, case: str, caplog: pytest.LogCaptureFixture) -> None:
    method, app, (status, length, content) = RESPONSES[case]

    async def body() -> None:
        client = Client(method=method)
        await client.ask(app)
        assert client.head[0] == status
        lengths = [int(value) for name, value in client.head[1] if name == b"content-length"]
        assert lengths == ([] if length is None else [length])
        assert b"".join(client.pieces) == content
        assert [message.get("more_body") for message in client.sent].count(False) == 1
        assert client.is_complete

    run(body)
    assert ("longer than its Content-Length" in caplog.text) is case.startswith("more")


def raising(error: BaseException) -> Application:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        raise error

    return app


def starting(*arguments: Any) -> Application:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response(*arguments)
        return [b"never"]

    return app


def start_twice(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


# What is raised before anything has been sent, which makes a 500.
FAILURES: dict[str, tuple[Application, type[BaseException], str]] = {
    "an exception": (raising(LookupError("gone")), LookupError, "gone"),
    "an exit": (raising(SystemExit(1)), RuntimeError, "the application raised SystemExit"),
    "an end of an iteration": (raising(StopIteration()), RuntimeError, "raised StopIteration"),
    "no start": (lambda environ, start_response: [b"x"], RuntimeError, "has not called start_response"),
    "no start and no body": (lambda environ, start_response: [], RuntimeError, "has not called start_response"),
    "text": (lambda environ, start_response: ["x"], TypeError, "'x' is of type str"),  # type: ignore[list-item]
    "a second start": (start_twice, AssertionError, "again, without an exc_info"),
    "a status that is a number": (starting(200, []), ValueError, "status 200; one is '200 OK'"),
    "a status of one digit": (starting("2 OK", []), ValueError, "status '2 OK'"),
    "a status that ends a line": (starting("200 OK\r\nX: y", []), ValueError, "status"),
    "a status before another": (starting("100 Continue", []), ValueError, "no end of a request"),
    "a header that ends a line": (starting("200 OK", [("x", "a\r\nb")]), ValueError, r"header x with the value"),
    "a header without a name": (starting("200 OK", [("", "a")]), ValueError, "header of the name ''"),
    "a header of bytes": (starting("200 OK", [("x", b"a")]), ValueError, "header x with the value b'a'"),
    "a header beyond latin-1": (starting("200 OK", [("x", "\u20ac")]), ValueError, "header x with the value"),
    "a length that is none": (starting("200 OK", [("Content-Length", "-1")]), ValueError, "Content-Length of '-1'"),
    "a length and nothing": (respond(length=5), RuntimeError, "after 0 bytes, and its Content-Length is 5"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_before_the_head(run: Run, case: str) -> None:
    app, error, text = FAILURES[case]

    async def body() -> None:
        client = Client()
        with pytest.raises(error, match=text):
            await client.ask(app)
        assert client.sent == []

    run(body)


class Pieces:
    """An iterable that says what becomes of it."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self.closed = 0

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            if self._error is not None:
                raise self._error from None
            raise

    def close(self) -> None:
        self.closed += 1


def of(pieces: Iterable[bytes], length: int | None = None) -> Application:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        return pieces

    return app


def test_failures_after_the_head(run: Run) -> None:
    """They are raised, and the response has no end."""

    async def body() -> None:
        client, pieces = Client(), Pieces(b"abc", error=LookupError("gone"))
        with pytest.raises(LookupError, match="gone"):
            await client.ask(of(pieces))
        assert b"".join(client.pieces) == b"abc"
        assert not client.is_complete
        assert pieces.closed == 1

        client, pieces = Client(), Pieces(b"abc")
        with pytest.raises(RuntimeError, match="after 3 bytes, and its Content-Length is 4"):
            await client.ask(of(pieces, length=4))
        assert b"".join(client.pieces) == b"abc"
        assert not client.is_complete
        assert pieces.closed == 1

    run(body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("pieces", [(), (b"a", b"b")])
def test_an_iterable_is_closed(run: Run, method: str, pieces: tuple[bytes, ...]) -> None:
    async def body() -> None:
        iterable = Pieces(*pieces)
        await Client(method=method).ask(of(iterable))
        assert iterable.closed == 1

    run(body)


def test_a_response_of_known_length_does_not_wait_for_what_follows_it(run: Run) -> None:
    may_go_on = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        yield b"ab"
        yield b"c"
        may_go_on.wait(60)

    async def body() -> None:
        client = Client()
        asked = asyncio.create_task(client.ask(app))
        await until(lambda: client.is_complete)
        assert not asked.done()
        may_go_on.set()
        await asked
        assert b"".join(client.pieces) == b"abc"

    run(body)


def test_start_response_with_exc_info(run: Run) -> None:
    """Before the head has left it replaces that; after, it raises."""

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("x", "first"), ("Content-Length", "2000")])
        yield b""
        try:
            raise LookupError("gone")
        except LookupError:
            start_response("500 Gone", [("x", "second")], sys.exc_info())
        yield b"sorry"
        try:
            raise LookupError("again")
        except LookupError:
            start_response("500 Gone", [], sys.exc_info())

    async def body() -> None:
        client = Client()
        with pytest.raises(LookupError, match="again"):
            await client.ask(app)
        assert client.head == (500, [(b"x", b"second")])
        assert b"".join(client.pieces) == b"sorry"
        assert not client.is_complete

    run(body)


def test_write_and_what_follows_it(run: Run) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("x", " y ")])
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c"]

    async def body() -> None:
        client = Client()
        await client.ask(app)
        assert client.head == (200, [(b"x", b"y")])  # what a connection does is the server's business
        assert b"".join(client.pieces) == b"abc"
        assert client.is_complete

    run(body)


def test_every_piece_is_on_its_way_before_the_next_is_made(run: Run) -> None:
    may_go_on = threading.Semaphore(0)

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(3):
            yield b"%d" % number
            may_go_on.acquire(timeout=60)

    async def body() -> None:
        client = Client()
        asked = asyncio.create_task(client.ask(app))
        for number in range(3):
            await until(lambda: len(client.sent) == number + 2)  # noqa: B023
            may_go_on.release()
        await asked
        assert client.pieces == [b"0", b"1", b"2", b""]

    run(body)


def test_an_application_waits_for_a_client_that_is_slow(run: Run) -> None:
    """There is never more of a response than the pipe holds, and what is being sent."""
    piece, count = 10_000, 500
    made = 0

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        nonlocal made
        start_response("200 OK", [])
        for _ in range(count):
            made += piece
            yield b"x" * piece

    async def body() -> None:
        client = Client()
        asked = asyncio.create_task(client.ask(app))
        taken, most = 0, 0
        while not asked.done():
            client.takes.clear()
            await asyncio.sleep(0)
            before = -1
            while made != before and taken < 10:  # until nothing is made any more
                before = made
                await asyncio.sleep(0.01)
            taken += 1
            most = max(most, made - sum(map(len, client.pieces)))
            client.takes.set()
            await asyncio.sleep(0)
        await asked
        assert sum(map(len, client.pieces)) == piece * count
        assert most <= 3 * (LIMIT + piece)
        assert client.is_complete

    run(body)


def test_a_body_is_not_read_faster_than_the_application_takes_it(run: Run) -> None:
    may_read, read = threading.Event(), 0

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        nonlocal read
        file = environ["wsgi.input"]
        read += len(file.read(1))
        may_read.wait(60)
        read += len(file.read())
        start_response("200 OK", [])
        return []

    async def body() -> None:
        client = Client(*[b"x" * 10_000] * 100, method="POST")
        asked = asyncio.create_task(client.ask(app))
        await until(lambda: read == 1 and client.asked == 8)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert client.asked == 8  # 80,000 bytes, of which 8,192 are in the reader: the pipe is full
        may_read.set()
        await asked
        assert read == 1_000_000

    run(body)


def test_a_client_that_leaves_in_its_body(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    raised: list[Exception] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        file = environ["wsgi.input"]
        assert file.read(3) == b"abc"
        try:
            file.read(3)
        except OSError as error:
            raised.append(error)
            raise
        return []

    async def body() -> None:
        client = Client(b"abc", b"", headers=[(b"content-length", b"6")], announce=False)
        client.body.append(b"")
        client.body[1:] = []
        receive = client.receive

        async def leave() -> dict[str, Any]:
            return {**await receive(), "more_body": True}

        client.receive = leave  # type: ignore[method-assign]
        client.leaves.set()
        await client.ask(app)
        assert [type(error).__name__ for error in raised] == ["ClientLeft"]
        assert client.sent == []

    run(body)
    assert caplog.text == ""  # that is no fault of the application's


@pytest.mark.parametrize("by", ["receive", "send"])
def test_a_client_that_leaves_a_stream(run: Run, by: str) -> None:
    """The iteration ends, and the thread is free."""
    pieces = Pieces(*[b"x" * 1_000] * 1_000_000)

    async def body() -> None:
        client = Client()

        async def send(message: dict[str, Any]) -> None:
            client.sent.append(message)
            if len(client.sent) > 5:
                if by == "send":
                    raise ConnectionResetError
                client.leaves.set()

        client.send = send  # type: ignore[method-assign]
        await client.ask(of(pieces))
        assert pieces.closed == 1
        assert not client.is_complete

    run(body)


def test_a_request_that_is_cancelled_ends_its_iteration(run: Run) -> None:
    async def body() -> None:
        client, pieces = Client(), Pieces(*[b"x" * 1_000] * 1_000_000)
        pools = BlockingPools(1)
        client.takes.clear()
        asked = asyncio.ensure_future(Wsgi(of(pieces), pools)(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        await until(lambda: pools.running == 1)
        asked.cancel()
        await asyncio.wait([asked])
        await pools.drain()
        assert asked.cancelled()
        assert pieces.closed == 1
        pools.close()

    run(body)


def test_what_a_request_raises_after_it_was_cancelled_is_nobodys(run: Run) -> None:
    gate = threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        gate.wait(60)
        raise LookupError("gone")

    async def body() -> None:
        client, pools = Client(), BlockingPools(1)
        asked = asyncio.ensure_future(Wsgi(app, pools)(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        await until(lambda: pools.running == 1)
        asked.cancel()
        await asyncio.wait([asked])
        gate.set()
        await pools.drain()
        pools.close()
        gc.collect()  # an exception that nobody has looked at would be reported

    run(body)


def test_requests_wait_for_a_thread_each(run: Run) -> None:
    running, most, lock, gate = 0, 0, threading.Lock(), threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(60)
        with lock:
            running -= 1
        start_response("200 OK", [])
        return [b"done"]

    async def body() -> None:
        pools, clients = BlockingPools(2), [Client() for _ in range(10)]
        application = Wsgi(app, pools)
        asked = [
            asyncio.create_task(application(client.scope, client.receive, client.send))  # type: ignore[arg-type]
            for client in clients
        ]
        await until(lambda: pools.counts() == (2, 8) and running == 2)
        gate.set()
        await asyncio.gather(*asked)
        assert most == 2
        assert all(client.pieces == [b"done"] for client in clients)
        pools.close()

    run(body)


def test_errors_go_to_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        errors = environ["wsgi.errors"]
        print("one", file=errors)
        errors.write("tw")
        errors.writelines(["o\nthr", "ee"])
        start_response("200 OK", [])
        return []

    async def body() -> None:
        await Client().ask(app)

    run(body)
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("clockworker.http", "ERROR", text) for text in ("one", "two", "three")
    ]


def test_a_file(run: Run) -> None:
    file = io.BytesIO(b"x" * 200_000)

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 10)
        return wrapped

    async def body() -> None:
        client = Client()
        await client.ask(app)
        assert b"".join(client.pieces) == b"x" * 200_000
        assert len(client.pieces) < 20
        assert file.closed

    run(body)


def test_the_context_of_the_request_is_that_of_all_its_code(run: Run) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="nobody's")
    seen: list[str] = []

    class Iterable(Pieces):
        def __next__(self) -> bytes:
            seen.append(variable.get())
            return super().__next__()

        def close(self) -> None:
            seen.append(variable.get())

    def app(environ: Environ, start_response: Any) -> Iterable:
        seen.append(variable.get())
        variable.set("the application's")
        start_response("200 OK", [])
        return Iterable()

    async def body() -> None:
        variable.set("the task's")
        await Client().ask(app)
        assert seen == ["the task's", "the application's", "the application's"]
        assert variable.get() == "the task's"

    run(body)


def test_nothing_is_left_for_the_garbage_collector(run: Run) -> None:
    def there() -> list[object]:
        kinds = _wsgi._Request | InputPipe | OutputPipe
        return [each for each in gc.get_objects() if isinstance(each, kinds)]

    async def body() -> None:
        before = {id(each) for each in there()}  # in tracebacks of exceptions that tests have
        gc.disable()
        try:
            await Client().ask(hello)
            await Client(b"abc", method="POST").ask(echo)
            await Client().ask(of([b"x" * 100_000] * 10))
            with pytest.raises(RuntimeError, match="Content-Length"):
                await Client().ask(respond(b"abc", length=5))
            # Until the threads have ended, and what has been cancelled.
            await until(lambda: not {id(each) for each in there()} - before)
        finally:
            gc.enable()

    run(body)


def test_what_is_no_request(run: Run) -> None:
    async def body() -> None:
        client = Client()
        client.scope["type"] = "lifespan"
        with pytest.raises(NotImplementedError, match="a WSGI application has no lifespan"):
            await client.ask(hello)

    run(body)


def test_a_free_thread_goes_to_the_group_that_has_fewest(run: Run) -> None:
    """One tenant's requests are many; the other's get the next thread that is free, and keep one while they have something."""
    started: list[str] = []
    ended: list[str] = []
    gate = threading.Semaphore(0)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        started.append(environ["PATH_INFO"])
        gate.acquire(timeout=60)
        ended.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    async def body() -> None:
        async with cw.Executor([cw.Queue("all")]) as executor:

            def account() -> object:
                current = executor._core.current
                return None if current is None else current.membership

            pools = BlockingPools(2, account)
            application = Wsgi(app, pools)

            def ask(group: str) -> cw.JoinHandle[None]:
                client = Client(raw_path=group.encode())
                request = application(client.scope, client.receive, client.send)  # type: ignore[arg-type]
                return executor.queue("all").group(group).spawn(request)

            asked = [ask("many") for _ in range(6)]
            await until(lambda: pools.counts() == (2, 4))
            asked += [ask("one"), ask("one")]
            await until(lambda: pools.counts() == (2, 6))
            for number in (1, 2):
                gate.release()
                await until(lambda: len(ended) == number and len(started) == number + 2)  # noqa: B023
                assert Counter(started) - Counter(ended) == {"many": 1, "one": 1}
            gate.release(6)
            for handle in asked:
                await handle
            assert Counter(ended) == {"many": 6, "one": 2}
            pools.close()

    run(body)
    started.clear()
    ended.clear()


# Behind the real server.

APPLICATION = """
import hashlib, json, threading, time
import clockworker as cw

closed, made, gate = [], 0, threading.Event()

@cw.remote
async def double(number: int) -> int:
    return 2 * number

class Stream:
    def __init__(self, path, pieces):
        self.path, self.pieces = path, iter(pieces)

    def __iter__(self):
        return self

    def __next__(self):
        global made
        made += 1
        return next(self.pieces)

    def close(self):
        closed.append(self.path)

def app(environ, start_response):
    path, file = environ["PATH_INFO"], environ["wsgi.input"]
    headers = [("Content-Type", "text/plain")]
    match path:
        case "/hash":  # of what comes
            digest, size = hashlib.sha256(), 0
            while piece := file.read(20_000):
                digest.update(piece)
                size += len(piece)
            start_response("200 OK", headers)
            return [f"{size} {digest.hexdigest()}".encode()]
        case "/echo":
            start_response("200 OK", headers)
            return iter(lambda: file.read(20_000), b"")
        case "/unread":
            start_response("200 OK", headers)
            return [b"unread"]
        case "/endless":
            start_response("200 OK", headers)
            return Stream(path, iter(lambda: b"x" * 10_000, b""))
        case "/events":
            start_response("200 OK", headers)
            return Stream(path, (b"event %d\\n" % n for n in range(3) if not n or gate.wait(60)))
        case "/go":
            gate.set()
            start_response("204 No Content", [])
            return []
        case "/closed":
            start_response("200 OK", headers)
            return [json.dumps([closed, made]).encode()]
        case "/shard":
            shard = cw.current_shard()
            answer = shard.call_threadsafe(shard.id, double, 21).result(60)
            start_response("200 OK", headers)
            return [f"{shard.id} {answer} {shard.stats().blocking_running}".encode()]
        case "/raise":
            raise LookupError("as it should")
        case "/raise-late":
            start_response("200 OK", [*headers, ("Content-Length", "10")])
            return Stream(path, (1 / 0 if n else b"half" for n in range(2)))
        case "/slow":
            time.sleep(0.3)
            start_response("200 OK", headers)
            return [b"slow"]
        case _:
            start_response("404 Not Found", headers)
            return [environ["REQUEST_METHOD"].encode(), b" ", environ["RAW_URI"].encode()]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("wsgi"), forked=False)  # its memory is looked at
    try:
        server = serve(APPLICATION, "--shards", "1", "--spares", "0", "--threads", "4", app="app:app")
        server.wait_serving()
        yield server
        assert server.stop() == 0
        # Of clients that have left there are none.
        errors = re.findall(r" ERROR .*$", server.log, re.MULTILINE)
        assert len(errors) <= 2, server.log
        assert all(error.endswith("] Exception in ASGI application") for error in errors), server.log
    finally:
        serve.clean_up()


class Memory:
    """By how much a process's resident memory has grown at most, since this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the highest is that of now
        self._before = self._highest()

    def _highest(self) -> int:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        assert found is not None
        return 1024 * int(found[1])

    def growth(self) -> int:
        return self._highest() - self._before


@pytest.fixture
def client(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    yield connection
    connection.close()


def told(server: Server) -> tuple[list[str], int]:
    """Whose iterations were closed, and how many pieces all have made."""
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    connection.request("GET", "/closed")
    closed, made = json.loads(connection.getresponse().read())
    connection.close()
    return closed, made


def closed_count(server: Server, path: str) -> int:
    return told(server)[0].count(path)


def wait_unchanged(server: Server, figure: Callable[[], int]) -> None:
    """Until it stays the same for as long as a dozen other requests take."""
    seen = [-1]
    while len(seen) < 12:
        told(server)
        now = figure()
        seen = [*seen, now] if seen[-1] == now else [now]


def pieces_of(size: int) -> Iterator[bytes]:
    piece = random.Random(1).randbytes(100_000)
    for _ in range(size // len(piece)):
        yield piece


SIZES = [2_000_000, pytest.param(50_000_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunked", [False, True])
def test_uploads(server: Server, client: http.client.HTTPConnection, size: int, chunked: bool) -> None:
    """Whose bytes come as they are, and are never all there at once."""
    memory = Memory(server.shard_pids()[0])
    headers = {} if chunked else {"Content-Length": str(size)}
    client.request("POST", "/hash", pieces_of(size), headers, encode_chunked=chunked)
    digest = hashlib.sha256()
    for piece in pieces_of(size):
        digest.update(piece)
    assert client.getresponse().read() == f"{size} {digest.hexdigest()}".encode()
    assert memory.growth() < 1_900_000 + 6_000_000 * (size > 2_000_000)


@pytest.mark.parametrize("size", SIZES)
def test_both_ways_at_once(server: Server, client: http.client.HTTPConnection, size: int) -> None:
    """The body goes back while it comes, to a client that reads late."""
    memory = Memory(server.shard_pids()[0])

    connection = server.connect()
    connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)

    gone = 0

    def send() -> None:
        nonlocal gone
        for piece in pieces_of(size):
            connection.sendall(piece)
            gone += len(piece)

    with connection, concurrent.futures.ThreadPoolExecutor() as pool:
        sending = pool.submit(send)
        wait_unchanged(server, lambda: gone)  # all buffers on its way are full, or all is in them
        response = http.client.HTTPResponse(connection)
        response.begin()
        received = hashlib.sha256()
        while piece := response.read(50_000):
            received.update(piece)
        sending.result()
    sent = hashlib.sha256()
    for piece in pieces_of(size):
        sent.update(piece)
    assert received.digest() == sent.digest()
    assert memory.growth() < 1_900_000 + 6_000_000 * (size > 2_000_000)


def test_a_reader_that_does_not_read_makes_the_application_wait(server: Server) -> None:
    memory = Memory(server.shard_pids()[0])
    before = closed_count(server, "/endless")
    with server.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200 OK\r\n")
        wait_unchanged(server, lambda: told(server)[1])
        assert memory.growth() < 4_000_000
        for _ in range(100):
            assert connection.recv(10_000)
    # It has left, and the thread is free.
    eventually(lambda: closed_count(server, "/endless") == before + 1, "the end of the iteration")


def test_clients_that_leave_free_their_threads(server: Server) -> None:
    """More of them than there are threads: before their body has come, and before all has been sent."""
    before = closed_count(server, "/endless")
    for _ in range(6):
        with server.connect() as connection:
            connection.sendall(b"POST /hash HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of i")
        with server.connect() as connection:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1_000)
    eventually(lambda: closed_count(server, "/endless") == before + 6, "the end of the iterations")


def test_events_come_one_by_one(server: Server, client: http.client.HTTPConnection) -> None:
    client.request("GET", "/events")
    response = client.getresponse()
    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.readline() == b"event 0\n"  # the next is not made before somebody says so
    other = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    other.request("GET", "/go")
    assert other.getresponse().status == 204
    other.close()
    assert response.read() == b"event 1\nevent 2\n"


def test_a_connection_goes_on(server: Server, client: http.client.HTTPConnection) -> None:
    """After a body that nobody has read, and errors."""
    for body in (b"", b"x" * 1_000, b"x" * 100_000):
        client.request("POST", "/unread", body)
        response = client.getresponse()
        assert (response.status, response.read()) == (200, b"unread")
        assert response.getheader("Content-Length") == "6"
        assert response.getheader("Connection") is None
        socket = client.sock
        client.request("HEAD", "/unread")
        response = client.getresponse()
        assert (response.status, response.read(), response.getheader("Content-Length")) == (200, b"", None)
        client.request("GET", "/caf%C3%A9?x=%20")
        response = client.getresponse()
        assert (response.status, response.read()) == (404, b"GET /caf%C3%A9?x=%20")
        assert client.sock is socket


def test_a_body_is_asked_for_when_it_is_read(server: Server) -> None:
    """`Expect: 100-continue`: an application that does not read it gets no body."""
    with server.connect() as connection:
        connection.sendall(b"POST /hash HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(1_000).endswith(b"3 " + hashlib.sha256(b"abc").hexdigest().encode())
    with server.connect() as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        answer = b""
        while data := connection.recv(1_000):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nunread")


def test_failures(server: Server, client: http.client.HTTPConnection) -> None:
    client.request("GET", "/raise")
    response = client.getresponse()
    assert (response.status, response.read()) == (500, b"Internal Server Error")
    client.request("GET", "/raise-late")
    response = client.getresponse()
    assert response.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    assert server.wait_log("LookupError: as it should")
    assert server.wait_log("ZeroDivisionError")


def test_shards_in_threads(server: Server, client: http.client.HTTPConnection) -> None:
    client.request("GET", "/shard")
    assert client.getresponse().read() == b"0 42 1"


def test_the_stop_waits_for_requests_in_threads(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        server = serve(APPLICATION, "--shards", "1", "--spares", "0", "--threads", "1", app="app:app")
        server.wait_serving()
        clients = [http.client.HTTPConnection(*server.address, timeout=DEADLINE) for _ in range(3)]
        for client in clients:
            client.request("GET", "/slow")  # one after the other, in one thread
        assert server.stop() == 0
        answers = [client.getresponse() for client in clients]
        assert [(answer.status, answer.read()) for answer in answers] == [(200, b"slow")] * 3
        for client in clients:
            client.close()
    finally:
        serve.clean_up()


ROUTED = """
import contextlib, os, time
import clockworker as cw

def app(environ, start_response):
    name = environ["PATH_INFO"].replace("/", "-")
    open("begun" + name, "w").close()
    while not os.path.exists("go" + name):
        with contextlib.suppress(RuntimeError):  # it has changed while this thread looked
            open(f"waiting-{cw.current_shard().stats().blocking_waiting}", "w").close()
        time.sleep(0.002)
    start_response("200 OK", [])
    return [name.encode()]
"""
ROUTES = """
[[route]]
path = "/of/{tenant}/*"
group = "path:tenant"

[[route]]
path = "/few"
limit = 1
waiting = 1
"""


def test_routes(tmp_path: Path) -> None:
    """Threads are shared by the groups of a queue; a limit of a route holds, and who comes too late is told so."""
    (tmp_path / "clockworker.toml").write_text(ROUTES)
    serve = Serve(tmp_path)
    clients: list[http.client.HTTPConnection] = []

    def ask(path: str) -> http.client.HTTPConnection:
        clients.append(http.client.HTTPConnection(*server.address, timeout=DEADLINE))
        clients[-1].request("GET", path)
        return clients[-1]

    def begun() -> set[str]:
        return {path.name.removeprefix("begun-") for path in tmp_path.glob("begun-*")}

    def go(name: str) -> None:
        (tmp_path / f"go-{name}").touch()

    try:
        server = serve(ROUTED, "--shards", "1", "--spares", "0", "--threads", "2", app="app:app")
        many = [ask(f"/of/many/{number}") for number in range(2)]
        eventually(lambda: begun() == {"of-many-0", "of-many-1"}, "two requests in threads")
        many += [ask(f"/of/many/{number}") for number in range(2, 5)]
        eventually((tmp_path / "waiting-3").exists, "three requests that wait for a thread")
        one = ask("/of/one/0")
        eventually((tmp_path / "waiting-4").exists, "a fourth")
        go("of-many-0")
        assert many[0].getresponse().read() == b"-of-many-0"
        eventually(lambda: len(begun()) == 3, "a third request in a thread")
        assert begun() == {"of-many-0", "of-many-1", "of-one-0"}
        for name in ("one-0", "many-1", "many-2", "many-3", "many-4"):
            go(f"of-{name}")
        assert [each.getresponse().read()[:9] for each in (one, *many[1:])] == [b"-of-one-0", *[b"-of-many-"] * 4]

        few = [ask("/few")]
        eventually(lambda: "few" in begun(), "a request in a thread")
        few += [ask("/few"), ask("/few")]
        refused = eventually(
            lambda: [each for each in few[1:] if select.select([each.sock], [], [], 0)[0]], "an answer"
        )
        assert len(refused) == 1
        response = refused[0].getresponse()
        assert (response.status, response.getheader("Retry-After") is not None) == (503, True)
        response.read()
        go("few")
        assert [each.getresponse().status for each in few if each is not refused[0]] == [200, 200]
        assert server.stop() == 0
    finally:
        for client in clients:
            client.close()
        serve.clean_up()
