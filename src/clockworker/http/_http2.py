"""HTTP/2, behind TLS with ALPN: each stream is a request, begun as those of HTTP/1.1 are, and so a task of its route's queue.
None waits for another of its connection; with HTTP/1.1 the next one does.

The protocol is h2's; `_http2_frames` stands before it and weighs what comes. A connection has up to `MOST_STREAMS` requests.
When a client resets a stream its request is dropped if its task has not begun; else it goes on, until the application asks for
more and gets `http.disconnect`. So requests count until their tasks have ended; more streams are refused, which a client may
try again.

Coming in, the window of each stream opens as its application takes the body (`_http2_stream`). The connection's own window
opens at once: else streams whose requests wait would hold up all others. Going out, streams that wait for room send a frame
each in turn.

The stop has two GOAWAYs. The first asks the client to open no more streams, and refuses none, for some are on their way. The
second comes when what has reached the kernel has been read, and names the last stream that is served: of later ones the client
knows that nothing was done, and that it may try them elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from clockworker.executor._clock_cy import read as now_ns
from clockworker.http._head import EXTENSIONS
from clockworker.http._http2_fields_cy import FieldDecoder
from clockworker.http._http2_frames import A_SECOND, RESET, Abuse, Frames
from clockworker.http._http2_heads import Defaults, Malformed, TooLarge, read_head, write_head
from clockworker.http._http2_stream import OPEN_AT, WINDOW, Stream

if TYPE_CHECKING:
    from clockworker.http._connection_cy import HttpConnection
    from clockworker.http._request_cy import Request
    from clockworker.http._server import HttpServer

MOST_STREAMS = 100
WINDOW_OF_ALL = 1_048_576  # of a connection
AT_ONCE_NS = 250_000  # frames are taken for so long; then other connections have their turns (`_backlog`)
HEARD_S = 1.0  # for a client at fault to read so
_FIELDS = 4  # times as many as a request may have: parts of cookies are fields of their own, and one header
_TABLE = 4_096  # bytes of our HPACK table, whatever the client would keep
_LAST_STREAM = 2**31 - 1
_ASGI = {"version": "3.0", "spec_version": "2.3"}

_CONFIGURATION = H2Configuration(
    client_side=False,
    header_encoding=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class _H2(H2Connection):
    MAX_CLOSED_STREAMS = 1_000  # that it remembers


class Http2Connection(asyncio.Protocol):
    """One whose client has chosen HTTP/2 in its handshake, taken over from `first`."""

    def __init__(self, server: HttpServer, first: HttpConnection) -> None:
        self.server = server
        self.rules = first.rules
        self.transport = first.transport
        self.client = first.client
        self.address = first.address
        self.scheme = first.scheme
        self.tls = first.tls
        self.websocket = None
        self.closing = False
        self.requests = 0
        self.since = self.rules.tick
        self.can_write = True
        self.streams: dict[int, Stream] = {}
        self.h2 = _H2(_CONFIGURATION)
        self.h2.decoder = FieldDecoder(_FIELDS * server.config.limit_request_fields)
        self.frames = Frames(server.config.incomplete_event_size)
        self.defaults = Defaults()
        self.blocked: dict[Stream, None] = {}  # by turn
        self.orphans: set[Request] = set()  # of streams that were reset, whose tasks have not ended
        self._unopened = 0  # bytes by which the connection's window is to be opened
        self._waits = False  # for its turn to take what has come
        self._hang_up: asyncio.TimerHandle | None = None  # at fault, and told so
        self._head_since: int | None = None
        self._last: int | None = None  # the last stream that is served, once its number has been said
        self._highest = 0
        self._has_warned = False
        # h2 must not know of limits before the client has acknowledged them: it would end the connection over streams that were
        # opened until then, and need only be refused.
        self.h2.local_settings = Settings(client=False)
        self.h2.initiate_connection()
        limits: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS}
        limits[SettingCodes.MAX_HEADER_LIST_SIZE] = server.config.incomplete_event_size
        self.h2.update_settings(limits)
        self.h2.increment_flow_control_window(WINDOW_OF_ALL - WINDOW)
        server.opened(self)
        self.write()
        if self.rules.stopping:
            self.shut_down()

    # For the loop.

    def data_received(self, data: bytes) -> None:
        if not self.closing:
            self.frames.feed(data)
            if not self._waits:
                self._take()

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self.server.closed(self)
        self._lose_all()
        self.orphans.clear()
        if self._hang_up is not None:
            self._hang_up.cancel()
        # h2's connections hold methods of their own. What a client has made of them is freed now, and not by a collection.
        vars(self.h2).clear()

    def pause_writing(self) -> None:
        self.can_write = False

    def resume_writing(self) -> None:
        self.can_write = True
        self.pump()

    # Coming in.

    def _go_on(self) -> None:
        self._waits = False
        if not self.closing:
            self.transport.resume_reading()
            self._take()

    def _take(self) -> None:
        """What has come, as far as there is time: there may be thousands of frames in one read."""
        until = now_ns() + AT_ONCE_NS
        try:
            while not self.closing and (frame := self.frames.next()) is not None:
                for event in self.h2.receive_data(frame):
                    handler = _HANDLERS.get(type(event))
                    if handler is not None:
                        handler(self, event)
                if now_ns() >= until and self.frames.has_part and not self.closing:
                    self._waits = True
                    self.transport.pause_reading()
                    self.server.backlog.add(self._go_on)
                    break
        except ProtocolError:  # h2 has its GOAWAY written
            self._end()
        except Abuse as abuse:
            self.h2.close_connection(abuse.code)
            self._end()
        except Exception as error:
            self.server.failed("a frame of HTTP/2 was not understood", error)
            self.h2.close_connection(ErrorCodes.INTERNAL_ERROR)
            self._end()
        else:
            self._note_parts()
            self.write()
            if not self.streams and (self.frames.has_goaway or self._last is not None):
                self.close()

    def _note_parts(self) -> None:
        """Of a head or a body that has come in part, when that began, or went on."""
        if not self.frames.has_part_of_head:
            self._head_since = None
            stream = self.streams.get(self.frames.stream_of_part)
            if stream is not None:
                stream.since = self.rules.tick
        elif self._head_since is None:
            self._head_since = self.rules.tick

    def _begin(self, event: RequestReceived) -> None:
        self._head_since = None
        number = self._highest = event.stream_id
        if not self._has_room():
            self.reset(number, ErrorCodes.REFUSED_STREAM)
            return
        try:
            head = read_head(event.headers, self.server.config)
        except Malformed:
            self.server.refused(400)
            self.reset(number, ErrorCodes.PROTOCOL_ERROR)
            return
        except TooLarge as error:
            self.server.refused(error.status)
            self._refuse(number, error.status, event.stream_ended is not None)
            return
        self.since = self.rules.tick
        self.requests += 1
        stream = Stream(self, number)
        self.streams[number] = stream
        request = stream.request
        request.method, request.path, request.raw_path = head.method, head.path, head.raw_path
        request.headers = head.headers
        request.version = 20
        request.expects = head.expects
        root_path = self.server.config.root_path
        request.scope = {
            "type": "http",
            "asgi": _ASGI.copy(),
            "http_version": "2",
            "server": self.address,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": root_path,
            "headers": head.headers,
            "state": self.server.state.copy(),
            "method": head.method,
            "path": root_path + head.path,
            "raw_path": root_path.encode("latin-1", "replace") + head.raw_path,
            "query_string": head.query,
        }
        extensions: dict[str, Any] = EXTENSIONS.copy()
        if self.tls is not None:
            extensions["tls"] = self.tls.copy()
        request.scope["extensions"] = extensions
        if event.stream_ended is not None:
            stream.has_ended = True
            request.end_of_body()
        if self.server.trusts is not None:
            self.server.trust(self, request)
        self.server.rules.begin(request)
        stream.target = request.target

    def _has_room(self) -> bool:
        if self._last is not None:
            return False
        if len(self.streams) + len(self.orphans) >= MOST_STREAMS:
            self.orphans = {request for request in self.orphans if request.task is not None}
        return len(self.streams) + len(self.orphans) < MOST_STREAMS

    def _refuse(self, number: int, status: int, has_ended: bool) -> None:
        """Answer what is not passed on."""
        fields, _ = write_head(status, [(b"content-length", b"0")], self.defaults.of(self.rules.defaults))
        self.h2.send_headers(number, fields, end_stream=True)
        if not has_ended:
            self.reset(number, ErrorCodes.NO_ERROR)

    def _data(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self._unopened += size
        if self._unopened >= OPEN_AT:
            self.h2.increment_flow_control_window(self._unopened)
            self._unopened = 0
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.feed(event.data, size)

    def _ended(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None and not stream.has_ended:
            stream.has_ended = True
            stream.request.end_of_body()

    def _reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.request.withdrawn = event.remote_reset
            stream.lose()
            self.rest()
        if not event.remote_reset:
            self.frames.spend(RESET)

    def _window(self, event: WindowUpdated) -> None:
        if not event.stream_id:
            if self.blocked:
                self.pump()
        elif (stream := self.streams.get(event.stream_id)) is not None:
            while self.can_write and stream.send_frame():
                pass

    def _settings(self, event: RemoteSettingsChanged) -> None:
        if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
            self.h2.encoder.header_table_size = min(self.h2.encoder.header_table_size, _TABLE)
        if self.blocked:
            self.pump()

    # Going out.

    def write(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def pump(self) -> None:
        """Streams that wait send a frame each in turn, as long as any can."""
        moves = True
        while moves:
            moves = False
            for stream in [*self.blocked]:
                if not self.can_write:
                    return
                moves = stream.send_frame() or moves

    def reset(self, number: int, code: ErrorCodes) -> None:
        """End a stream that is not passed on, or cannot be completed. Raises Abuse where clients make us do so too often."""
        with suppress(ProtocolError):  # it has ended already
            self.h2.reset_stream(number, code)
        if code is not ErrorCodes.NO_ERROR and code is not ErrorCodes.INTERNAL_ERROR:
            self.frames.spend(RESET)

    def rest(self) -> None:
        """A stream has ended."""
        self.since = self.rules.tick
        if not self.streams and (self._last is not None or self.frames.has_goaway):
            self.close()

    def _say_goaway(self, last: int) -> None:
        self.write()
        if not self.transport.is_closing():
            self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=ErrorCodes.NO_ERROR).serialize())

    def close(self) -> None:
        """When all that was written has gone."""
        if not self.closing:
            self.closing = True
            self.write()
            self.transport.close()

    def _end(self) -> None:
        """The client is at fault, and is told so by what waits to be written.

        It may go on sending. A transport of TLS that is closed decrypts all that comes, until the client has closed it, too; so
        nothing more is read, and what the client has been told it can read until the connection is cut.
        """
        self.server.refused(400)
        self.frames.end()
        if not self.closing:
            self.closing = True
            self.write()
            self.transport.pause_reading()
            self._hang_up = asyncio.get_running_loop().call_later(HEARD_S, self.transport.abort)
        self._lose_all()

    def _lose_all(self) -> None:
        for stream in [*self.streams.values()]:
            stream.lose()

    # For the server.

    @property
    def current(self) -> Stream | None:
        """Of the requests that are under way, one."""
        return next(iter(self.streams.values()), None)

    @property
    def is_busy(self) -> bool:
        return bool(self.streams) or self._waits or self.frames.has_part

    def end_idle(self) -> None:
        if self._hang_up is not None:
            self.transport.abort()
            return
        self.refuse_more()
        self.close()

    def shut_down(self) -> None:
        """The stop begins."""
        if not self._has_warned and not self.closing:
            self._has_warned = True
            self._say_goaway(_LAST_STREAM)

    def refuse_more(self) -> None:
        """What clients had sent until the stop has been read."""
        if self._last is None and not self.closing:
            self._last = self._highest
            self._say_goaway(self._last)
            if not self.streams:
                self.close()

    def look(self, tick: int, header: float, body: float, keep_alive: float, response: float) -> None:
        """header, body, keep_alive, response: what these may take, in ticks."""
        self.frames.earn(A_SECOND)
        if self.closing or self.transport.is_closing():
            return
        for stream in [*self.streams.values()]:
            if stream.is_blocked:
                if tick - stream.since > response:
                    stream.time_out()
            elif stream.request.asked and not stream.has_ended and tick - stream.since > body:
                stream.time_out()
        if self._head_since is not None and tick - self._head_since > header:
            self.server.refused(408)
            self.end_idle()
            self._lose_all()
        elif not self.streams and tick - self.since > (keep_alive if self.requests else header):
            self.end_idle()
        self.write()


_HANDLERS: dict[type[Event], Callable[[Http2Connection, Any], None]] = {
    RequestReceived: Http2Connection._begin,
    DataReceived: Http2Connection._data,
    StreamEnded: Http2Connection._ended,
    StreamReset: Http2Connection._reset,
    WindowUpdated: Http2Connection._window,
    RemoteSettingsChanged: Http2Connection._settings,
}
