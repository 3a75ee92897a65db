"""A client of HTTP/2 on a wire: h2's client side, or frames as a test writes them, and what has come back.

async with wire(application) as server:
    client = Client(server)
    stream = client.ask("/path")
    await server.idle()
    assert client.answer(stream).status == 200
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hyperframe.frame import Frame, GoAwayFrame

from clockworker.http import _http2
from clockworker.http._connection_cy import HttpConnection
from clockworker.shards.config._http import HttpConfig
from tests.http.wire import Application, Server, Transport
from tests.http.wire import wire as _wire

ASKED = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"example.com"), (b":path", b"/")]


def cancel_all() -> None:
    """Requests that would never end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@asynccontextmanager
async def wire(
    app: Application, config: HttpConfig | None = None, *, at_once_ns: int = 1 << 62, **target: Any
) -> AsyncIterator[Server]:
    """As `tests.http.wire` has it, but nothing is too late unless that is said, whatever comes is taken at once, who is at
    fault has been told so in no time, and a test that fails leaves no request to wait for."""
    usual, _http2.AT_ONCE_NS, _http2.HEARD_S = (_http2.AT_ONCE_NS, _http2.HEARD_S), at_once_ns, 0
    patient = HttpConfig(date_header=False, server_header=False, timeout_request_header=0, timeout_keep_alive=0)
    async with _wire(app, config or patient, **target) as server:
        done = server.idle

        async def idle() -> None:
            """What the clients have sent has been taken, too."""
            clients: list[Any] = server.connections
            while True:
                for client in clients:
                    await client.taken()
                await done()
                if all(client.is_taken for client in clients):
                    return

        server.idle = idle  # type: ignore[method-assign]
        try:
            yield server
        except BaseException:
            cancel_all()
            raise
        finally:
            _http2.AT_ONCE_NS, _http2.HEARD_S = usual


class Answer(msgspec.Struct):
    """What has come of one. reset: the code of a reset, by the server."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    informational: list[int] = msgspec.field(default_factory=list)
    interim_headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


class Tls:
    """As much of an `ssl.SSLObject` as a server asks for."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def cipher(self) -> tuple[str, str, int]:
        return "TLS_AES_256_GCM_SHA384", "TLSv1.3", 256

    def version(self) -> str:
        return "TLSv1.3"

    def getpeercert(self, binary: bool = False) -> None:
        return None


class Http2Transport(Transport):
    """mark: bytes that it buffers before the connection is told to pause, if the test lets it buffer any (`slow`)."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection, ("192.0.2.7", 4711), tls=True)
        self._facts["ssl_object"] = Tls()
        self.slow = False
        self.mark = 65_536
        self.when_reading: Callable[[], None] = lambda: None

    def set_protocol(self, protocol: Any) -> None:
        self._connection = protocol

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.slow:
            before, self.buffered = self.buffered, self.buffered + len(data)
            if before <= self.mark < self.buffered:
                self._connection.pause_writing()

    def resume_reading(self) -> None:
        super().resume_reading()
        asyncio.get_running_loop().call_soon(self.when_reading)

    def take(self) -> None:
        """The client has taken all."""
        paused, self.buffered = self.buffered > self.mark, 0
        if paused:
            self._connection.resume_writing()


class Client:
    """h2: its side. answers: by the numbers of their streams.

    acknowledges: whether what comes is taken, so that windows are opened. begins: whether it says what its protocol demands,
    and answers SETTINGS; otherwise only what the test writes is sent.
    """

    def __init__(self, server: Server, *, acknowledges: bool = True, begins: bool = True) -> None:
        first = HttpConnection(server.http, server.http.rules)
        self.transport = Http2Transport(first)
        self.transport.when_reading = self.flow
        first.connection_made(self.transport)
        self.protocol: Any = self.transport.get_protocol()
        self.acknowledges = acknowledges
        self.answers: dict[int, Answer] = {}
        self._goaways: list[GoAwayFrame] = []
        self.frames: list[Frame] = []  # that have come
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=False))
        self.h2.local_settings.enable_push = 0
        self._kernel = b""
        self._read = 0
        self._unparsed = b""
        self._is_lost = False
        server.connections.append(self)  # type: ignore[arg-type]
        self._begins = begins
        if begins:
            self.h2.initiate_connection()
        self.flow()

    def ask(self, path: str = "/", method: str = "GET", *headers: tuple[bytes, bytes], ended: bool = True) -> int:
        """Returns the number of the stream."""
        number = self.h2.get_next_available_stream_id()
        head = [(b":method", method.encode()), *ASKED[1:3], (b":path", path.encode()), *headers]
        self.h2.send_headers(number, head, end_stream=ended)
        self.flow()
        return number

    def send(self, number: int, data: bytes, *, ended: bool = False) -> None:
        """As much as the windows allow at once must do."""
        while len(data) > 16_384:
            self.h2.send_data(number, data[:16_384])
            data = data[16_384:]
        self.h2.send_data(number, data, end_stream=ended)
        self.flow()

    def reset(self, number: int) -> None:
        self.h2.reset_stream(number, 8)
        self.flow()

    def raw(self, data: bytes | Frame) -> None:
        """Of which the client's own h2 knows nothing."""
        self._kernel += data if isinstance(data, bytes) else data.serialize()
        self.flow()

    async def taken(self) -> None:
        """Until the server has taken what was sent. It takes no more than so many frames in a turn of the loop."""
        while not self.is_taken:
            await asyncio.sleep(0)
            self.flow()
        self.flow()

    @property
    def is_taken(self) -> bool:
        return self.is_over or (not self._kernel and self.transport.is_reading())

    def answer(self, number: int) -> Answer:
        self.flow()
        return self.answers.setdefault(number, Answer())

    @property
    def codes(self) -> list[int]:
        """Of the GOAWAYs that have come."""
        self.flow()
        return [frame.error_code for frame in self._goaways]

    @property
    def last_streams(self) -> list[int]:
        """Of the GOAWAYs that have come."""
        self.flow()
        return [frame.last_stream_id for frame in self._goaways]

    @property
    def is_over(self) -> bool:
        return self.transport.closed

    def flow(self) -> None:
        """Bytes go both ways, as far as the server reads them."""
        while True:
            self._kernel += self.h2.data_to_send()
            moved = bool(self._kernel) and not self._is_lost and self.transport.is_reading()
            if moved:
                data, self._kernel = self._kernel, b""
                self.protocol.data_received(data)
            came = bytes(self.transport.sent[self._read :])
            if not (moved or came):
                return
            self._read += len(came)
            self._take(came)

    def _take(self, data: bytes) -> None:
        """A frame at a time: after a GOAWAY h2 says nothing of what comes, which is noted first, therefore."""
        self._unparsed += data
        while len(self._unparsed) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._unparsed[:9]))
            if len(self._unparsed) < 9 + length:
                return
            whole, self._unparsed = self._unparsed[: 9 + length], self._unparsed[9 + length :]
            frame.parse_body(memoryview(whole[9:]))
            self.frames.append(frame)
            if frame.type == 7:
                assert isinstance(frame, GoAwayFrame)
                self._goaways.append(frame)
                continue
            for event in self.h2.receive_data(whole) if self._begins else ():
                self._note(event)

    def _note(self, event: Any) -> None:
        if isinstance(event, ConnectionTerminated):
            return
        answer = self.answers.setdefault(getattr(event, "stream_id", 0) or 0, Answer())
        if isinstance(event, ResponseReceived):
            assert event.headers is not None
            head = [(bytes(name), bytes(value)) for name, value in event.headers]
            answer.status, answer.headers = int(head[0][1]), head[1:]
        elif isinstance(event, InformationalResponseReceived):
            assert event.headers is not None
            answer.informational.append(int(event.headers[0][1]))
            answer.interim_headers += [(bytes(name), bytes(value)) for name, value in event.headers[1:]]
        elif isinstance(event, TrailersReceived):
            assert event.headers is not None
            answer.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            assert event.data is not None
            answer.body += event.data
            if self.acknowledges and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
        elif isinstance(event, StreamEnded):
            answer.ended = True
        elif isinstance(event, StreamReset) and event.remote_reset:
            answer.reset = int(event.error_code)  # type: ignore[arg-type]

    def lose(self) -> None:
        """It has gone."""
        if not self._is_lost:
            self._is_lost = self.transport.closed = True
            self.protocol.connection_lost(None)
