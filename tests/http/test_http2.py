from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from clockworker.http import _http2
from clockworker.http._http2 import AT_ONCE_NS, MOST_STREAMS
from clockworker.http._http2_frames import PREFACE
from clockworker.http._http2_stream import WINDOW
from clockworker.shards.config._http import HttpConfig
from tests.conftest import Run, until
from tests.http.http2 import ASKED, Client, cancel_all, wire
from tests.http.wire import Recorder

START = {"type": "http.response.start", "status": 200, "headers": []}


def config(**values: Any) -> HttpConfig:
    return HttpConfig(date_header=False, server_header=False, **values)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": bytearray(b"hello " + scope["path"].encode())})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """As it comes."""
    await send(START)
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return
        more = event["more_body"]
        await send({"type": "http.response.body", "body": event["body"], "more_body": more})


class Held:
    """An application whose requests wait until the test lets them go on, each by its path."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}
        self.seen: list[Any] = []

    def let(self, path: str) -> None:
        self.events[path].set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        event = self.events[scope["path"]] = asyncio.Event()
        await event.wait()
        await hello(scope, receive, send)


# Requests and responses.


def test_a_stream_is_a_request_with_a_scope(run: Run) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            cookies = [(b"cookie", b"a=1"), (b"x-one", b"1"), (b"cookie", b"b=2")]
            stream = client.ask("/a%20b?x=1&y=%20", "GET", *cookies, (b"te", b"trailers"))
            await server.idle()
            answer = client.answer(stream)
            assert (answer.status, answer.body, answer.ended, answer.reset) == (200, b"hello /a b", True, None)
            assert answer.headers == [(b"content-length", b"10")]

    run(body)
    (scope,) = scopes
    headers = [(b"host", b"example.com"), (b"cookie", b"a=1; b=2"), (b"x-one", b"1"), (b"te", b"trailers")]
    expected = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "server": ("192.0.2.1", 80),
        "client": ("192.0.2.7", 4711),
        "scheme": "https",
        "root_path": "",
        "headers": headers,
        "state": {},
        "method": "GET",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=1&y=%20",
    }
    extensions = scope.pop("extensions")
    assert scope == expected
    assert extensions["tls"]["tls_version"] == 0x0304
    assert extensions["tls"]["cipher_suite"] == 0x1302
    assert type(scope["headers"][1]) is tuple


def test_a_stream_does_not_wait_for_another(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            slow, fast = client.ask("/slow"), client.ask("/fast")
            await until(lambda: len(app.events) == 2)
            app.let("/fast")
            await until(lambda: client.answer(fast).ended)
            assert not client.answer(slow).status
            app.let("/slow")
            await server.idle()
            assert client.answer(slow).body == b"hello /slow"
            assert server.target.statuses == [0, 0, 2, 0, 0, 0]

    run(body)


def test_a_body_is_taken_beyond_a_window_and_windows_open_as_it_is(run: Run) -> None:
    data = bytes(range(256)) * 1_200

    async def body() -> None:
        async with wire(echo) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            sent = 0
            while sent < len(data):
                await until(lambda: client.answer(stream) and client.h2.local_flow_control_window(stream) > 0)
                part = data[sent : sent + min(client.h2.local_flow_control_window(stream), 16_384)]
                sent += len(part)
                client.send(stream, part, ended=sent == len(data))
            await server.idle()
            assert client.answer(stream).body == data
            assert client.answer(stream).ended

    run(body)


def test_a_body_that_nobody_takes_fills_its_own_window_and_no_other(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            full = [client.ask(f"/{number}", "POST", ended=False) for number in range(20)]
            for stream in full:
                client.send(stream, bytes(WINDOW))
                await client.taken()
            assert {client.h2.local_flow_control_window(stream) for stream in full} == {0}
            other = client.ask("/other", "POST", ended=False)
            client.send(other, bytes(WINDOW), ended=True)
            await until(lambda: len(app.events) == 21)
            app.let("/other")
            await until(lambda: client.answer(other).ended)
            for path in app.events:
                app.let(path)
            await server.idle()
            answers = [client.answer(stream) for stream in full]
            assert {(answer.status, answer.reset) for answer in answers} == {(200, ErrorCodes.NO_ERROR)}

    run(body)


def test_a_response_waits_for_windows(run: Run) -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(20):
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
            sent.append(10_000)
        await send({"type": "http.response.body", "body": b"end"})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server, acknowledges=False)
            stream = client.ask()
            await until(lambda: len(client.answer(stream).body) == WINDOW)
            assert sum(sent) == 60_000
            assert server.target.running == 1
            client.h2.increment_flow_control_window(200_000)
            client.h2.increment_flow_control_window(200_000, stream)
            await server.idle()
            assert client.answer(stream).body == bytes(200_000) + b"end"
            assert server.target.statuses[2] == 1

    run(body)


def test_a_large_response_waits_after_its_task_has_ended_and_is_counted_when_it_is_sent(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": bytes(100_000)})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server, acknowledges=False)
            stream = client.ask()
            await server.idle()
            assert len(client.answer(stream).body) == WINDOW
            assert server.target.statuses[2] == 0
            assert client.protocol.is_busy
            client.h2.increment_flow_control_window(50_000)
            client.h2.increment_flow_control_window(50_000, stream)
            assert client.answer(stream).ended
            assert server.target.statuses[2] == 1
            assert not client.protocol.is_busy

    run(body)


def test_large_responses_take_turns_and_a_small_one_does_not_wait_for_them(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": bytes(16_384 * 4 if scope["path"] == "/large" else 10)})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            client.h2.increment_flow_control_window(10_000_000)
            client.flow()
            client.transport.slow = True
            client.transport.mark = 0
            client.transport.write(b"\0\0\x08\x06\x01\0\0\0\0" + bytes(8))  # the transport has something, and is full
            large = [client.ask("/large") for _ in range(3)]
            await server.idle()
            small = client.ask("/small")
            await server.idle()
            assert not any(client.answer(stream).body for stream in (*large, small))
            order = []
            while not all(client.answer(stream).ended for stream in (*large, small)):
                before = len(client.frames)
                client.transport.take()
                client.flow()
                order += [frame.stream_id for frame in client.frames[before:] if isinstance(frame, DataFrame)]
            assert order == [*large, small, *large, *large, *large]

    run(body)


def test_what_has_no_body(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = int(scope["path"][1:])
        await send({"type": "http.response.start", "status": status, "headers": []})
        if scope["query_string"]:
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"abc"})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            for query in ("", "?late"):
                head, none = client.ask("/200" + query, "HEAD"), client.ask("/204" + query)
                unchanged, there = client.ask("/304" + query), client.ask("/200" + query)
                await server.idle()
                answers = [client.answer(stream) for stream in (head, none, unchanged, there)]
                assert [(answer.status, answer.body, answer.ended) for answer in answers] == [
                    (200, b"", True),
                    (204, b"", True),
                    (304, b"", True),
                    (200, b"abc", True),
                ]
                if not query:
                    assert answers[0].header(b"content-length") == b"3"
                    assert answers[1].header(b"content-length") is None

    run(body)


def test_trailers_are_no_headers_and_end_the_body(run: Run) -> None:
    app = Recorder()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            client.send(stream, b"body")
            client.h2.send_headers(stream, [(b"x-forwarded-for", b"192.0.2.99")], end_stream=True)
            await server.idle()
            assert client.answer(stream).status == 200

    run(body)
    (seen,) = app.seen
    assert seen.body == b"body"
    assert seen.headers == ((b"host", b"example.com"),)


def test_a_body_is_asked_for_before_it_is_sent(run: Run) -> None:
    app = Recorder()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask("/", "POST", (b"expect", b"100-continue"), ended=False)
            await until(lambda: client.answer(stream).informational == [100])
            client.send(stream, b"body", ended=True)
            await server.idle()
            assert client.answer(stream).status == 200

    run(body)
    assert app.seen[0].body == b"body"


def test_headers_of_responses(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"Server", b"mine"),
            (b"connection", b"close"),
            (b"Transfer-Encoding", b"chunked"),
            (b"keep-alive", b"5"),
        ]
        headers += [(b"x-a", b" b "), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
        await send({**START, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def body() -> None:
        async with wire(app, HttpConfig(headers=(("X-Own", "1"),))) as server:
            client = Client(server)
            stream = client.ask()
            await server.idle()
            names = [name for name, _ in client.answer(stream).headers]
            expected = [b"date", b"x-own", b"server", b"x-a", b"set-cookie", b"set-cookie", b"content-length"]
            assert names == expected
            assert client.answer(stream).header(b"server") == b"mine"
            assert client.answer(stream).header(b"x-a") == b"b"

    run(body)


WRONG = {
    "nothing": ([], 500, "returned without starting"),
    "status": ([{**START, "status": 101}], 500, "the status of a response is 101"),
    "name": ([{**START, "headers": [(b"a b", b"")]}], 500, "Invalid HTTP header name"),
    "value": ([{**START, "headers": [(b"a", b"\n")]}], 500, "Invalid HTTP header value"),
    "long": ([{**START, "headers": [(b"content-length", b"1")]}, b"ab"], None, "longer than Content-Length"),
    "short": ([{**START, "headers": [(b"content-length", b"3")]}, b"ab"], None, "shorter than Content-Length"),
    "incomplete": ([START, ...], None, "returned without completing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_applications_that_fail(run: Run, what: str) -> None:
    events, status, message = WRONG[what]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for event in events:
            if event is ...:
                await send({"type": "http.response.body", "body": b"ab", "more_body": True})
            else:
                await send({"type": "http.response.body", "body": event} if isinstance(event, bytes) else event)

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask()
            await server.idle()
            answer = client.answer(stream)
            if status is None:
                assert (answer.status, answer.ended, answer.reset) == (200, False, ErrorCodes.INTERNAL_ERROR)
            else:
                assert (answer.status, answer.ended, answer.reset) == (status, True, None)
            assert not client.is_over
            assert client.protocol.current is None
            (failure,) = server.failures
            assert message in failure or failure == "Exception in ASGI application"

    run(body)


def test_a_response_before_the_end_of_the_body_asks_for_no_more_of_it(run: Run) -> None:
    async def body() -> None:
        async with wire(hello) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            await server.idle()
            answer = client.answer(stream)
            assert (answer.status, answer.ended, answer.reset) == (200, True, ErrorCodes.NO_ERROR)
            data = DataFrame(stream, bytes(16_384), flags=["END_STREAM"])
            client.raw(data)  # was on its way
            assert not client.is_over
            other = client.ask()
            await server.idle()
            assert client.answer(other).status == 200

    run(body)


def test_a_client_that_resets_has_left(run: Run) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (event := await receive())["type"] == "http.request":
            seen.append(event["type"])
        seen.append(event["type"])
        await send(START)
        await send({"type": "http.response.body", "body": b"nobody sees it"})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            client.send(stream, b"part")
            await until(lambda: seen)
            client.reset(stream)
            await server.idle()
            assert seen == ["http.request", "http.disconnect"]
            assert not client.answer(stream).status
            assert server.target.statuses == [1, 0, 0, 0, 0, 0]
            assert not server.failures

    run(body)


def test_requests_that_wait_for_their_turn(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app, limit=1, most_waiting=2) as server:
            client = Client(server)
            first, second, third, fourth = (client.ask(f"/{number}") for number in range(4))
            await until(lambda: app.events)
            assert client.answer(fourth).status == 503
            assert client.answer(fourth).header(b"retry-after") == b"1"
            assert server.target.waiting == 2
            client.reset(second)
            assert server.target.waiting == 1
            app.let("/0")
            await until(lambda: "/2" in app.events)
            app.let("/2")
            await server.idle()
            assert client.answer(first).status == client.answer(third).status == 200
            assert "/1" not in app.events

    run(body)


# Heads that are refused.

MALFORMED = {
    "no method": [*ASKED[1:]],
    "no scheme": [ASKED[0], *ASKED[2:]],
    "no path": ASKED[:3],
    "no authority": [*ASKED[:2], ASKED[3]],
    "empty path": [*ASKED[:3], (b":path", b"")],
    "relative path": [*ASKED[:3], (b":path", b"a")],
    "path with a space": [*ASKED[:3], (b":path", b"/a b")],
    "path in UTF-8": [*ASKED[:3], (b":path", "/é".encode())],
    "GET *": [*ASKED[:3], (b":path", b"*")],
    "CONNECT": [(b":method", b"CONNECT"), ASKED[2]],
    "CONNECT with a path": [(b":method", b"CONNECT"), *ASKED[1:]],
    "method": [(b":method", b"G T"), *ASKED[1:]],
    "authority": [*ASKED[:2], (b":authority", b"a@b"), ASKED[3]],
    "two methods": [ASKED[0], *ASKED],
    "unknown pseudo header": [*ASKED, (b":x", b"")],
    "protocol": [*ASKED, (b":protocol", b"websocket")],
    "pseudo header after others": [*ASKED[:3], (b"a", b"b"), ASKED[3]],
    "status": [*ASKED, (b":status", b"200")],
    "upper case": [*ASKED, (b"Accept", b"*")],
    "empty name": [*ASKED, (b"", b"a")],
    "space in a name": [*ASKED, (b"a b", b"")],
    "colon in a name": [*ASKED, (b"a:", b"")],
    "line in a value": [*ASKED, (b"a", b"b\r\nc: d")],
    "NUL": [*ASKED, (b"a", b"\0")],
    "space before a value": [*ASKED, (b"a", b" b")],
    "connection": [*ASKED, (b"connection", b"close")],
    "transfer-encoding": [*ASKED, (b"transfer-encoding", b"chunked")],
    "upgrade": [*ASKED, (b"upgrade", b"websocket")],
    "te": [*ASKED, (b"te", b"gzip")],
    "another host": [*ASKED, (b"host", b"other.com")],
    "two hosts": [*ASKED[:2], ASKED[3], (b"host", b"a"), (b"host", b"a")],
}


def test_a_malformed_head_ends_its_stream_alone(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            asked = client.ask("/before")
            for what, head in MALFORMED.items():
                bad = client.h2.get_next_available_stream_id()
                client.raw(HeadersFrame(bad, client.h2.encoder.encode(head), flags=["END_STREAM", "END_HEADERS"]))
                client.h2.highest_outbound_stream_id = bad
                resets = [frame for frame in client.frames if isinstance(frame, RstStreamFrame)]
                assert [frame.stream_id for frame in resets] == [*range(asked + 2, bad + 2, 2)], what
                assert resets[-1].error_code == ErrorCodes.PROTOCOL_ERROR
                client.protocol.frames.earn(10)
            after = client.ask("/after")
            await until(lambda: len(app.events) == 2)
            for path in app.events:
                app.let(path)
            await server.idle()
            assert client.answer(asked).status == client.answer(after).status == 200
            assert server.target.statuses == [0, 0, 2, 0, len(MALFORMED), 0]

    run(body)


TOO_LARGE = {
    "line": ("/" + "a" * 200, (), 414),
    "field": ("/", ((b"a", b"b" * 200),), 431),
    "fields": ("/", tuple((b"a%d" % number, b"") for number in range(10)), 431),
    "cookies": ("/", tuple((b"cookie", b"a=%d" % number) for number in range(30)), 431),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_head_that_is_too_large(run: Run, what: str) -> None:
    path, headers, status = TOO_LARGE[what]
    limits = config(limit_request_line=100, limit_request_field_size=100, limit_request_fields=10)

    async def body() -> None:
        async with wire(hello, limits) as server:
            client = Client(server)
            large, upload = client.ask(path, "GET", *headers), client.ask(path, "POST", *headers, ended=False)
            fits = client.ask("/" + "a" * 80, "GET", *headers[:5])
            await server.idle()
            assert [client.answer(stream).status for stream in (large, upload)] == [status, status]
            assert client.answer(upload).reset == ErrorCodes.NO_ERROR
            assert client.answer(fits).status == (431 if what == "field" else 200)

    run(body)


# Clients that are hostile.


def request_head(client: Client) -> bytes:
    return client.h2.encoder.encode(ASKED)


FLOODS: dict[str, Any] = {
    "PING": lambda client: PingFrame(0, bytes(8)),
    "answers to PING": lambda client: PingFrame(0, bytes(8), flags=["ACK"]),
    "SETTINGS": lambda client: SettingsFrame(0),
    "SETTINGS with much in it": lambda client: SettingsFrame(0, {4: 65_535, 5: 16_384, 6: 1_000}),
    "PRIORITY": lambda client: PriorityFrame(1, depends_on=3),
    "empty DATA": lambda client: DataFrame(1, b""),
    "padded DATA": lambda client: DataFrame(1, b"", pad_length=5, flags=["PADDED"]),
    "WINDOW_UPDATE": lambda client: WindowUpdateFrame(0, window_increment=1),
    "unknown frames": lambda client: b"\0\0\0\xee\0\0\0\0\0",
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_of_frames_that_ask_for_nothing(run: Run, what: str) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            await until(lambda: app.events)
            frame = FLOODS[what](client)
            server.tick(100)  # nobody saves more than a purse holds
            flood = (frame if isinstance(frame, bytes) else frame.serialize()) * 100
            for _ in range(20):
                client.raw(flood)
                await client.taken()
            assert client.codes == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert client.is_over
            assert server.target.statuses == [1, 0, 0, 0, 1, 0]
            app.let("/")
            await server.idle()
            assert not client.answer(stream).status

    run(body)


def test_time_and_answers_pay_for_such_frames(run: Run) -> None:
    async def body() -> None:
        async with wire(hello) as server:
            client = Client(server)
            client.ask()
            await server.idle()
            ping = PingFrame(0, bytes(8)).serialize()
            for _ in range(15):
                client.raw(ping * 100)
                await client.taken()
                client.ask("/")
                await server.idle()
                server.tick(1)
                assert not client.is_over, (client.codes, _, client.protocol.frames._purse)

    run(body)


def test_streams_that_are_reset_at_once(run: Run) -> None:
    """CVE-2023-44487: a client that opens and resets streams makes more work than it has."""
    begun = 0

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def body() -> None:
        async with wire(counting) as server:
            client = Client(server, begins=False)
            client.raw(PREFACE + SettingsFrame(0).serialize())
            client.raw(HeadersFrame(1, request_head(client), flags=["END_HEADERS"]))
            head = request_head(client)  # all of it is in the table by now
            for number in range(3, 2_001, 2):
                client.raw(
                    HeadersFrame(number, head, flags=["END_STREAM", "END_HEADERS"]).serialize()
                    + RstStreamFrame(number, 8).serialize()
                )
                await asyncio.sleep(0)
                if client.is_over:
                    break
            assert client.codes == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert number < 500
            assert begun <= MOST_STREAMS
            cancel_all()

    run(body)


def test_streams_that_the_server_has_to_reset(run: Run) -> None:
    """CVE-2025-8671: the client does not reset them itself, but has the server do so."""

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def body() -> None:
        async with wire(never) as server:
            client = Client(server, begins=False)
            client.raw(PREFACE + SettingsFrame(0).serialize())
            client.raw(HeadersFrame(1, request_head(client), flags=["END_HEADERS"]))
            head = request_head(client)
            for number in range(3, 2_001, 2):
                client.raw(
                    HeadersFrame(number, head, flags=["END_STREAM", "END_HEADERS"]).serialize()
                    + WindowUpdateFrame(number, window_increment=2**31 - 1).serialize()
                )
                await asyncio.sleep(0)
                if client.is_over:
                    break
            assert client.codes == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert number < 500
            cancel_all()

    run(body)


def test_no_more_streams_than_are_allowed(run: Run) -> None:
    """Those that their client has reset count, too, as long as their requests run. More are refused, which it may try again."""
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            streams = [client.ask(f"/{number}") for number in range(MOST_STREAMS)]
            await until(lambda: len(app.events) == MOST_STREAMS)
            client.reset(streams[0])
            refused = client.ask("/refused")
            assert client.answer(refused).reset == ErrorCodes.REFUSED_STREAM
            app.let("/0")
            await until(lambda: server.target.running == MOST_STREAMS - 1)
            again = client.ask("/again")
            await until(lambda: "/again" in app.events)
            assert "/refused" not in app.events
            for path in app.events:
                app.let(path)
            await server.idle()
            assert client.answer(again).status == 200

    run(body)


def test_more_streams_before_the_limit_is_known(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server, begins=False)
            client.raw(PREFACE + SettingsFrame(0).serialize())
            begin = HeadersFrame(1, client.h2.encoder.encode(ASKED), flags=["END_STREAM", "END_HEADERS"])
            client.raw(begin)
            begin.data = client.h2.encoder.encode(ASKED)
            for _ in range(MOST_STREAMS + 10):
                begin.stream_id += 2
                client.raw(begin)
                await asyncio.sleep(0)
            refused = [frame for frame in client.frames if isinstance(frame, RstStreamFrame)]
            assert [frame.error_code for frame in refused] == [ErrorCodes.REFUSED_STREAM] * 11
            assert refused[0].stream_id == 2 * MOST_STREAMS + 1
            assert not client.is_over
            client.lose()
            cancel_all()

    run(body)


BROKEN: dict[str, tuple[bytes, ErrorCodes]] = {
    "HTTP/1.1": (b"GET / HTTP/1.1\r\n\r\n", ErrorCodes.PROTOCOL_ERROR),
    "no SETTINGS": (PREFACE + PingFrame(0, bytes(8)).serialize(), ErrorCodes.PROTOCOL_ERROR),
    "a long frame": (b"\xff\xff\xff\0\0\0\0\0\1", ErrorCodes.FRAME_SIZE_ERROR),
    "a head without end": (
        HeadersFrame(1, b"").serialize() + ContinuationFrame(1, bytes(16_384)).serialize() * 5,
        ErrorCodes.ENHANCE_YOUR_CALM,
    ),
    "empty parts of a head": (
        HeadersFrame(1, b"").serialize() + ContinuationFrame(1, b"").serialize() * 100,
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "a frame inside a head": (
        HeadersFrame(1, b"").serialize() + PingFrame(0, bytes(8)).serialize(),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "a GOAWAY inside a head": (
        HeadersFrame(1, b"").serialize() + GoAwayFrame(0).serialize(),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "a stream of the server's": (
        HeadersFrame(2, b"\x82", flags=["END_HEADERS"]).serialize(),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "DATA without a stream": (DataFrame(1, b"a").serialize(), ErrorCodes.PROTOCOL_ERROR),
    "no HPACK": (
        HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"]).serialize(),
        ErrorCodes.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_http2_ends_the_connection(run: Run, what: str) -> None:
    data, code = BROKEN[what]

    async def body() -> None:
        async with wire(hello) as server:
            client = Client(server, begins=what not in ("HTTP/1.1", "no SETTINGS"))
            client.raw(data)
            await client.taken()
            assert client.codes == [code]
            assert client.is_over
            assert server.target.statuses == [0, 0, 0, 0, 1, 0]

    run(body)


def test_a_head_that_unpacks_to_much(run: Run) -> None:
    """4 KiB in the table, and a byte for each time it is meant."""

    async def body() -> None:
        async with wire(hello) as server:
            client = Client(server)
            encoder = client.h2.encoder
            block = encoder.encode([*ASKED, (b"a", b"b" * 4_000)]) + encoder.encode([(b"a", b"b" * 4_000)]) * 1_000
            client.raw(HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
            await client.taken()
            assert client.codes == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert client.is_over

    run(body)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\x20" * 16_000 + b"\x82", ErrorCodes.PROTOCOL_ERROR),
        (b"\x82" * 1_000, ErrorCodes.ENHANCE_YOUR_CALM),
        (b"\x00\x01a\x01b" * 1_000, ErrorCodes.ENHANCE_YOUR_CALM),
    ],
    ids=["changes of the table's size", "indexed fields", "literals"],
)
def test_a_head_of_many_small_parts(run: Run, block: bytes, code: ErrorCodes) -> None:
    async def body() -> None:
        async with wire(hello) as server:
            client = Client(server)
            client.raw(HeadersFrame(1, block, flags=["END_STREAM", "END_HEADERS"]))
            await client.taken()
            assert client.codes == [code]
            assert client.is_over
            assert server.target.statuses == [0, 0, 0, 0, 1, 0]

    run(body)


def test_of_a_client_at_fault_nothing_more_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it has the time to see why."""

    async def body() -> None:
        async with wire(hello) as server:
            monkeypatch.setattr(_http2, "HEARD_S", 0.01)
            client = Client(server)
            client.raw(PingFrame(0, bytes(8)).serialize() * 1_100)
            assert client.codes == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert not client.is_over
            assert not client.transport.is_reading()
            assert not client.protocol.is_busy
            await until(lambda: client.is_over)

    run(body)


def test_windows_that_open_by_a_byte(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost little, however many streams wait."""
    looks = 0
    window = H2Connection.local_flow_control_window

    def counted(self: H2Connection, stream_id: int) -> int:
        nonlocal looks
        looks += 1
        return window(self, stream_id)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": bytes(10_000)})

    async def body() -> None:
        nonlocal looks
        async with wire(large) as server:
            client = Client(server, acknowledges=False)
            streams = [client.ask() for _ in range(90)]
            await server.idle()
            waiting = [each for each in streams if not client.answer(each).ended]
            assert len(waiting) > 80
            looks = 0
            for number in (None, waiting[-1]):
                for _ in range(100):
                    client.h2.increment_flow_control_window(1, number)
                    client.flow()
            assert 100 <= looks <= 400
            client.h2.increment_flow_control_window(1_000_000)
            client.flow()
            await until(lambda: all(client.answer(each).ended for each in waiting))
            assert {client.answer(each).body for each in waiting} == {bytes(10_000)}
            server.tick(0)

    monkeypatch.setattr(H2Connection, "local_flow_control_window", counted)
    run(body)


def test_what_a_client_has_made_of_memory_is_freed_without_the_collector(run: Run) -> None:
    class Mark:
        pass

    marks: list[weakref.ref[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        mark = scope["mark"] = Mark()
        marks.append(weakref.ref(mark))
        del mark
        if scope["path"] == "/waits":
            while (await receive())["type"] == "http.request":
                pass
        else:
            await hello(scope, receive, send)

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            answered = client.ask()
            reset = client.ask("/waits")
            client.ask("/waits")
            await until(lambda: len(marks) == 3)
            client.reset(reset)
            await until(lambda: client.answer(answered).ended)
            await until(lambda: marks[0]() is None)
            streams = [weakref.ref(stream) for stream in client.protocol.h2.streams.values()]
            assert any(stream() for stream in streams)
            client.lose()
            await until(lambda: not any(mark() for mark in marks))
            assert not any(stream() for stream in streams)

    gc.collect()
    gc.disable()
    try:
        run(body)
    finally:
        gc.enable()


def test_a_table_is_no_larger_than_ours(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"x", scope["path"].encode())]})
        await send({"type": "http.response.body", "body": b""})

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            client.h2.update_settings({1: 1_000_000})
            client.flow()
            for number in range(50):
                stream = client.ask(f"/{number}" + "a" * 1_000)
                await server.idle()
                assert client.answer(stream).status == 200
            assert client.protocol.h2.encoder.header_table_size == 4_096

    run(body)


def test_what_is_taken_back_before_it_began_is_never_seen(run: Run) -> None:
    app = Recorder()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            taken_back = [client.ask("/no") for _ in range(50)]
            kept = client.ask("/yes")
            for stream in taken_back:
                client.raw(RstStreamFrame(stream, ErrorCodes.CANCEL))
            await server.idle()
            await until(lambda: client.answer(kept).ended)
            assert [seen.target for seen in app.seen] == [b"/yes"]
            assert server.target.running == 0
            assert server.target.statuses == [50, 0, 1, 0, 0, 0]
            assert not client.is_over

    run(body)


def test_small_frames_come_in_many_turns(run: Run) -> None:
    """Nothing else runs during one."""
    app = Recorder()

    async def body() -> None:
        async with wire(app, at_once_ns=AT_ONCE_NS) as server:
            client = Client(server)
            stream = client.ask("/", "POST", ended=False)
            data = DataFrame(stream, b"a").serialize() * 1_000
            client.raw(data + DataFrame(stream, b"", flags=["END_STREAM"]).serialize())
            assert not client.transport.is_reading()
            assert client.protocol.is_busy
            await server.idle()
            await until(lambda: client.answer(stream).ended)
            assert client.transport.is_reading()
            assert app.seen[0].body == b"a" * 1_000

    run(body)


# Time.


def test_times(run: Run) -> None:
    """What is too late for each."""
    limits = config(timeout_request_header=3, timeout_request_body=5, timeout_keep_alive=8, timeout_response=12)
    app = Recorder()

    async def body() -> None:
        async with wire(app, limits) as server:
            silent, slow_head, idle, uploading = (Client(server) for _ in range(4))
            asked = idle.ask()
            slow_head.ask()
            await server.idle()
            assert idle.answer(asked).status == 200
            partly = HeadersFrame(3, request_head(slow_head)[:3]).serialize()
            slow_head.raw(partly)
            stream = uploading.ask("/", "POST", ended=False)
            await until(lambda: server.target.running == 1)
            server.tick(2.25)
            assert not silent.is_over
            server.tick(1.5)
            assert silent.is_over
            assert slow_head.is_over
            assert slow_head.codes == silent.codes == [ErrorCodes.NO_ERROR]
            assert not idle.is_over
            uploading.send(stream, b"a")
            await until(lambda: uploading.protocol.current.request.asked)
            server.tick(4.5)
            uploading.raw(DataFrame(stream, b"bc").serialize()[:10])  # in part
            server.tick(4.5)
            assert uploading.answer(stream).reset is None
            assert idle.is_over
            assert idle.codes == [ErrorCodes.NO_ERROR]
            assert idle.last_streams == [asked]
            server.tick(2)
            assert uploading.answer(stream).reset == ErrorCodes.CANCEL
            await server.idle()
            assert app.seen[-1].body is None
            assert not uploading.is_over

    run(body)


def test_a_window_that_is_never_opened(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async def body() -> None:
        async with wire(app, config(timeout_response=3)) as server:
            client = Client(server, acknowledges=False)
            client.h2.increment_flow_control_window(1_000_000)
            stream = client.ask()
            await until(lambda: len(client.answer(stream).body) == WINDOW)
            server.tick(2)
            client.h2.increment_flow_control_window(10, stream)
            client.flow()
            server.tick(2)
            assert client.answer(stream).reset is None
            server.tick(2)
            assert client.answer(stream).reset == ErrorCodes.CANCEL
            await server.idle()
            assert not client.is_over

    run(body)


def test_a_client_that_takes_nothing(run: Run) -> None:
    async def body() -> None:
        async with wire(hello, config(timeout_response=3)) as server:
            client = Client(server)
            client.transport.slow, client.transport.mark = True, 0
            client.ask()
            await server.idle()
            server.tick(6)
            assert client.transport.aborted

    run(body)


# Ends.


def test_a_client_that_says_goaway_is_answered(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            stream = client.ask("/a")
            await until(lambda: app.events)
            client.raw(GoAwayFrame(0))
            assert not client.is_over
            app.let("/a")
            await server.idle()
            assert client.answer(stream).body == b"hello /a"
            assert client.is_over
            idle = Client(server)
            idle.raw(GoAwayFrame(0))
            assert idle.is_over

    run(body)


def test_the_stop(run: Run) -> None:
    app = Held()

    async def body() -> None:
        async with wire(app) as server:
            client, idle = Client(server), Client(server)
            asked = client.ask("/asked")
            await until(lambda: app.events)
            server.http.stop()
            assert client.last_streams == [2**31 - 1]
            on_its_way = client.ask("/on-its-way")
            client.protocol.refuse_more()
            idle.protocol.end_idle()
            idle.flow()
            assert idle.last_streams == [2**31 - 1, 0]
            assert idle.is_over
            late = client.ask("/late")
            assert client.answer(late).reset == ErrorCodes.REFUSED_STREAM
            assert client.last_streams == [2**31 - 1, on_its_way]
            for path in ("/asked", "/on-its-way"):
                await until(lambda path=path: path in app.events)
                assert not client.is_over
                app.let(path)
            await server.idle()
            assert client.answer(asked).status == client.answer(on_its_way).status == 200
            assert client.is_over
            assert set(client.codes) == {ErrorCodes.NO_ERROR}
            assert "/late" not in app.events

    run(body)


def test_requests_learn_that_the_connection_is_lost(run: Run) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.append((await receive())["type"])

    async def body() -> None:
        async with wire(app) as server:
            client = Client(server)
            for _ in range(3):
                client.ask()
            await until(lambda: server.target.running == 3)
            client.lose()
            await server.idle()
            assert server.target.statuses == [3, 0, 0, 0, 0, 0]

    run(body)
    assert seen == ["http.disconnect"] * 3


def test_what_is_told_of_each_request(run: Run) -> None:
    class Log:
        lines: list[tuple[str, str, int, int]] = []  # noqa: RUF012

        def write(self, request: Any, status: int, sent: int, elapsed_ns: int) -> None:
            assert elapsed_ns >= 0
            self.lines.append((request.scope["path"], request.target.queue, status, sent))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/left":
            await receive()
        await send(START)
        await send({"type": "http.response.body", "body": bytes(100_000)})

    async def body() -> None:
        async with wire(app) as server:
            server.http.access_log = log = Log()
            client = Client(server, acknowledges=False)
            head, left = client.ask("/head", "HEAD"), client.ask("/left", "POST", ended=False)
            large = client.ask("/large")
            await until(lambda: client.answer(head).ended and len(client.answer(large).body) == WINDOW)
            client.reset(left)
            await server.idle()
            assert log.lines == [("/head", "requests", 200, 0), ("/left", "requests", 0, 0)]
            client.h2.increment_flow_control_window(100_000)
            client.h2.increment_flow_control_window(100_000, large)
            assert client.answer(large).ended
            assert log.lines[2:] == [("/large", "requests", 200, 100_000)]

    run(body)
