"""WebSockets without sockets: on a transport that the test holds, with the client's side of `websockets` as the peer."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from clockworker import ClientLeft, UsageError
from clockworker.http._websocket import WebSocket
from clockworker.http._websocket_frames_cy import unmasked
from clockworker.shards.config._http import HttpConfig
from tests.conftest import Run, until
from tests.http.wire import Server, wire

TEXT, BINARY, CONT, CLOSE, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.CLOSE, Opcode.PING, Opcode.PONG


def config(**settings: Any) -> HttpConfig:
    return HttpConfig(date_header=False, server_header=False, **{"ws_ping_interval": 0.0, **settings})


class Application:
    """One that the test plays: `receive` and `send` as it was given them, until the test says how it ends."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.receive: Any = None
        self.send: Any = None
        self.error: BaseException | None = None
        self.returns: object = None
        self.over = asyncio.Event()
        self.has_ended = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> object:
        self.scopes.append(scope)
        self.receive, self.send = receive, send
        await self.over.wait()
        self.has_ended = True
        if self.error is not None:
            raise self.error
        return self.returns

    async def end(self, *, error: BaseException | None = None, returns: object = None) -> None:
        self.error, self.returns = error, returns
        self.over.set()
        await until(lambda: self.has_ended, "the application's end")

    async def events(self, count: int) -> list[dict[str, Any]]:
        return [await self.receive() for _ in range(count)]


class Peer:
    """A client. What the server has written is given to it by `hear`; what it wants to say is fed by `say`."""

    def __init__(
        self,
        server: Server,
        *,
        path: str = "/",
        headers: dict[str, str] | None = None,
        deflate: bool = False,
        subprotocols: list[str] | None = None,
        tls: bool = False,
    ) -> None:
        self.connection = server.connect(tls=tls)
        self.transport = self.connection.transport
        self.client = ClientProtocol(
            parse_uri(f"ws://a{path}"),
            extensions=[ClientPerMessageDeflateFactory()] if deflate else None,
            subprotocols=None if subprotocols is None else [Subprotocol(name) for name in subprotocols],
            max_size=None,
        )
        self._heard = 0
        self.frames: list[Any] = []  # the first is the response
        request = self.client.connect()
        for name, value in (headers or {}).items():
            if name in request.headers:
                del request.headers[name]
            if value:
                request.headers[name] = value
        self.client.send_request(request)
        self.say()

    @property
    def websocket(self) -> WebSocket:
        websocket: WebSocket = self.connection.protocol.websocket
        return websocket

    def say(self) -> None:
        for data in self.client.data_to_send():
            if data:
                self.connection.feed(data)

    def raw(self, *frames: Frame, mask: bool = True) -> None:
        self.connection.feed(b"".join(frame.serialize(mask=mask) for frame in frames))

    def hear(self) -> list[Any]:
        data = self.connection.sent[self._heard :]
        self._heard += len(data)
        if data and self.client.state is not State.CLOSED:
            self.client.receive_data(data)
        self.frames += self.client.events_received()
        return self.frames

    @property
    def response(self) -> Any:
        return self.hear()[0]

    @property
    def status(self) -> int:
        return int(self.response.status_code)

    @property
    def messages(self) -> list[bytes | str]:
        """Those that are whole."""
        frames = self.hear()[1:]
        return [
            bytes(each.data).decode() if each.opcode is TEXT else bytes(each.data)
            for each in frames
            if each.opcode in (TEXT, BINARY)
        ]

    @property
    def closed_with(self) -> tuple[int, str] | None:
        self.hear()
        close = self.client.close_rcvd
        return None if close is None else (int(close.code), close.reason)

    def answer_close(self) -> None:
        """The client's close frame, once it has read the server's, and the end of its connection."""
        self.hear()
        self.say()


@asynccontextmanager
async def session(
    app: Any = None, *, accept: bool = True, settings: dict[str, Any] | None = None, **peer: Any
) -> AsyncIterator[tuple[Peer, Any, Server]]:
    application = Application() if app is None else app
    async with wire(application, config(**(settings or {}))) as server:
        client = Peer(server, **peer)
        try:
            if app is None:
                await until(lambda: application.scopes, "the application's beginning")
                assert await application.receive() == {"type": "websocket.connect"}
                if accept:
                    await application.send({"type": "websocket.accept"})
                    assert client.status == 101
            yield client, application, server
        finally:
            if isinstance(application, Application):
                application.over.set()
            client.connection.lose()
            await server.idle()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


# The handshake.


def test_the_scope(run: Run) -> None:
    async def body() -> None:
        headers = {"X-Colour": "red"}
        async with session(path="/a%2Fb?c=d", headers=headers, subprotocols=["one", "two"]) as (_, app, _server):
            scope = app.scopes[0]
            assert scope["type"] == "websocket"
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
            assert (scope["http_version"], scope["scheme"]) == ("1.1", "ws")
            assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a/b", b"/a%2Fb", b"c=d")
            assert (scope["client"], scope["server"]) == (("192.0.2.7", 4711), ("192.0.2.1", 80))
            assert scope["subprotocols"] == ["one", "two"]
            assert scope["extensions"] == {"websocket.http.response": {}}
            assert (b"x-colour", b"red") in scope["headers"]
            assert "method" not in scope

    run(body)


def test_accepting_with_a_subprotocol_and_headers(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False, subprotocols=["one", "two"], deflate=True) as (peer, app, server):
            headers = [(b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d")]
            await app.send({"type": "websocket.accept", "subprotocol": "two", "headers": headers})
            assert peer.status == 101
            assert peer.client.state is State.OPEN  # so it has found its key, its extension and its subprotocol
            assert peer.client.subprotocol == "two"
            assert [extension.name for extension in peer.client.extensions] == ["permessage-deflate"]
            assert peer.response.headers.get_all("set-cookie") == ["a=b", "c=d"]
            assert server.target.websockets == 1
        assert server.target.websockets == 0
        assert server.target.statuses[1] == 1

    run(body)


def test_compression_may_be_off(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_per_message_deflate": False}, deflate=True) as (peer, _, _server):
            assert "sec-websocket-extensions" not in peer.response.headers

    run(body)


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Sec-WebSocket-Key": ""}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": "short"}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Version": ""}, 400, "Sec-WebSocket-Version"),
        ({"Sec-WebSocket-Version": "12"}, 400, "Sec-WebSocket-Version"),
    ],
)
def test_a_handshake_that_is_none(run: Run, headers: dict[str, str], status: int, text: str) -> None:
    async def body() -> None:
        app = Application()
        async with session(app, headers=headers) as (peer, _, server):
            await until(lambda: peer.connection.sent)
            assert peer.connection.statuses == [status]
            assert text.encode() in peer.connection.sent
            assert b"connection: close" in peer.connection.sent
            assert peer.transport.closed
            assert not app.scopes
            assert server.failures == []
            await server.idle()
            assert server.target.statuses[4] == 1

    run(body)


@pytest.mark.parametrize(
    "extensions", ["permessage-deflate; client_max_window_bits=99", "x; y=z, , permessage-deflate"]
)
def test_extensions_that_cannot_be_had(run: Run, extensions: str) -> None:
    """What is offered and not understood is not accepted; what is no offer ends the handshake. Both without a fault of ours."""

    async def body() -> None:
        async with session(echo, headers={"Sec-WebSocket-Extensions": extensions}) as (peer, _, server):
            await until(lambda: peer.connection.sent)
            assert peer.connection.statuses[0] in (101, 400)
            assert b"client_max_window_bits=99" not in peer.connection.sent
            assert server.failures == []

    run(body)


def test_what_comes_before_the_answer_waits_for_it(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, _):
            for number in range(100):
                peer.raw(Frame(TEXT, b"%d" % number + bytes(1_000)))
            assert peer.transport.paused
            assert peer.connection.sent == b""
            assert len(peer.websocket._inbox.unread or b"") < 70_000
            await app.send({"type": "websocket.accept"})
            assert peer.status == 101
            texts = []
            while len(texts) < 100:
                texts.append((await app.receive())["text"])
                peer.connection.flow()
            assert [int(text.rstrip("\0")) for text in texts] == list(range(100))
            assert not peer.transport.paused

    run(body)


# Instead of one.


def test_closing_before_accepting_is_403(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            await app.send({"type": "websocket.close"})
            assert peer.status == 403
            assert peer.response.body == b""
            assert peer.transport.closed
            assert await app.receive() == {"type": "websocket.disconnect", "code": 1006}
            with pytest.raises(UsageError, match="after the application itself"):
                app.send({"type": "websocket.accept"})
            await app.end()
            await server.idle()
            assert server.target.statuses[4] == 1
            assert server.failures == []

    run(body)


def test_a_denial_is_a_response(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            headers = [(b"X-Why", b"so"), (b"content-type", b"text/plain")]
            await app.send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            assert peer.connection.sent == b""
            await app.send({"type": "websocket.http.response.body", "body": b"who are "})  # by itself: all of it
            assert (peer.status, peer.response.body) == (401, b"who are ")
            assert peer.response.headers["x-why"] == "so"
            assert peer.response.headers["content-length"] == "8"
            assert peer.response.headers["connection"] == "close"
            assert peer.transport.closed
            assert await app.receive() == {"type": "websocket.disconnect", "code": 1006}
            await app.end()
            assert server.failures == []

    run(body)


@pytest.mark.parametrize("length", [None, 20])
def test_a_denial_in_parts(run: Run, length: int | None) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, _):
            headers = [] if length is None else [(b"content-length", b"%d" % length)]
            await app.send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
            await app.send({"type": "websocket.http.response.body", "body": b"x" * 10, "more_body": True})
            assert b"x" * 10 in peer.connection.sent
            peer.connection.protocol.pause_writing()
            sending = asyncio.ensure_future(
                app.send({"type": "websocket.http.response.body", "body": b"y" * 5, "more_body": True})
            )
            await asyncio.sleep(0)
            assert not sending.done()  # until the client takes it
            peer.connection.protocol.resume_writing()
            await sending
            await app.send({"type": "websocket.http.response.body", "body": b"z" * 5})
            head, _, answer = peer.connection.sent.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 404 ")
            if length is None:
                assert b"\r\ntransfer-encoding: chunked" in head
                assert answer == b"a\r\n%s\r\n5\r\n%s\r\n5\r\n%s\r\n0\r\n\r\n" % (b"x" * 10, b"y" * 5, b"z" * 5)
            else:
                assert answer == b"x" * 10 + b"y" * 5 + b"z" * 5
            assert peer.transport.closed

    run(body)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "websocket.http.response.start", "status": 700}, "700"),
        ({"type": "websocket.http.response.start", "status": 101}, "101"),
        ({"type": "websocket.http.response.body", "body": b""}, "'websocket.accept', 'websocket.close' or"),
        ({"type": "websocket.send", "text": "a"}, "but got 'websocket.send'"),
        ({"type": "http.response.start", "status": 200}, "but got 'http.response.start'"),
        ({"type": "websocket.accept", "headers": [(b"a", b"b\r\nc: d")]}, "Invalid HTTP header value"),
        ({"type": "websocket.accept", "headers": [(b"a b", b"c")]}, "Invalid HTTP header name"),
        ({"type": "websocket.accept", "subprotocol": "a\r\nb: c"}, "Invalid HTTP header value"),
    ],
)
def test_what_an_application_does_wrong_before_it_accepts(run: Run, event: dict[str, Any], message: str) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            with pytest.raises(RuntimeError, match=message) as raised:
                await app.send(event)
            assert peer.connection.sent == b""
            await app.end(error=raised.value)
            await server.idle()
            assert (peer.status, peer.response.body) == (500, b"Internal Server Error")
            assert peer.response.headers["content-length"] == "21"
            assert peer.response.headers["connection"] == "close"
            assert peer.transport.closed
            assert server.failures == ["Exception in ASGI application"]
            assert server.target.statuses[5] == 1

    run(body)


@pytest.mark.parametrize("starts", [False, True])
def test_an_application_that_neither_accepts_nor_denies(run: Run, starts: bool) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            if starts:
                await app.send({"type": "websocket.http.response.start", "status": 404})
            await app.end()
            await server.idle()
            assert (peer.status, peer.response.body) == (500, b"Internal Server Error")
            assert [failure.startswith("ASGI callable returned without completing") for failure in server.failures] == [
                True
            ]

    run(body)


def test_a_denial_that_is_not_completed_is_cut(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            await app.send({"type": "websocket.http.response.start", "status": 404})
            await app.send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})
            await app.end()
            await server.idle()
            assert peer.transport.aborted  # so that nobody takes it for whole
            assert server.failures == ["ASGI callable returned without completing response."]

    run(body)


# Messages.


@pytest.mark.parametrize("deflate", [False, True])
def test_messages_of_all_sizes_come_back(run: Run, deflate: bool) -> None:
    async def body() -> None:
        async with session(echo, deflate=deflate) as (peer, _, _server):
            await until(lambda: peer.connection.sent)
            assert peer.status == 101
            said: list[bytes | str] = []
            for size in (0, 1, 63, 64, 125, 126, 127, 65_535, 65_536, 300_000):
                for message in ("\xe4" * (size // 2) + "a" * (size % 2), random.Random(size).randbytes(size)):
                    said.append(message)
                    if isinstance(message, str):
                        peer.client.send_text(message.encode())
                    else:
                        peer.client.send_binary(message)
                    peer.say()
                    await until(lambda: len(peer.messages) == len(said))
            assert peer.messages == said

    run(body)


def test_what_is_short_is_not_compressed_and_what_is_long_is(run: Run) -> None:
    async def body() -> None:
        async with session(deflate=True) as (peer, app, _):
            before = len(peer.connection.sent)
            await app.send({"type": "websocket.send", "text": "a" * 60})
            assert len(peer.connection.sent) - before == 62
            await app.send({"type": "websocket.send", "bytes": bytes(100_000)})
            assert len(peer.connection.sent) - before < 2_000
            assert peer.messages == ["a" * 60, bytes(100_000)]

    run(body)


def test_what_kinds_of_bytes_may_be_sent(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            for data in (b"a", bytearray(b"b"), memoryview(b"c")):
                await app.send({"type": "websocket.send", "bytes": data, "text": None})
            await app.send({"type": "websocket.send", "bytes": None, "text": "d"})
            assert peer.messages == [b"a", b"b", b"c", "d"]
            for nothing in ({}, {"bytes": None}):
                with pytest.raises(UsageError, match="neither 'bytes' nor 'text'"):
                    app.send({"type": "websocket.send", **nothing})

    run(body)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking(data: bytes, mask: bytes) -> None:
    assert unmasked(b"head" + mask + data + b"rest", 8, 8 + len(data)) == bytes(
        byte ^ mask[at % 4] for at, byte in enumerate(data)
    )


payloads = st.one_of(
    st.binary(max_size=20), st.integers(120, 130).map(bytes), st.sampled_from([16_000, 70_000]).map(bytes)
)


@st.composite
def conversations(draw: Any) -> tuple[list[Frame], list[str | bytes], int]:
    """Frames, the messages in them, and how many pings."""
    frames: list[Frame] = []
    messages: list[str | bytes] = []
    pings = 0
    for _ in range(draw(st.integers(0, 6))):
        is_text = draw(st.booleans())
        parts = draw(st.lists(payloads, min_size=1, max_size=3))
        if is_text:
            parts = [b"t" * len(part) for part in parts]
        for number, part in enumerate(parts):
            if draw(st.booleans()):
                pings += 1
                frames.append(Frame(PING, b"p%d" % pings))
            opcode = CONT if number else TEXT if is_text else BINARY
            frames.append(Frame(opcode, part, fin=number == len(parts) - 1))
        messages.append(b"".join(parts).decode() if is_text else b"".join(parts))
    return frames, messages, pings


@settings(max_examples=40)
@given(conversation=conversations(), deflate=st.booleans(), seed=st.integers(0, 2**32))
def test_any_frames_in_any_pieces(conversation: Any, deflate: bool, seed: int) -> None:
    frames, messages, pings = conversation
    chance = random.Random(seed)

    async def body() -> None:
        async with session(settings={"ws_max_queue": 4}, deflate=deflate) as (peer, app, _):
            extensions = peer.client.extensions
            data = b"".join(frame.serialize(mask=True, extensions=extensions) for frame in frames)
            got: list[str | bytes] = []

            async def take() -> None:
                while len(got) < len(messages):
                    event = await app.receive()
                    got.append(event["text"] if "text" in event else event["bytes"])

            taking = asyncio.ensure_future(take())
            most = chance.choice([3, 20, 5_000, 100_000] if len(data) < 2_000 else [2_000, 20_000, 200_000])
            while data:
                size = chance.randint(1, most)
                peer.connection.feed(data[:size])
                data = data[size:]
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
            await until(lambda: (peer.connection.flow(), taking.done())[1], "all messages")
            await taking
            assert got == messages
            assert not peer.websocket._inbox.reader.rest  # nor does the next frame go another way than it would
            peer.connection.flow()
            pongs = [bytes(frame.data) for frame in peer.hear()[1:] if frame.opcode is PONG]
            assert pongs == [b"p%d" % (number + 1) for number in range(pings)]

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(body(), 60))


# What cannot be understood.

BOMB = zlib.compressobj(wbits=-12)
BOMB_DATA = (BOMB.compress(bytes(3_000_000)) + BOMB.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(TEXT, b"\xff").serialize(mask=True), 1007),
        (Frame(TEXT, b"\xc3", fin=False).serialize(mask=True) + Frame(CONT, b"(").serialize(mask=True), 1007),
        (Frame(TEXT, b"a").serialize(mask=False), 1002),
        (Frame(CONT, b"a").serialize(mask=True), 1002),
        (Frame(TEXT, b"a", fin=False).serialize(mask=True) + Frame(TEXT, b"b").serialize(mask=True), 1002),
        (b"\x83\x80abcd", 1002),  # an opcode that there is not
        (b"\xc1\x80abcd", 1002),  # compressed, which has not been agreed
        (b"\x89\xfe\x00\x7eabcd" + bytes(126), 1002),  # a ping that is too long
        (b"\x09\x80abcd", 1002),  # a ping in parts
        (Frame(CLOSE, b"\x03").serialize(mask=True), 1002),
        (Frame(CLOSE, b"\x03\xee").serialize(mask=True), 1002),  # 1006
        (Frame(CLOSE, b"\x03\xe8\xff").serialize(mask=True), 1007),
        (b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x01abcd", 1009),  # a frame of 65,537 bytes, of which none has come
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd", 1009),
        (b"\x82\xfe\xff\xffabcd" + bytes(65_535) + b"\x82\x81abcda", 0),  # allowed, both
    ],
    ids=lambda value: None if isinstance(value, int) else "frames",  # masks come by chance, and workers have to agree
)
def test_what_is_no_frame_ends_it(run: Run, data: bytes, code: int) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_size": 65_536}) as (peer, app, server):
            peer.raw(Frame(TEXT, b"before"))
            peer.connection.feed(data)
            if not code:
                assert len([await app.receive() for _ in range(3)]) == 3
                return
            peer.raw(Frame(TEXT, b"after"))
            assert peer.closed_with is not None
            assert peer.closed_with[0] == code
            assert await app.receive() == {"type": "websocket.receive", "text": "before"}
            disconnect = await app.receive()
            assert (disconnect["type"], disconnect["code"]) == ("websocket.disconnect", code)
            assert await app.receive() == disconnect
            with pytest.raises(ClientLeft, match=rf"\({code}"):
                app.send({"type": "websocket.send", "text": "a"})
            assert server.failures == []

    run(body)


def test_why_it_was_ended_can_be_read_by_a_client_that_goes_on_sending(run: Run) -> None:
    """Its socket is not closed while what it sends is unread: that would reset it."""

    async def body() -> None:
        for leaves in (True, False):
            async with session(settings={"ws_max_size": 10}) as (peer, _, _server):
                peer.raw(Frame(TEXT, b"a" * 11))
                assert peer.closed_with == (1009, peer.closed_with[1])
                began = asyncio.get_running_loop().time()
                while asyncio.get_running_loop().time() < began + 0.4:
                    assert not peer.transport.closed
                    peer.connection.feed(bytes(10_000))
                    await asyncio.sleep(0)
                assert peer.websocket._inbox.unread is None
                if leaves:
                    peer.connection.end()
                else:
                    await until(lambda: peer.transport.closed)  # it is quiet
                assert not peer.transport.aborted

    run(body)


def test_but_not_for_as_long_as_it_likes(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_size": 10}) as (peer, _, server):
            peer.raw(Frame(TEXT, b"a" * 11))
            server.tick(3)
            assert peer.transport.closed
            assert not peer.transport.aborted
            server.tick(11)  # nor to take what was written
            assert peer.transport.aborted

    run(body)


@pytest.mark.parametrize("in_parts", [False, True])
def test_what_is_too_long_once_it_is_unpacked(run: Run, in_parts: bool) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_size": 1_000_000}, deflate=True) as (peer, app, _):
            head = Frame(BINARY, BOMB_DATA, fin=not in_parts, rsv1=True)
            length = len(BOMB_DATA)
            assert length < 4_000
            first = (0x42 if in_parts else 0xC2).to_bytes(1, "big")
            peer.connection.feed(first + b"\xfe" + length.to_bytes(2, "big") + bytes(4) + bytes(head.data))
            await until(lambda: peer.closed_with is not None)
            assert peer.closed_with is not None
            assert peer.closed_with[0] == 1009
            assert (await app.receive())["code"] == 1009
            assert peer.websocket._inbox.reader.parts is None or len(peer.websocket._inbox.reader.parts) <= 1_000_000

    run(body)


@pytest.mark.parametrize("in_parts", [False, True])
def test_what_is_long_once_it_is_unpacked_takes_many_turns(run: Run, in_parts: bool) -> None:
    async def body() -> None:
        async with session(deflate=True) as (peer, app, _):
            packer = zlib.compressobj(9, zlib.DEFLATED, -12)
            size = 4_000_000
            data = packer.compress(bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]
            frames = [data[:100], data[100:]] if in_parts else [data]
            for number, piece in enumerate(frames):
                first = (0x80 if number == len(frames) - 1 else 0) | (CONT if number else 0x40 | BINARY)
                peer.connection.feed(bytes((first, 0x80 | 126)) + len(piece).to_bytes(2, "big") + bytes(4) + piece)
            peer.connection.feed(Frame(TEXT, b"after").serialize(mask=True))
            receiving = asyncio.ensure_future(app.receive())
            turns = 0
            while not receiving.done():
                turns += 1
                await asyncio.sleep(0)
            assert turns > 8
            assert (await receiving)["bytes"] == bytes(size)
            peer.connection.flow()
            assert (await app.receive())["text"] == "after"
            assert not peer.transport.paused

    run(body)


def test_a_message_in_parts_may_be_as_long_as_one_in_one(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_size": 100}) as (peer, app, _):
            peer.raw(Frame(BINARY, bytes(60), fin=False), Frame(CONT, bytes(40)))
            assert (await app.receive())["bytes"] == bytes(100)
            peer.raw(Frame(BINARY, bytes(60), fin=False), Frame(CONT, bytes(20), fin=False), Frame(CONT, bytes(21)))
            assert peer.closed_with is not None
            assert peer.closed_with[0] == 1009

    run(body)


def test_parts_that_are_empty_take_no_room(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, _, _server):
            peer.raw(Frame(BINARY, b"", fin=False))
            empty = Frame(CONT, b"", fin=False).serialize(mask=True) * 2_000
            one = Frame(CONT, b"a", fin=False).serialize(mask=True) * 2_000
            for _ in range(10):
                peer.connection.feed(empty)
                peer.connection.feed(one)
            await until(lambda: (peer.connection.flow(), len(peer.websocket._inbox.reader.parts or b"") == 20_000)[1])
            assert peer.websocket._inbox.reader.parts == b"a" * 20_000
            assert not peer.websocket._protocol.events

    run(body)


# The flow.


def test_messages_that_nobody_takes_pause_the_client(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_queue": 8}) as (peer, app, _):
            for number in range(8):
                assert not peer.transport.paused
                peer.raw(Frame(TEXT, b"%d" % number))
            assert peer.transport.paused
            for number in range(4):
                assert peer.transport.paused
                assert (await app.receive())["text"] == f"{number}"
            assert not peer.transport.paused

    run(body)


def test_large_messages_that_nobody_takes_pause_the_client_sooner(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            peer.raw(Frame(BINARY, bytes(60_000)))
            assert not peer.transport.paused
            peer.raw(Frame(BINARY, bytes(60_000)))
            assert peer.transport.paused
            await app.receive()
            assert peer.transport.paused
            await app.receive()
            assert not peer.transport.paused

    run(body)


@pytest.mark.parametrize("deflate", [False, True])
def test_a_read_full_of_small_frames_is_parsed_as_they_are_taken(run: Run, deflate: bool) -> None:
    async def body() -> None:
        count = 20_000
        async with session(deflate=deflate) as (peer, app, _):
            frame = Frame(BINARY, b"").serialize(mask=True)
            peer.connection.feed(frame * count)
            assert len(peer.websocket._inbox.messages) < 3_000
            assert peer.transport.paused
            for _ in range(count):
                assert await app.receive() == {"type": "websocket.receive", "bytes": b""}
            assert not peer.transport.paused
            assert peer.websocket._inbox.unread is None

    run(body)


def test_a_read_full_of_bombs_that_are_allowed(run: Run) -> None:
    async def body() -> None:
        small = zlib.compressobj(wbits=-12)
        data = (small.compress(bytes(1_000_000)) + small.flush(zlib.Z_FULL_FLUSH))[:-4]
        frame = b"\xc2\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data
        async with session(deflate=True) as (peer, app, _):
            peer.connection.feed(frame * 100)
            assert peer.websocket._inbox.size <= 17_000_000
            for _ in range(100):
                assert len((await app.receive())["bytes"]) == 1_000_000
            assert peer.websocket._inbox.size == 0

    run(body)


def test_sending_waits_while_the_client_takes_nothing(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            protocol = peer.connection.protocol
            protocol.pause_writing()
            sending = [
                asyncio.ensure_future(app.send({"type": "websocket.send", "text": f"{number}"})) for number in range(3)
            ]
            await asyncio.sleep(0)
            assert not any(each.done() for each in sending)
            sending[1].cancel()
            protocol.resume_writing()
            await until(lambda: all(each.done() for each in sending))
            assert peer.messages == ["0", "2"]
            await app.send({"type": "websocket.send", "text": "3"})
            assert peer.messages == ["0", "2", "3"]
            protocol.pause_writing()
            last = asyncio.ensure_future(app.send({"type": "websocket.send", "text": "4"}))
            await asyncio.sleep(0)
            peer.connection.lose(ConnectionResetError())
            with pytest.raises(OSError, match="comes too late"):
                await last

    run(body)


def test_waiting_that_is_given_up_leaves_nothing_behind(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            peer.connection.protocol.pause_writing()
            for _ in range(100):
                receiving = asyncio.ensure_future(app.receive())
                sending = asyncio.ensure_future(app.send({"type": "websocket.send", "text": "a"}))
                await asyncio.sleep(0)
                receiving.cancel()
                sending.cancel()
                await asyncio.gather(receiving, sending, return_exceptions=True)
            assert not peer.websocket._inbox.receivers
            assert not peer.websocket._senders
            receivers = [asyncio.ensure_future(app.receive()) for _ in range(2)]
            await asyncio.sleep(0)
            peer.raw(Frame(TEXT, b"a"), Frame(TEXT, b"b"))
            events = await asyncio.gather(*receivers)
            assert sorted(event["text"] for event in events) == ["a", "b"]

    run(body)


def test_pings_are_answered_and_a_flood_of_them_with_one_pong(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, _, _server):
            peer.raw(Frame(PING, b"1"), Frame(PING, b"2"))
            assert [bytes(frame.data) for frame in peer.hear()[1:]] == [b"1", b"2"]
            before = len(peer.connection.sent)
            peer.connection.protocol.pause_writing()
            for number in range(1_000):
                peer.raw(Frame(PING, b"%d" % number))
            assert len(peer.connection.sent) == before
            peer.connection.protocol.resume_writing()
            assert [bytes(frame.data) for frame in peer.hear()[3:]] == [b"999"]

    run(body)


def test_a_read_full_of_pings_is_not_one_turn_of_the_loop(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            peer.connection.feed(
                Frame(PING, b"").serialize(mask=True) * 10_000 + Frame(TEXT, b"after").serialize(mask=True)
            )
            receiving = asyncio.ensure_future(app.receive())
            turns = 0
            while not receiving.done():
                turns += 1
                before = len(peer.connection.sent)
                await asyncio.sleep(0)
                assert len(peer.connection.sent) - before < 4_000
            assert turns > 10
            assert (await receiving)["text"] == "after"
            assert len(peer.connection.sent) > 20_000
            assert not peer.transport.paused

    run(body)


# The end.


@pytest.mark.parametrize("code", [None, 1000, 1001, 4000])
@pytest.mark.parametrize("reason", [None, "", "because"])
def test_the_application_closes(run: Run, code: int | None, reason: str | None) -> None:
    async def body() -> None:
        async with session() as (peer, app, server):
            peer.raw(Frame(TEXT, b"before"))
            event = {"type": "websocket.close", "reason": reason} | ({} if code is None else {"code": code})
            await app.send(event)
            assert peer.closed_with == (code or 1000, reason or "")
            peer.raw(Frame(TEXT, b"after"), Frame(PING, b"still there?"))
            assert (await app.receive())["text"] == "before"
            assert await app.receive() == {"type": "websocket.disconnect", "code": code or 1000, "reason": reason or ""}
            for late in ({"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}):
                with pytest.raises(UsageError, match="after the application itself has closed"):
                    app.send(late)
            assert not peer.transport.closed  # before the client has answered
            peer.answer_close()
            assert peer.transport.closed
            assert not peer.transport.aborted
            await app.end()
            assert server.failures == []

    run(body)


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)])
def test_what_cannot_be_closed_with(run: Run, code: int, reason: str) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            with pytest.raises(UsageError, match=f"{code} and '{reason}'.*give 1000, 1001"):
                app.send({"type": "websocket.close", "code": code, "reason": reason})
            assert peer.closed_with is None
            await app.send({"type": "websocket.send", "text": "it goes on"})
            assert peer.messages == ["it goes on"]

    run(body)


def test_a_client_that_does_not_answer_the_close_is_not_waited_for(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_max_queue": 1}) as (peer, app, server):
            peer.raw(Frame(TEXT, b"a"))
            assert peer.transport.paused
            await app.send({"type": "websocket.close"})
            assert not peer.transport.paused  # or its answer could not be read
            server.tick(9)
            assert not peer.transport.closed
            server.tick(3)
            assert peer.transport.closed
            assert not peer.transport.aborted
            server.tick(9)
            assert not peer.transport.aborted
            server.tick(3)  # nor is one that does not even take what was written
            assert peer.transport.aborted

    run(body)


def test_the_client_closes(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            peer.raw(Frame(TEXT, b"a"), Frame(TEXT, b"b"))
            peer.client.send_close(1001, "gone")
            peer.say()
            assert peer.closed_with == (1001, "gone")  # as it said
            assert peer.transport.closed
            assert [event["text"] for event in await app.events(2)] == ["a", "b"]
            for _ in range(2):
                assert await app.receive() == {"type": "websocket.disconnect", "code": 1001, "reason": "gone"}
            for late in ({"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}):
                with pytest.raises(ClientLeft, match=r"too late: the client has left \(1001: gone\)"):
                    app.send(late)
            peer.connection.protocol.data_received(
                b"\x8a\x80\x00\x00\x00\x00"
            )  # a loop may deliver what it had read before

    run(body)


def test_the_client_closes_without_a_code(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, _):
            peer.client.send_close()
            peer.say()
            assert await app.receive() == {"type": "websocket.disconnect", "code": 1005, "reason": ""}

    run(body)


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_client_leaves_without_a_word(run: Run, accept: bool, half: bool) -> None:
    async def body() -> None:
        async with session(accept=accept) as (peer, app, server):
            receiving = asyncio.ensure_future(app.receive())
            await asyncio.sleep(0)
            if half:
                peer.connection.end()
            else:
                peer.connection.lose(ConnectionResetError())
            assert await receiving == {"type": "websocket.disconnect", "code": 1006}
            with pytest.raises(ClientLeft, match=r"the client has left \(1006\)"):
                await app.send({"type": "websocket.send" if accept else "websocket.accept", "text": "a"})
            await app.end()
            await server.idle()
            assert server.failures == []
            assert server.target.statuses[1 if accept else 0] == 1

    run(body)


@pytest.mark.parametrize(
    ("end", "code", "failures"),
    [
        ({}, 1000, []),
        ({"returns": 7}, 1011, ["ASGI callable should return None, but returned 7."]),
        ({"error": ValueError("x")}, 1011, ["Exception in ASGI application"]),
        ({"error": asyncio.CancelledError()}, 1011, []),
    ],
)
def test_the_application_ends_and_has_not_closed(run: Run, end: dict[str, Any], code: int, failures: list[str]) -> None:
    async def body() -> None:
        async with session() as (peer, app, server):
            await app.end(**end)
            await server.idle()
            assert peer.closed_with == (code, "")
            assert server.failures == failures
            peer.answer_close()
            assert peer.transport.closed

    run(body)


def test_an_application_that_does_not_catch_that_its_client_has_left_has_not_failed(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0)

    async def body() -> None:
        async with session(app) as (peer, _, server):
            await until(lambda: peer.connection.sent)
            peer.connection.lose()
            await server.idle()
            assert server.failures == []

    run(body)


def test_the_stop(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, app, server):
            server.http.stop()
            assert peer.closed_with == (1012, "")
            assert await app.receive() == {"type": "websocket.disconnect", "code": 1012}
            with pytest.raises(ClientLeft, match="1012"):
                app.send({"type": "websocket.send", "text": "a"})
            peer.answer_close()
            assert peer.transport.closed

    run(body)


def test_a_handshake_that_the_stop_finds_is_completed_first(run: Run) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            server.http.stop()
            assert peer.connection.sent == b""
            await app.send({"type": "websocket.accept"})
            assert peer.status == 101
            assert peer.closed_with == (1012, "")
            assert await app.receive() == {"type": "websocket.disconnect", "code": 1012}

    run(body)


@pytest.mark.parametrize("waits", [False, True])
def test_an_application_that_hears_its_client_before_it_accepts_hears_of_the_stop(run: Run, waits: bool) -> None:
    async def body() -> None:
        async with session(accept=False) as (peer, app, server):
            receiving = asyncio.ensure_future(app.receive()) if waits else None
            await asyncio.sleep(0)
            server.http.stop()
            disconnect = await (receiving or app.receive())
            assert disconnect == {"type": "websocket.disconnect", "code": 1006}
            assert (peer.status, peer.response.headers["retry-after"]) == (503, "1")
            assert peer.transport.closed
            with pytest.raises(ClientLeft):
                app.send({"type": "websocket.accept"})

    run(body)


# Time.


def pings(peer: Peer) -> list[bytes]:
    return [bytes(frame.data) for frame in peer.hear()[1:] if frame.opcode is PING]


def test_a_client_is_asked_whether_it_is_there(run: Run) -> None:
    async def body() -> None:
        times = {"ws_ping_interval": 20.0, "ws_ping_timeout": 10.0}
        async with session(settings=times) as (peer, app, server):
            for number in range(1, 4):
                server.tick(20)
                assert len(pings(peer)) == number - 1
                server.tick(1)
                assert len(pings(peer)) == number
                server.tick(9)
                peer.say()  # the pong
                server.tick(0)
            server.tick(21)
            peer.hear()
            peer.client.data_to_send()  # is lost
            peer.raw(Frame(PONG, b"another"))
            server.tick(10)
            assert peer.closed_with is None
            server.tick(1)
            assert peer.closed_with == (1011, "keepalive ping timeout")
            assert (await app.receive())["code"] == 1011
            server.tick(4)
            assert peer.transport.closed
            server.tick(12)
            assert peer.transport.aborted

    run(body)


def test_pings_without_a_limit_for_pongs(run: Run) -> None:
    async def body() -> None:
        times = {"ws_ping_interval": 20.0, "ws_ping_timeout": 0.0}
        async with session(settings=times) as (peer, _, server):
            server.tick(21 * 3)
            assert len(pings(peer)) == 3
            assert peer.closed_with is None

    run(body)


def test_no_pings(run: Run) -> None:
    async def body() -> None:
        async with session() as (peer, _, server):
            server.tick(1_000)
            assert pings(peer) == []

    run(body)


def test_a_client_that_we_do_not_read_may_answer_later(run: Run) -> None:
    async def body() -> None:
        times = {"ws_ping_interval": 20.0, "ws_ping_timeout": 10.0, "ws_max_queue": 1}
        async with session(settings=times) as (peer, app, server):
            peer.raw(Frame(TEXT, b"a"))
            assert peer.transport.paused
            server.tick(21)
            assert len(pings(peer)) == 1
            server.tick(50)
            assert peer.closed_with is None
            await app.receive()
            peer.say()
            server.tick(21)
            assert len(pings(peer)) == 2
            assert peer.closed_with is None

    run(body)


def test_a_client_that_is_still_taking_what_was_sent_is_there(run: Run) -> None:
    async def body() -> None:
        times = {"ws_ping_interval": 20.0, "ws_ping_timeout": 10.0}
        async with session(settings=times) as (peer, _, server):
            peer.connection.protocol.pause_writing()
            peer.transport.buffered = 1_000_000
            server.tick(21)
            for size in (800_000, 600_000, 400_000):
                peer.transport.buffered = size
                server.tick(11)
                assert not peer.transport.is_closing()
                assert peer.closed_with is None
            server.tick(11)
            assert peer.closed_with == (1011, "keepalive ping timeout")

    run(body)


def test_the_server_looks_as_often_as_pings_want(run: Run) -> None:
    async def body() -> None:
        async with session(settings={"ws_ping_interval": 0.2, "ws_ping_timeout": 8.0}) as (peer, _, server):
            assert server.http.look_s == pytest.approx(0.05)
            await until(lambda: (peer.say(), len(pings(peer)) >= 3)[1], "three pings")

    run(body)


# Its turn.


def test_a_handshake_waits_for_its_turn_and_may_leave_before(run: Run) -> None:
    async def body() -> None:
        app = Application()
        async with wire(app, config(), limit=1) as server:
            first = Peer(server)
            await until(lambda: app.scopes)
            second, third = Peer(server, path="/2"), Peer(server, path="/3")
            assert server.target.waiting == 2
            second.connection.lose()
            await app.end()
            await server.idle()
            assert [scope["path"] for scope in app.scopes] == ["/", "/3"]
            assert (first.status, third.status) == (500, 500)

    run(body)


def test_what_is_beyond_the_line_is_refused(run: Run) -> None:
    async def body() -> None:
        app = Application()
        async with wire(app, config(), limit=1, most_waiting=0) as server:
            Peer(server)
            await until(lambda: app.scopes)
            second = Peer(server)
            assert second.status == 503
            assert second.transport.closed
            app.over.set()

    run(body)
