"""A WebSocket in ASGI, on the sans-I/O server of `websockets`, which parses frames, answers pings and closes, and compresses.
`_websocket_frames` makes messages of what it gives. What else it leaves to its users is here: the handshake's place in ASGI,
the flow in both directions, pings, and how it ends.

An application is *connecting* until it accepts; then *open*; or it *denies*, with a response of its own. When either side has
closed, or the client has left, all is *closed* to it: `receive` gives what had come before, and then the disconnect, as often
as it is called; `send` raises.

What a client can make us keep is bounded (`_websocket_inbox`). Pings that come faster than pongs can be written are answered by
one pong, of the last.

There is no timer and no task beside the application's. The server looks at all connections once in a while (`look`), and each
has one time, in the server's ticks, at which something is due: a ping, its pong, the client's part in closing. A client whose
messages we don't read cannot be heard answering: then the pong may come later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode
from websockets.http11 import Request as Handshake
from websockets.protocol import SEND_EOF

from clockworker._errors import ClientLeft, UsageError
from clockworker.http._head import RETRY_AFTER_S, STATUS_LINES
from clockworker.http._request_cy import READY
from clockworker.http._websocket_frames_cy import PLAIN_BINARY, PLAIN_TEXT, new_protocol, plain_frame
from clockworker.http._websocket_inbox_cy import Inbox, Waiters

_CLOSE_S = 10.0  # for the client's part in closing
_LINGER_S = 2.0  # for a client that is still sending to read why it was cut off
_QUIET_S = 0.1  # after which it is taken to have read it

# What the application may do.
_CONNECTING = 0
_DENYING = 1  # the response has been started
_OPEN = 2
_CLOSED = 3

_EXPECTED = {
    _CONNECTING: ("websocket.accept", "websocket.close", "websocket.http.response.start"),
    _DENYING: ("websocket.http.response.body",),
    _OPEN: ("websocket.send", "websocket.close"),
}

_NEVER = float("inf")
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_EXTENSIONS: dict[str, Any] = {"websocket.http.response": {}}
_LEAST_DEFLATED = 64  # bytes; what is smaller would save less than the headers take that TCP and IP give it


class WebSocket:
    """connection: an HttpConnection. request: of the handshake. server: an HttpServer.

    status: of the handshake's answer; 0: there was none.
    """

    def __init__(self, connection: Any, request: Any, server: Any) -> None:
        config = server.config
        self.status = 0
        self.sent = 0  # bytes of messages
        self._connection = connection
        self._transport: asyncio.Transport = connection.transport
        self._request = request
        self._server = server
        self._state = _CONNECTING
        self._left = False  # the client has, or the connection was ended without the application
        self._stopping = False
        self._disconnect: dict[str, Any] | None = None
        self._connects = True  # the application has not been told yet that a client wants to connect
        # Going out.
        self._writable = True
        self._senders = Waiters()
        self._pong = b""  # the last, not written yet
        self._least_deflated = _NEVER
        # Time.
        self._ping_interval: float = config.ws_ping_interval or 0
        self._ping_timeout: float = config.ws_ping_timeout or 0
        self._ping = 0
        self._awaited = b""
        self._unsent = 0
        self._at = _NEVER
        self._due: Callable[[WebSocket], None] = WebSocket._send_ping  # bound, it would make a cycle
        self._protocol = new_protocol(config.ws_max_size, config.ws_per_message_deflate)
        self._inbox = Inbox(
            self._transport,
            self._protocol,
            most_messages=config.ws_max_queue,
            most=config.ws_max_size,
            pong=self._answered,
            answer=self._answer,
            later=server.backlog.add,
        )
        self.data_received = self._inbox.feed  # for the connection
        scope = request.scope
        scope["asgi"] = _ASGI.copy()
        scope["extensions"] = {**scope.get("extensions", {}), **_EXTENSIONS}
        scope["subprotocols"] = [
            name
            for header, value in request.headers
            if header == b"sec-websocket-protocol"
            for each in value.decode("latin-1").split(",")
            if (name := each.strip())
        ]

    # For the server.

    async def run(self) -> None:
        """The application, from the handshake to its end."""
        if self._left:
            return
        response = self._protocol.accept(_handshake(self._request))
        if response.status_code != 101:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in response.headers.raw_items()]
            self._deny(response.status_code, [header for header in headers if header[0].lower() != b"date"])
            self._send_body(bytes(response.body or b""), False)
            return
        self._response = response
        try:
            returned = await self._server.app(self._request.scope, self.asgi_receive, self.asgi_send)
        except ClientLeft:
            self._end(CloseCode.INTERNAL_ERROR)
        except Exception as error:
            self._server.failed("Exception in ASGI application", error)
            self._end(CloseCode.INTERNAL_ERROR)
        except BaseException:
            self._end(CloseCode.INTERNAL_ERROR)
            raise
        else:
            if returned is not None:
                self._server.failed(f"ASGI callable should return None, but returned {returned!r}.", None)
            elif self._state == _CONNECTING:
                self._server.failed("ASGI callable returned without completing handshake.", None)
            elif self._state == _DENYING:
                self._server.failed("ASGI callable returned without completing response.", None)
            self._end(CloseCode.NORMAL_CLOSURE if returned is None else CloseCode.INTERNAL_ERROR)

    def shut_down(self) -> None:
        """The server stops. A client that has not been accepted yet will be, and is told then; but not by an application that
        waits for its client to say something before it accepts."""
        self._stopping = True
        if self._state == _OPEN:
            self._close(CloseCode.SERVICE_RESTART)
        elif self._state == _CONNECTING and self._inbox.receivers:
            self._give_up()

    def _give_up(self) -> None:
        self._deny(503, [(b"retry-after", b"%d" % RETRY_AFTER_S), (b"content-type", b"text/plain; charset=utf-8")])
        self._send_body(b"Service Unavailable", False)
        self._left = True

    def look(self) -> None:
        """Whether something is due."""
        if self._server.rules.tick > self._at:
            self._at = _NEVER
            self._due(self)

    def _end(self, code: CloseCode) -> None:
        """The application has ended."""
        if self._state == _OPEN:
            self._close(code)
        elif self._state == _CONNECTING or (self._state == _DENYING and self._request.head is not None):
            self._request.head = None
            self._deny(500, [(b"content-type", b"text/plain; charset=utf-8")])
            self._send_body(b"Internal Server Error", False)
        elif self._state == _DENYING:
            self._finish({"code": 1006})
            self._transport.abort()

    # For the connection.

    def eof_received(self) -> bool:
        """A client that only says that it will send no more says so without closing: it has left."""
        self._leave()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._at = _NEVER
        self._leave()
        self._inbox.release()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._pong:
            self._transport.write(self._pong)
            self._pong = b""
        self._senders.wake()

    def _leave(self) -> None:
        """The client has, in whatever way."""
        if self._disconnect is None:
            self._finish({"code": 1006})
        self._left = True
        self._inbox.leave()
        self._senders.wake()

    # Coming in.

    def _answer(self, writes: list[bytes]) -> None:
        """What the protocol itself has to say: a pong, or the end."""
        protocol = self._protocol
        if writes[-1] != SEND_EOF:
            if self._writable:
                self._transport.write(b"".join(writes))
            else:
                self._pong = writes[-1]
            return
        received, said = protocol.close_rcvd, protocol.close_sent
        failed = protocol.parser_exc is not None or received is None
        if data := b"".join(writes):
            self._transport.write(data)
        if self._disconnect is None:
            close = said if failed or received is None else received
            self._finish({"code": 1006} if close is None else {"code": int(close.code), "reason": close.reason})
        if failed and said is not None and not self._transport.is_closing():
            # A socket that is closed with something unread is reset, and the reason lost with it. (Half-closing it would say
            # so at once; asyncio's transports, on the other side, then break while they still have something to send.)
            self._inbox.drop()
            self._when(_LINGER_S, WebSocket._over)
            self._linger()
        else:
            self._over()

    def _linger(self) -> None:
        """Until the client has been quiet for a moment, as it is once it has read the reason."""
        if self._inbox.heard:
            self._inbox.heard = False
            asyncio.get_running_loop().call_later(_QUIET_S, self._linger)
        elif not self._transport.is_closing():
            self._over()

    async def asgi_receive(self) -> dict[str, Any]:
        """The next event."""
        if self._connects:
            self._connects = False
            return {"type": "websocket.connect"}
        inbox = self._inbox
        while not inbox.messages:
            if self._stopping and self._state == _CONNECTING:
                self._give_up()
            if self._disconnect is not None:
                return self._disconnect.copy()
            await inbox.receivers.wait()
        message = inbox.pop()
        return {"type": "websocket.receive", "text" if type(message) is str else "bytes": message}

    # Going out.

    def asgi_send(self, message: MutableMapping[str, Any]) -> Any:
        """Send an event. To be awaited: that waits while the client takes nothing. Raises `ClientLeft` if there is nobody to
        take it, and `UsageError` for an event that is out of order."""
        kind = message["type"]
        if kind == "websocket.send" and self._state == _OPEN:
            if not self._writable:
                return self._send_later(message)
            self._send(message)
            return READY
        return self._send_other(message)

    def _send(self, message: MutableMapping[str, Any]) -> None:
        data: Any = message.get("bytes")
        is_text = data is None
        if is_text:
            text = message.get("text")
            if text is None:
                raise UsageError("a websocket.send has neither 'bytes' nor 'text'; give one of them")
            data = text.encode()
        size = len(data)
        self.sent += size
        if size < self._least_deflated:
            self._transport.write(plain_frame(PLAIN_TEXT if is_text else PLAIN_BINARY, data))
            return
        if is_text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._transport.write(b"".join(self._protocol.data_to_send()))

    async def _send_later(self, message: MutableMapping[str, Any]) -> None:
        while not self._writable and not self._left:
            await self._senders.wait()
        if self._state == _OPEN:
            self._send(message)
        else:
            await self._send_other(message)

    def _send_other(self, message: MutableMapping[str, Any]) -> Any:
        kind = message["type"]
        if self._left:
            raise ClientLeft(f"{kind} comes too late: {self._how_it_ended()}")
        if self._state == _CLOSED:
            raise UsageError(f"{kind} comes after the application itself has closed the WebSocket")
        if kind not in _EXPECTED[self._state]:
            *others, last = map(repr, _EXPECTED[self._state])
            wanted = f"{', '.join(others)} or {last}" if others else last
            raise UsageError(f"Expected ASGI message {wanted}, but got {kind!r}.")
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.http.response.start":
            status = message["status"]
            if not 200 <= status <= 599:
                raise UsageError(f"the status of a denial is {status!r}; give a number from 200 to 599")
            self._deny(status, message.get("headers", ()))
        elif kind == "websocket.http.response.body":
            more = message.get("more_body", False)
            self._send_body(message.get("body", b""), more)
            if more and not self._writable:
                return self._drained()
        elif self._state == _CONNECTING:
            self._deny(403, ())
            self._send_body(b"", False)
        else:
            self._close(message.get("code") or 1000, message.get("reason") or "", by_application=True)
        return READY

    async def _drained(self) -> None:
        while not self._writable and not self._left:
            await self._senders.wait()

    def _accept(self, message: MutableMapping[str, Any]) -> None:
        connection, request = self._connection, self._request
        headers = [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in self._response.headers.raw_items()
            if name.lower() not in ("date", "connection")
        ]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        connection.begin_response(request, 200, [*headers, *message.get("headers", ())])
        (_, *parts), request.head = request.head, None  # of a 101 that is the application's own it would be an error
        self.status = 101
        self._state = _OPEN
        self._least_deflated = _LEAST_DEFLATED if self._protocol.extensions else _NEVER
        self._transport.write(b"".join([STATUS_LINES[101], *parts, b"connection: upgrade\r\n\r\n"]))
        if self._stopping or self._server.rules.stopping:
            self._close(CloseCode.SERVICE_RESTART)
            return
        if self._ping_interval > 0:
            self._when(self._ping_interval, WebSocket._send_ping)
        self._inbox.resume()

    def _deny(self, status: int, headers: Any) -> None:
        """Begin a response in place of the handshake's."""
        request = self._request
        request.keep_alive = False
        self._connection.begin_response(request, status, headers)
        self._state = _DENYING
        self.status = status

    def _send_body(self, data: bytes, more: bool) -> None:
        self.sent += len(data)
        self._connection.send_body(self._request, data, more)
        if not more:
            self._finish({"code": 1006}, by_application=True)
            self._over()

    # The end.

    def _close(self, code: int, reason: str = "", *, by_application: bool = False) -> None:
        """From our side. The client answers, and what it sends before that is dropped."""
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError as error:
            wanted = "give 1000, 1001, 1003, 1007 to 1014 or 3000 to 4999, and a reason of at most 123 bytes"
            raise UsageError(f"a WebSocket cannot be closed with {code!r} and {reason!r} ({error}); {wanted}") from None
        self._transport.write(b"".join(self._protocol.data_to_send()))
        self._finish(
            {"code": code, "reason": reason} if by_application else {"code": int(code)}, by_application=by_application
        )
        self._when(_CLOSE_S, WebSocket._over)
        self._inbox.resume()

    def _finish(self, disconnect: dict[str, Any], *, by_application: bool = False) -> None:
        """For the application. It hears the disconnect after the messages that have come."""
        self._state = _CLOSED
        self._left = not by_application
        self._inbox.reader.wanted = False
        self._disconnect = {"type": "websocket.disconnect", **disconnect}
        self._inbox.receivers.wake()
        self._senders.wake()

    def _over(self) -> None:
        """All has been said. What is still in the transport's buffer has as long as a client has for closing."""
        self._inbox.drop()
        self._when(_CLOSE_S, WebSocket._abort)
        self._connection.close_websocket()

    def _how_it_ended(self) -> str:
        assert self._disconnect is not None
        code, reason = self._disconnect["code"], self._disconnect.get("reason")
        return f"the client has left ({code})" if not reason else f"the client has left ({code}: {reason})"

    # Time.

    def _when(self, seconds: float, due: Callable[[WebSocket], None]) -> None:
        self._at = self._server.rules.tick + seconds / self._server.look_s
        self._due = due

    def _abort(self) -> None:
        self._transport.abort()

    def _send_ping(self) -> None:
        self._ping += 1
        self._awaited = self._ping.to_bytes(4, "big")
        self._unsent = self._transport.get_write_buffer_size()
        if self._writable:
            self._protocol.send_ping(self._awaited)
            self._transport.write(b"".join(self._protocol.data_to_send()))
        if self._ping_timeout > 0:
            self._when(self._ping_timeout, WebSocket._unanswered)
        else:
            self._when(self._ping_interval, WebSocket._send_ping)

    def _answered(self, pong: bytes) -> None:
        if pong != self._awaited:
            return
        self._awaited = b""
        if self._state == _OPEN:
            self._when(self._ping_interval, WebSocket._send_ping)

    def _unanswered(self) -> None:
        """The pong is late."""
        unsent = self._transport.get_write_buffer_size()
        if self._inbox.paused or 0 < unsent < self._unsent:
            self._unsent = unsent
            # It may have come, or the client is still taking what was before.
            self._when(self._ping_timeout, WebSocket._unanswered)
            return
        self._protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._answer(self._protocol.data_to_send())


def _handshake(request: Any) -> Handshake:
    """As `websockets` has it. The path it only looks at for its log."""
    headers = Headers()
    for name, value in request.headers:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    return Handshake(request.raw_path.decode("latin-1"), headers)
