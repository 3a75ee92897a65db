"""HTTP/1.1 as a connection speaks it, on a transport that the test holds: what is passed to the application, what is answered,
when reading pauses, when the connection ends. Over sockets: `test_hostile`."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import socket
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import hypothesis
import pytest
from hypothesis import strategies

from clockworker.shards.config._http import HttpConfig
from tests.conftest import DEADLINE, until
from tests.http.oracle import ask_h11, compare
from tests.http.streams import cut, mutated, outcomes, stream
from tests.http.wire import Connection, Recorder, Seen, wire

P = ParamSpec("P")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), DEADLINE))

    return run


def config(**options: Any) -> HttpConfig:
    return HttpConfig(date_header=False, server_header=False, **options)


def head(first: str, *fields: str) -> bytes:
    return "\r\n".join([first, *fields, "", ""]).encode("latin-1")


async def answer(send: Send, *body: bytes, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Each part of the body is an event."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for at, part in enumerate(body, 1):
        await send({"type": "http.response.body", "body": part, "more_body": at < len(body)})


class Holding:
    """An application that answers each request when the test lets it. begun: their paths."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._turns: dict[str, asyncio.Event] = {}

    def let(self, path: str) -> None:
        self._turn(path).set()

    def _turn(self, path: str) -> asyncio.Event:
        return self._turns.setdefault(path, asyncio.Event())

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        await self._turn(scope["path"]).wait()
        await answer(send, scope["path"].encode())


async def ask(request: bytes, app: Any = None, **options: Any) -> tuple[Connection, Recorder]:
    """What comes of some bytes, when all that they began has ended. The application records unless there is another."""
    recorder = Recorder()
    async with wire(app or recorder, config(**options)) as server:
        connection = server.connect()
        connection.feed(request)
        await server.idle()
        connection.is_over_before_leaving = connection.is_over
    return connection, recorder


# What the application is given.


@on_a_loop
async def test_scope() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send, b"")

    await ask(head("GET /a%20b%2Fc/%C3%A4?q=%20&r HTTP/1.1", "Host: a:80", "X-Two: 1", "x-two:\t2 \t"), app)
    assert scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("192.0.2.1", 80),
            "client": ("192.0.2.7", 4711),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": "/a b/c/ä",
            "raw_path": b"/a%20b%2Fc/%C3%A4",
            "query_string": b"q=%20&r",
            "headers": [(b"host", b"a:80"), (b"x-two", b"1"), (b"x-two", b"2")],
            "state": {},
            "extensions": {
                "http.response.trailers": {},
                "http.response.early_hint": {},
                "http.response.pathsend": {},
            },
        }
    ]


@on_a_loop
async def test_who_asks_again_and_again_whether_the_client_has_left_leaves_nothing() -> None:
    waiting: list[int] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        for _ in range(300):
            asking = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        del asking
        gc.collect()
        waiting.append(sum(type(each) is asyncio.Future for each in gc.get_objects()))
        await answer(send, b"ok")

    async with wire(app) as server:
        connection = server.connect()
        connection.feed(head("GET / HTTP/1.1", "Host: a"))
        await server.idle()
    assert waiting[0] < 100


@on_a_loop
async def test_body_comes_in_parts_and_its_end_is_told() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (not events) or events[-1]["more_body"]:
            events.append(await receive())
        await answer(send, b"ok")

    async with wire(app) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", "Host: a", "Content-Length: 6") + b"abc")
        await until(lambda: events)
        connection.feed(b"def")
        await server.idle()
    assert events == [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.request", "body": b"def", "more_body": False},
    ]


@on_a_loop
async def test_chunks_are_put_together_and_trailers_dropped() -> None:
    body = b"3\r\nabc\r\n3;quality=high\r\ndef\r\n0\r\nX-Forwarded-For: 203.0.113.1\r\nHost: evil\r\n\r\n"
    connection, recorder = await ask(head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + body + GET)
    chunked = ((b"host", b"a"), (b"transfer-encoding", b"chunked"))
    assert recorder.seen == [Seen("POST", b"/", chunked, b"abcdef"), Seen("GET", b"/", ((b"host", b"a"),), b"")]
    assert connection.sent == OK * 2


@pytest.mark.parametrize(
    ("target", "expected", "host"),
    [
        ("http://b/c?d#e", b"/c?d", b"b"),
        ("HTTPS://b:8443", b"/", b"b:8443"),
        ("http://[::1]:80/?x", b"/?x", b"[::1]:80"),
        ("http://b?d", b"/?d", b"b"),
        ("/c#e", b"/c", b"a"),
        ("//b/c", b"//b/c", b"a"),
    ],
)
@on_a_loop
async def test_forms_of_a_target(target: str, expected: bytes, host: bytes) -> None:
    """The authority of an absolute one goes before Host (RFC 9112, 3.2.2)."""
    _, recorder = await ask(head(f"GET {target} HTTP/1.1", "Host: a"))
    assert recorder.seen == [Seen("GET", expected, ((b"host", host),), b"")]


@on_a_loop
async def test_asterisk_is_for_options() -> None:
    _, recorder = await ask(head("OPTIONS * HTTP/1.1", "Host: a"))
    assert [seen.target for seen in recorder.seen] == [b"*"]


# What is refused.

_HOST = "Host: a"
_LENGTH, _CHUNKED = "Content-Length: 3", "Transfer-Encoding: chunked"

REFUSED = {
    "no host": head("GET / HTTP/1.1"),
    "two hosts": head("GET / HTTP/1.1", _HOST, _HOST),
    "two hosts in 1.0": head("GET / HTTP/1.0", _HOST, _HOST),
    "host with a path": head("GET / HTTP/1.1", "Host: a/b"),
    "host with a user": head("GET / HTTP/1.1", "Host: u@a"),
    "host with a space": head("GET / HTTP/1.1", "Host: a b"),
    "two hosts in one": head("GET / HTTP/1.1", "Host: a, b"),
    "asterisk": head("GET * HTTP/1.1", _HOST),
    "connect": head("CONNECT a:443 HTTP/1.1", _HOST),
    "connect with a path": head("CONNECT / HTTP/1.1", _HOST),
    "relative target": head("GET a HTTP/1.1", _HOST),
    "target of a user": head("GET http://u:p@a/ HTTP/1.1", _HOST),
    "target of nobody": head("GET http:///a HTTP/1.1", _HOST),
    "target of no host": head("GET http://]a/ HTTP/1.1", _HOST),
    "target with a space": head("GET /a b HTTP/1.1", _HOST),
    "target that is not ascii": head("GET /\xe4 HTTP/1.1", _HOST),
    "no target": head("GET HTTP/1.1", _HOST),
    "unknown method": head("FETCH / HTTP/1.1", _HOST),
    "method in small letters": head("get / HTTP/1.1", _HOST),
    "version 2.0": head("GET / HTTP/2.0", _HOST),
    "version 1.2": head("GET / HTTP/1.2", _HOST),
    "version 0.9": head("GET / HTTP/0.9", _HOST),
    "no version": head("GET /", _HOST),
    "both lengths": head("POST / HTTP/1.1", _HOST, _LENGTH, _CHUNKED),
    "both lengths, the other way": head("POST / HTTP/1.1", _HOST, _CHUNKED, _LENGTH),
    "two lengths": head("POST / HTTP/1.1", _HOST, _LENGTH, "Content-Length: 4"),
    "the same length twice": head("POST / HTTP/1.1", _HOST, _LENGTH, _LENGTH),
    "two lengths in one": head("POST / HTTP/1.1", _HOST, "Content-Length: 3, 3"),
    "length with a sign": head("POST / HTTP/1.1", _HOST, "Content-Length: +3"),
    "negative length": head("POST / HTTP/1.1", _HOST, "Content-Length: -3"),
    "length that is no number": head("POST / HTTP/1.1", _HOST, "Content-Length: 0x3"),
    "length of nothing": head("POST / HTTP/1.1", _HOST, "Content-Length:"),
    "length of more than there is": head("POST / HTTP/1.1", _HOST, "Content-Length: 99999999999999999999"),
    "chunks in 1.0": head("POST / HTTP/1.0", _HOST, _CHUNKED),
    "chunks twice": head("POST / HTTP/1.1", _HOST, _CHUNKED, _CHUNKED),
    "chunks twice in one": head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: chunked, chunked"),
    "chunks not last": head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: chunked, gzip"),
    "no chunks": head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: identity"),
    "chunks in disguise": head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: \x0bchunked"),
    "folded": head("GET / HTTP/1.1", _HOST, "X: a", " b"),
    "folded with a tab": head("GET / HTTP/1.1", _HOST, "X: a", "\tb"),
    "folded at the start": head("GET / HTTP/1.1", " X: a", _HOST),
    "space before the colon": head("GET / HTTP/1.1", _HOST, "X : a"),
    "name that is none": head("GET / HTTP/1.1", _HOST, "X(y): a"),
    "no name": head("GET / HTTP/1.1", _HOST, ": a"),
    "no colon": head("GET / HTTP/1.1", _HOST, "X"),
    "bare LF in the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF in a header": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "zero in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "bell in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\ab\r\n\r\n",
    "a handshake of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
@on_a_loop
async def test_refused(request_: bytes) -> None:
    connection, recorder = await ask(request_)
    assert recorder.seen == []
    assert connection.statuses == [400]
    assert b"\r\nconnection: close\r\n" in connection.sent
    assert connection.is_over_before_leaving


@on_a_loop
async def test_a_coding_that_is_not_known() -> None:
    connection, recorder = await ask(head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: gzip, chunked"))
    assert (connection.statuses, recorder.seen) == ([501], [])


# Of its body an application may have taken a part before it turns out to be none.
BROKEN_BODIES = {
    "size that is none": b"x\r\n",
    "size with a sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size with a space": b"3 \r\nabc\r\n0\r\n\r\n",
    "size of more than there is": b"fffffffffffffffff\r\n",
    "longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF after a chunk": b"3\r\nabc\n0\r\n\r\n",
    "bare LF at the end": b"3\r\nabc\r\n0\r\n\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "trailer that is none": b"0\r\nx y\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
@pytest.mark.parametrize("part", ["in one read", "after the head"])
@on_a_loop
async def test_broken_bodies(body: bytes, part: str) -> None:
    recorder = Recorder()
    async with wire(recorder, config()) as server:
        connection = server.connect()
        request = head("POST / HTTP/1.1", _HOST, _CHUNKED)
        if part == "in one read":
            connection.feed(request + body)
        else:
            connection.feed(request)
            await until(lambda: connection.protocol.current.asked)
            connection.feed(body)
        await server.idle()
        assert [seen.body for seen in recorder.seen] in ([None], [])
        assert connection.statuses == [400]
        assert connection.is_over


@on_a_loop
async def test_a_body_that_breaks_when_the_response_is_under_way_cuts_it() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", _HOST, _CHUNKED))
        await until(lambda: connection.sent)
        connection.feed(b"x\r\n")
        await server.idle()
        assert connection.statuses == [200]
        assert connection.transport.aborted
        assert server.failures == []


# Limits.


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 4_080, 414),  # whose line may not end in what is allowed
        (head("GET /" + "a" * 4_080 + " HTTP/1.1", _HOST), 414),
        (head("GET / HTTP/1.1", _HOST, "X: " + "a" * 8_190), 431),
        (head("GET / HTTP/1.1", _HOST, "a" * 8_190 + ": x"), 431),
        (head("GET / HTTP/1.1", _HOST, *(f"X-{at}: x" for at in range(100))), 431),
        (head("GET / HTTP/1.1", _HOST, *(f"X-{at}: {'x' * 8_000}" for at in range(9))), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 70_000, 431),
    ],
    ids=["target", "line", "value", "name", "fields", "head", "unfinished value", "unfinished name"],
)
@pytest.mark.parametrize("read", [1_000_000, 4_096, 1_000])
@on_a_loop
async def test_limits_of_a_head(request_: bytes, status: int, read: int) -> None:
    recorder = Recorder()
    async with wire(recorder, config()) as server:
        connection = server.connect()
        connection.feed(*(request_[at : at + read] for at in range(0, len(request_), read)))
        await server.idle()
        assert (connection.statuses, recorder.seen) == ([status], [])
        assert connection.is_over


@on_a_loop
async def test_what_a_head_may_have() -> None:
    fields = [f"X-{at}: {'x' * 500}" for at in range(98)]
    connection, recorder = await ask(head("GET /" + "a" * 4_000 + " HTTP/1.1", _HOST, "X: " + "a" * 8_000, *fields))
    assert connection.statuses == [200]
    assert len(recorder.seen[0].headers) == 100


@pytest.mark.parametrize(
    "trailer", [b"X: " + b"a" * 200_000, b"a" * 200_000, b"X: y\r\n" * 200], ids=["value", "name", "fields"]
)
@on_a_loop
async def test_trailers_are_limited_as_heads_are(trailer: bytes) -> None:
    connection, recorder = await ask(head("POST / HTTP/1.1", _HOST, _CHUNKED) + b"0\r\n" + trailer)
    assert connection.statuses == [431]
    assert [seen.body for seen in recorder.seen] in ([None], [])


# Answers.


@on_a_loop
async def test_framing() -> None:
    """A length where the body is known to be whole; chunks to HTTP/1.1; the end of the connection to HTTP/1.0."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, *([b"one"] if scope["path"] == "/whole" else [b"one", b"", b"two", b""]))

    whole, _ = await ask(head("GET /whole HTTP/1.1", _HOST), app)
    assert whole.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
    assert whole.transport.writes == 1
    parts, _ = await ask(head("GET /parts HTTP/1.1", _HOST), app)
    assert parts.sent == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    old, _ = await ask(head("GET /parts HTTP/1.0", "Connection: keep-alive"), app)
    assert old.sent == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo"
    assert old.transport.closed
    assert not old.transport.aborted


@pytest.mark.parametrize(
    ("request_", "closes", "said"),
    [
        (head("GET / HTTP/1.1", _HOST), False, None),
        (head("GET / HTTP/1.1", _HOST, "Connection: close"), True, b"close"),
        (head("GET / HTTP/1.1", _HOST, "Connection: x, Close"), True, b"close"),
        (head("GET / HTTP/1.0"), True, b"close"),
        (head("GET / HTTP/1.0", "Connection: keep-alive"), False, b"keep-alive"),
        (head("GET / HTTP/1.0", "Connection: keep-alive", "Connection: x, Close"), True, b"close"),
    ],
)
@on_a_loop
async def test_keep_alive(request_: bytes, closes: bool, said: bytes | None) -> None:
    recorder = Recorder()
    async with wire(recorder, config()) as server:
        connection = server.connect()
        connection.feed(request_)
        await server.idle()
        assert connection.transport.closed == closes
        expected = b"" if said is None else b"connection: " + said + b"\r\n"
        assert connection.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + expected + b"\r\nok"
        if not closes:
            connection.feed(request_)
            await server.idle()
            assert connection.statuses == [200, 200]


@on_a_loop
async def test_an_application_may_end_the_connection() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"ok", headers=((b"Connection", b"x, Close"),))

    connection, _ = await ask(GET + GET, app)
    assert connection.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    assert connection.is_over_before_leaving


@pytest.mark.parametrize(
    ("method", "status", "headers", "expected"),
    [
        ("HEAD", 200, (), b"content-length: 4\r\n"),
        ("HEAD", 200, ((b"content-length", b"1000"),), b"content-length: 1000\r\n"),
        ("GET", 204, (), b""),
        ("GET", 304, ((b"content-length", b"1000"),), b"content-length: 1000\r\n"),
    ],
)
@on_a_loop
async def test_answers_without_a_body(
    method: str, status: int, headers: tuple[tuple[bytes, bytes], ...], expected: bytes
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"body", status=status, headers=headers)

    connection, _ = await ask(head(f"{method} / HTTP/1.1", _HOST) + GET, app)
    first, _, rest = connection.sent.partition(b"\r\n\r\n")
    assert first.partition(b"\r\n")[2] + b"\r\n" == (expected or b"\r\n")
    assert rest.startswith(b"HTTP/1.1 "), "what followed was not the next response"


@on_a_loop
async def test_a_204_has_no_length() -> None:
    """RFC 9110, 8.6."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"", status=204, headers=((b"content-length", b"0"),))

    connection, _ = await ask(GET, app)
    assert connection.sent == b"HTTP/1.1 204 No Content\r\n\r\n"


@on_a_loop
async def test_a_failure_is_answered_to_head_without_a_body() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError("an error")

    connection, _ = await ask(head("HEAD / HTTP/1.1", _HOST), app)
    assert connection.statuses == [500]
    assert connection.sent.endswith(b"\r\n\r\n")


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "name that is none": ([{"status": 200, "headers": [(b"a b", b"c")]}], "Invalid HTTP header name"),
    "value with a line": ([{"status": 200, "headers": [(b"a", b"b\r\nc: d")]}], "Invalid HTTP header value"),
    "value with a zero": ([{"status": 200, "headers": [(b"a", b"b\0")]}], "Invalid HTTP header value"),
    "no status": ([{"status": 1000}], "status"),
    "interim": ([{"status": 103}], "status"),
    "length that is none": ([{"status": 200, "headers": [(b"content-length", b"-1")]}], "ontent-"),
    "length with a sign": ([{"status": 200, "headers": [(b"content-length", b"+2")]}], "ontent-"),
    "two lengths": (
        [{"status": 200, "headers": [(b"content-length", b"1"), (b"content-length", b"2")]}],
        "ontent-",
    ),
    "body first": ([{"type": "http.response.body", "body": b""}], "Expected ASGI message"),
    "started twice": ([{"status": 200}, {"status": 200}], "Expected ASGI message"),
    "unknown": ([{"type": "http.response.nothing"}], "Expected ASGI message"),
}


@pytest.mark.parametrize(("events", "said"), WRONG.values(), ids=WRONG)
@on_a_loop
async def test_what_an_application_does_wrong_before_anything_was_sent_is_a_500(
    events: list[dict[str, Any]], said: str
) -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        try:
            for event in events:
                await send({"type": "http.response.start", **event})
            await send({"type": "http.response.body", "body": b"ok"})
        except Exception as error:
            raised.append(error)
            raise

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(GET)
        await server.idle()
        assert connection.statuses == [500]
        assert b"connection: close\r\n" in connection.sent
        assert connection.transport.closed
        assert len(server.failures) == 1
    assert [type(error) for error in raised] == [RuntimeError]
    assert said in str(raised[0])


@pytest.mark.parametrize(
    ("headers", "body", "sent"),
    [
        ([(b"content-length", b"4")], [b"12345"], b""),
        ([(b"content-length", b"4")], [b"123", b"45"], b"123"),
        ([(b"content-length", b"4")], [b"123"], b"123"),
        ([(b"content-length", b"4")], [b"12", b"3"], b"123"),
    ],
    ids=["too much", "too much in parts", "too little", "too little in parts"],
)
@on_a_loop
async def test_a_body_of_another_length_than_was_said_is_cut(
    headers: list[tuple[bytes, bytes]], body: list[bytes], sent: bytes
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, *body, headers=tuple(headers))

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(GET + GET)
        await server.idle()
        assert connection.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + sent
        assert connection.transport.aborted
        assert len(server.failures) == 1


@pytest.mark.parametrize("how", ["raises", "returns", "is cancelled"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_a_loop
async def test_a_response_that_is_not_completed_is_cut(how: str, version: str) -> None:
    """Of HTTP/1.0 the end of the connection would pass for the end of the body."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        if how == "raises":
            raise ValueError("an error")
        if how == "is cancelled":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head(f"GET / HTTP/{version}", _HOST))
        await server.idle()
        assert connection.statuses == [200]
        assert connection.transport.aborted
        assert len(server.failures) == (0 if how == "is cancelled" else 1)


@pytest.mark.parametrize(
    "how", ["raises", "returns", "returns a value", "is cancelled", "awaits what is cancelled", "suspends with a head"]
)
@on_a_loop
async def test_an_application_that_fails_before_it_has_answered(how: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> Any:
        if how == "raises":
            raise ValueError("an error")
        if how == "returns a value":
            return 1
        if how == "is cancelled":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)
        if how == "awaits what is cancelled":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        if how == "suspends with a head":
            await send({"type": "http.response.start", "status": 200})
            await asyncio.sleep(0)

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(GET)
        await server.idle()
        assert len(server.failures) == (0 if how == "is cancelled" else 1)
        if how == "suspends with a head":
            assert connection.statuses == [200]
            assert connection.transport.aborted
        else:
            assert connection.statuses == [500]
            assert connection.transport.closed
            assert not connection.transport.aborted


@on_a_loop
async def test_what_an_application_does_after_its_response_does_not_touch_the_next() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> Any:
        await answer(send, b"ok")
        if scope["path"] == "/again":
            await answer(send, b"twice")
        if scope["path"] == "/more":
            await send({"type": "http.response.body", "body": b"twice"})
        if scope["path"] == "/raises":
            raise ValueError("an error")
        return 1

    for path in ("/again", "/more", "/raises", "/value"):
        async with wire(app, config()) as server:
            connection = server.connect()
            connection.feed(head(f"GET {path} HTTP/1.1", _HOST))
            await server.idle()
            connection.feed(head(f"GET {path} HTTP/1.1", _HOST))
            await server.idle()
            assert connection.sent == OK * 2
            assert len(server.failures) == 2


@on_a_loop
async def test_a_head_is_sent_when_the_application_waits_before_it_has_a_body() -> None:
    turn = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await turn.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(GET)
        await until(lambda: connection.sent)
        assert connection.sent == OK[:-2]
        turn.set()
        await server.idle()
        assert connection.sent == OK


@on_a_loop
async def test_a_client_that_takes_everything_lets_others_have_their_turns() -> None:
    begun: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/large":
            begun.append("large")
            await answer(send, *[bytes(65_536)] * 100)
            begun.append("large is over")
        else:
            begun.append("small")
            await answer(send, b"ok")

    async with wire(app, config()) as server:
        large, small = server.connect(), server.connect()
        large.feed(head("GET /large HTTP/1.1", _HOST))
        small.feed(GET)
        await server.idle()
        assert begun == ["large", "small", "large is over"]
        assert large.sent.count(bytes(65_536)) == 100


# Pipelining.


@on_a_loop
async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    app = Holding()
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(b"".join(head(f"GET /{at} HTTP/1.1", _HOST) for at in range(3)))
        await until(lambda: app.begun)
        assert app.begun == ["/0"]
        assert connection.transport.paused
        for path in ("/2", "/1"):
            app.let(path)
        app.let("/0")
        await server.idle()
        assert app.begun == ["/0", "/1", "/2"]
        assert connection.sent == b"".join(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/%d" % at for at in range(3))
        assert not connection.transport.paused


@on_a_loop
async def test_each_pipelined_request_has_its_own_version() -> None:
    """Where their lines are as long, only what each says itself tells them apart."""
    versions: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        versions.append(scope["http_version"])
        await answer(send, b"ok")

    first, second = (head(f"GET /{version} HTTP/{version}", _HOST) for version in ("1.1", "1.0"))
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(first + first + second)
        await server.idle()
    assert versions == ["1.1", "1.1", "1.0"]


@pytest.mark.parametrize("read", [1_000_000, 65_536, 5_000])
@on_a_loop
async def test_thousands_of_pipelined_requests_are_not_held_as_requests(read: int) -> None:
    app = Holding()
    number = 5_000
    requests = b"".join(head(f"GET /{at} HTTP/1.1", _HOST) for at in range(number))
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(*(requests[at : at + read] for at in range(0, len(requests), read)))
        await until(lambda: app.begun)
        assert connection.protocol.requests < 300
        for at in range(number):
            app.let(f"/{at}")
        await server.idle()
        await until(lambda: len(app.begun) == number or connection.flow())
        await server.idle()
        assert app.begun == [f"/{at}" for at in range(number)]
        assert connection.statuses == [200] * number


@pytest.mark.parametrize("size", [1, 10, 3_000])
@on_a_loop
async def test_chunks_are_parsed_in_many_turns(size: int) -> None:
    """Others have theirs in between."""
    app = Recorder()
    chunk = b"%x\r\n" % size + b"x" * size + b"\r\n"
    count = 1_000_000 // len(chunk)
    async with wire(app, config(), at_once_ns=0) as server:
        connection, other = server.connect(), server.connect()
        connection.feed(
            head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: chunked") + chunk * count + b"0\r\n\r\n" + GET
        )
        assert not connection.transport.is_reading()
        other.feed(GET)
        await until(lambda: other.statuses == [200])
        assert connection.statuses == []
        await server.idle()
        await until(lambda: connection.statuses == [200, 200])
        assert connection.transport.is_reading()
        assert app.seen[1].body == b"x" * size * count
        assert server.target.statuses == [0, 0, 3, 0, 0, 0]


@on_a_loop
async def test_much_that_costs_little_to_parse_is_not_read_all_at_once() -> None:
    async with wire(Recorder(), config()) as server:
        connection = server.connect()
        connection.feed(b"\r\n" * 65_536)
        assert connection.transport.paused
        await until(lambda: not connection.transport.paused)
        connection.feed(GET)
        await until(lambda: connection.statuses == [200])


@on_a_loop
async def test_what_waits_to_be_parsed_ends_with_its_connection() -> None:
    chunks = head("POST / HTTP/1.1", _HOST, "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 20_000
    app = Recorder()
    async with wire(app, config(), at_once_ns=0) as server:
        lost, refused = server.connect(), server.connect()
        lost.feed(chunks)
        refused.feed(chunks + b"no chunk\r\n" + GET * 1_000)
        lost.lose()
        await until(lambda: refused.statuses == [400])
        await server.idle()
        assert [seen.body for seen in app.seen] == [None, None]
        assert refused.is_over


@on_a_loop
async def test_a_connection_is_freed_without_the_collector() -> None:
    class Mark:
        pass

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send, b"ok")

    gc.collect()
    gc.disable()
    try:
        async with wire(app, config()) as server:
            marks = []
            for data in (GET, b"no request\r\n\r\n", head("POST / HTTP/1.1", _HOST, "Content-Length: 3")):
                connection = server.connect()
                mark = connection.transport._facts["mark"] = Mark()
                marks.append(weakref.ref(mark))
                del mark
                connection.feed(data)
                await server.idle() if data is GET else await asyncio.sleep(0)
                connection.lose()
                connection.transport._connection = None  # as those of loops forget it
            await server.idle()
            server.connections.clear()
            del connection
            await until(lambda: not any(mark() for mark in marks))
    finally:
        gc.enable()


@pytest.mark.parametrize("together", [0, 100, 10_000, 100_000])
@on_a_loop
async def test_a_pipelined_body_waits_for_its_turn(together: int) -> None:
    """Whether it has come with its head, and is parsed already, or not."""
    app = Holding()
    bodies: list[bytes] = []

    async def reading(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            return await app(scope, receive, send)
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        bodies.append(body)
        await answer(send, b"read")

    async with wire(reading, config()) as server:
        connection = server.connect()
        first = head("GET /first HTTP/1.1", _HOST) + head("POST / HTTP/1.1", _HOST, "Content-Length: 200000")
        connection.feed(first + b"x" * together, b"x" * (100_000 - together))
        await until(lambda: app.begun)
        app.let("/first")
        await until(lambda: connection.statuses == [200])
        connection.feed(b"x" * 100_000)
        await server.idle()
        assert bodies == [b"x" * 200_000]
        assert connection.statuses == [200, 200]


@on_a_loop
async def test_a_refused_request_does_not_take_the_answers_of_those_before_it() -> None:
    app = Holding()
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("GET /0 HTTP/1.1", _HOST) + head("GET /1 HTTP/1.1", _HOST) + b"nonsense\r\n\r\n" + GET)
        app.let("/0")
        app.let("/1")
        await server.idle()
        assert app.begun == ["/0", "/1"]
        assert connection.statuses == [200, 200]
        assert connection.is_over
        assert not connection.transport.aborted


@on_a_loop
async def test_nothing_is_run_that_comes_after_the_last_answer() -> None:
    """Of a connection that closes what follows in the same read gets no answer, so it must not be run either."""
    app = Holding()
    app.let("/0")
    async with wire(app, config(limit_concurrency=1)) as server:
        other = server.connect()
        other.feed(head("GET /other HTTP/1.1", _HOST))
        await until(lambda: app.begun == ["/other"])
        connection = server.connect()
        post = head("POST /0 HTTP/1.1", _HOST, _LENGTH) + b"abc"
        connection.feed(post + head("GET /1 HTTP/1.1", _HOST) * 3)
        assert connection.statuses == [503]
        assert connection.is_over
        app.let("/other")
        await server.idle()
        assert app.begun == ["/other"]
        assert connection.statuses == [503]
        server.tick(10)
        assert connection.transport.aborted, "a client that stays is not waited for"


@on_a_loop
async def test_a_client_that_says_no_more_is_still_answered() -> None:
    app = Holding()
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(b"".join(head(f"GET /{at} HTTP/1.1", _HOST) for at in range(3)))
        connection.end()
        assert not connection.transport.closed
        for at in range(3):
            app.let(f"/{at}")
        await server.idle()
        assert app.begun == ["/0", "/1", "/2"]
        assert connection.statuses == [200, 200, 200]
        assert connection.transport.closed


# What an application does not take.


@on_a_loop
async def test_reading_pauses_while_a_body_is_not_taken() -> None:
    turn = asyncio.Event()
    sizes: list[int] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await turn.wait()
        more = True
        while more:
            event = await receive()
            sizes.append(len(event["body"]))
            more = event["more_body"]
        await answer(send, b"ok")

    async with wire(app, config()) as server:
        connection = server.connect()
        size = 10_000_000
        connection.feed(head("POST / HTTP/1.1", _HOST, f"Content-Length: {size}"))
        for _ in range(size // 50_000):
            connection.feed(b"x" * 50_000)
        assert connection.transport.paused
        held = len(connection.protocol.current.body)
        assert 65_536 < held <= 65_536 + 2 * 50_000
        turn.set()
        await server.idle()
        assert sum(sizes) == size
        assert connection.statuses == [200]


@on_a_loop
async def test_what_an_early_answer_leaves_of_a_body_is_dropped_and_the_connection_goes_on() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"ok")

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", _HOST, "Content-Length: 150000") + b"x" * 70_000)
        await until(lambda: connection.sent == OK)
        connection.feed(b"x" * 70_000, b"x" * 10_000 + GET)
        await server.idle()
        assert connection.sent == OK * 2


@pytest.mark.parametrize("rest", ["in one read", "in many", "with another request"])
@pytest.mark.parametrize("size", [600_000, 262_244])  # that is in the last read of what is too much
@on_a_loop
async def test_after_an_early_answer_not_any_amount_is_read(rest: str, size: int) -> None:
    app = Holding()
    app.let("/0")
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("POST /0 HTTP/1.1", _HOST, f"Content-Length: {size}"))
        await until(lambda: connection.sent)
        if rest == "in many":
            connection.feed(*[b"x" * 1_000] * (size // 1_000), b"x" * (size % 1_000))
        else:
            connection.feed(b"x" * size + (head("GET /1 HTTP/1.1", _HOST) if rest == "with another request" else b""))
        await asyncio.sleep(0)
        assert connection.is_over
        assert app.begun == ["/0"]
        assert connection.statuses == [200]
        server.tick(10)
        assert connection.transport.aborted, "a client that stays is not waited for"


@on_a_loop
async def test_sending_waits_while_the_client_takes_nothing() -> None:
    sent = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"x" * 1_000, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.protocol.pause_writing()
        connection.feed(GET)
        await until(lambda: connection.sent)
        for _ in range(5):
            await asyncio.sleep(0)
        assert sent == 0
        connection.protocol.resume_writing()
        await server.idle()
        assert sent == 5


@on_a_loop
async def test_a_client_that_leaves_ends_the_waits_of_its_application() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/receive":
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            assert await receive() == {"type": "http.disconnect"}
            await answer(send, b"to nobody")
        else:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b"y", "more_body": True})
        ended.append(scope["path"])

    async with wire(app, config()) as server:
        for path in ("/receive", "/send"):
            connection = server.connect()
            connection.protocol.pause_writing()
            connection.feed(head(f"GET {path} HTTP/1.1", _HOST))
            await until(lambda: connection.protocol.current.asked or connection.sent)  # noqa: B023
            connection.lose(ConnectionResetError())
            await server.idle()
            assert ended.pop() == path
        assert server.failures == []
        assert server.target.statuses == [1, 0, 1, 0, 0, 0]


# 100 Continue, h2c.


@on_a_loop
async def test_continue_is_said_when_the_body_is_asked_for() -> None:
    turn = asyncio.Event()
    recorder = Recorder()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await turn.wait()
        await recorder(scope, receive, send)

    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", _HOST, _LENGTH, "Expect: 100-continue"))
        await until(lambda: server.target.running)
        await asyncio.sleep(0)
        assert connection.sent == b""
        turn.set()
        await until(lambda: connection.sent)
        assert connection.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.feed(b"abc" + GET)
        await server.idle()
        assert connection.sent == b"HTTP/1.1 100 Continue\r\n\r\n" + OK * 2
        assert [seen.body for seen in recorder.seen] == [b"abc", b""]


@on_a_loop
async def test_without_continue_a_client_may_send_its_body_or_not() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"no", status=403)

    connection, _ = await ask(head("POST / HTTP/1.1", _HOST, _LENGTH, "Expect: 100-continue"), app)
    assert connection.sent == b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    assert connection.is_over_before_leaving


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_a_loop
async def test_continue_is_for_bodies_and_for_11(version: str) -> None:
    fields = [_HOST, "Expect: 100-continue", "Connection: keep-alive", *([_LENGTH] if version == "1.0" else [])]
    connection, recorder = await ask(head(f"POST / HTTP/{version}", *fields) + (b"abc" if version == "1.0" else b""))
    assert b"100 Continue" not in connection.sent
    assert connection.statuses == [200]
    assert len(recorder.seen) == 1
    assert not connection.is_over_before_leaving


@pytest.mark.parametrize("size", [3, 300_000])
@pytest.mark.parametrize("read", [1_000_000, 1_000, 1])
@on_a_loop
async def test_an_offer_of_another_protocol_is_no_matter(size: int, read: int) -> None:
    if read == 1 and size > 3:
        size = 5_000
    fields = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"]
    request = head("POST /up HTTP/1.1", _HOST, *fields, f"Content-Length: {size}") + b"x" * size
    recorder = Recorder()
    async with wire(recorder, config()) as server:
        connection = server.connect()
        stream = request + GET + request + GET
        for at in range(0, len(stream), read):
            connection.feed(stream[at : at + read])
            if connection.transport.paused:
                await asyncio.sleep(0)
        await server.idle()
        await until(lambda: len(recorder.seen) == 4 or connection.flow())
        await server.idle()
        assert [(seen.method, seen.body) for seen in recorder.seen] == [("POST", b"x" * size), ("GET", b"")] * 2
        assert connection.sent == OK * 4


# Times.


@on_a_loop
async def test_a_slow_head_is_ended() -> None:
    connection, recorder = None, Recorder()
    async with wire(recorder, config(timeout_request_header=10)) as server:
        connection = server.connect()
        connection.feed(b"GET / HTTP/1.1\r\n")
        for at in range(9):
            server.tick(1)
            connection.feed(b"X-%d: y\r\n" % at)
        assert not connection.is_over
        server.tick(3)
        assert connection.statuses == [408]
        assert connection.is_over
        assert recorder.seen == []


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
@on_a_loop
async def test_a_client_that_asks_nothing_is_ended(sent: bytes) -> None:
    async with wire(Recorder(), config(timeout_request_header=10)) as server:
        connection = server.connect()
        for _ in range(9):
            connection.feed(sent)
            server.tick(1)
        assert not connection.is_over
        server.tick(3)
        assert connection.is_over
        assert connection.statuses in ([], [408])


@on_a_loop
async def test_an_idle_connection_is_ended() -> None:
    async with wire(Recorder(), config(timeout_keep_alive=5)) as server:
        connection = server.connect()
        for _ in range(3):
            connection.feed(GET)
            await server.idle()
            server.tick(4)
            assert not connection.is_over
        server.tick(3)
        assert connection.transport.closed
        assert connection.sent == OK * 3


@on_a_loop
async def test_a_slow_body_is_ended_while_it_is_asked_for() -> None:
    recorder = Recorder()
    async with wire(recorder, config(timeout_request_body=30)) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", _HOST, "Content-Length: 100"))
        await until(lambda: connection.protocol.current.asked)
        for _ in range(3):
            server.tick(29)
            assert not connection.is_over
            connection.feed(b"x")
            await until(lambda: connection.protocol.current.asked)
        server.tick(32)
        assert connection.transport.aborted
        await server.idle()
        assert [seen.body for seen in recorder.seen] == [None]


@on_a_loop
async def test_an_application_may_take_its_time() -> None:
    app = Holding()
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head("POST /0 HTTP/1.1", _HOST, _LENGTH))
        await until(lambda: app.begun)
        server.tick(1_000)
        assert not connection.is_over
        app.let("/0")
        await server.idle()
        assert connection.statuses == [200]


@on_a_loop
async def test_a_client_that_takes_nothing_is_ended() -> None:
    async with wire(Recorder(), config(timeout_response=60)) as server:
        connection = server.connect()
        connection.feed(GET)
        await server.idle()
        for left in (1_000, 900, 800):
            connection.transport.buffered = left
            server.tick(4)
            connection.feed(GET)  # so that it is not idle
            await server.idle()
        for _ in range(15):
            server.tick(4)
            connection.feed(GET)
            await server.idle()
        server.tick(4)
        assert connection.transport.aborted


@on_a_loop
async def test_the_end_of_a_connection_waits_for_what_its_client_still_takes() -> None:
    """Of a request whose body was not read, too, though that connection lingers."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 1_000_000, headers=((b"connection", b"close"),))

    async with wire(app, config(timeout_response=60)) as server:
        connection = server.connect()
        connection.feed(head("POST / HTTP/1.1", _HOST, "Content-Length: 100"))
        await server.idle()
        for left in range(100, 0, -1):
            connection.transport.buffered = left * 10_000
            server.tick(1)
            assert not connection.transport.aborted
        connection.transport.buffered = 0
        server.tick(10)
        assert connection.transport.aborted


# The stop.


class Accepted:
    """What the server has of a connection beside its protocol: a socket, in which nothing is unread."""

    def __init__(self, connection: Connection) -> None:
        self.transport = connection.transport
        self.begun_at = 0.0
        self.idle_since: float | None = None
        self._ends = socket.socketpair()

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def is_receiving(self) -> bool:
        return False

    def close(self) -> None:
        for end in self._ends:
            end.close()


@on_a_loop
async def test_at_the_stop_a_connection_is_closed_when_it_was_idle_for_a_moment() -> None:
    """A request that was on its way when the stop began is answered, as the last one."""
    async with wire(Recorder(), config()) as server:
        connection = server.connect()
        connection.feed(GET)
        await server.idle()
        accepted = Accepted(connection)
        try:
            assert not server.http.settle(accepted, 100.0)  # type: ignore[arg-type]
            assert not server.http.settle(accepted, 100.04)  # type: ignore[arg-type]
            assert not connection.is_over
            connection.feed(GET)
            await server.idle()
            assert connection.sent == OK + OK.replace(b"\r\n\r\nok", b"\r\nconnection: close\r\n\r\nok")
            assert connection.transport.closed

            other = server.connect()
            quiet = Accepted(other)
            other.feed(GET[:10])
            assert not server.http.settle(quiet, 101.0)  # type: ignore[arg-type]
            assert not server.http.settle(quiet, 102.0)  # type: ignore[arg-type]
            other.lose()
            quiet.close()

            idle = server.connect()
            silent = Accepted(idle)
            assert not server.http.settle(silent, 110.0)  # type: ignore[arg-type]
            assert not server.http.settle(silent, 110.04)  # type: ignore[arg-type]
            assert server.http.settle(silent, 110.06)  # type: ignore[arg-type]
            assert idle.transport.closed
            silent.close()
        finally:
            accepted.close()


# Any split of the same bytes, and mutations of them. More of both: `tests.reliability`, http-splits and http-mutated.


@hypothesis.settings(max_examples=300)
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_cut_anywhere_a_stream_is_the_same_requests(choices: random.Random) -> None:
    data = stream(choices)
    reads = cut(choices, data)

    async def body() -> None:
        recorder = Recorder()
        async with wire(recorder) as server:
            whole, parts = await outcomes(server, recorder, [[data], reads])
        assert parts == whole

    asyncio.run(body())


@hypothesis.settings(max_examples=300)
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_a_mutated_stream_is_what_another_parser_takes_it_for_or_refused_for_a_reason(choices: random.Random) -> None:
    data = mutated(choices)

    async def body() -> None:
        recorder = Recorder()
        async with wire(recorder) as server:
            (outcome,) = await outcomes(server, recorder, [[data]])
        difference = compare(data, outcome, ask_h11(data))
        assert difference is None or difference.reason is not None, difference

    asyncio.run(body())
