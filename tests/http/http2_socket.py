"""A client of HTTP/2 over a TLS socket. It blocks."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from hyperframe.frame import Frame

from tests.http.http2 import Answer

DEADLINE = 120.0


class Closed(Exception):
    """The server has closed the connection."""


class SocketClient:
    """last_stream: of the newest GOAWAY; None: none has come."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(address, DEADLINE)
        try:
            self.sock = context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self.answers: dict[int, Answer] = {}
        self.last_stream: int | None = None
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=False))
        self.h2.local_settings.enable_push = 0
        self.h2.initiate_connection()
        self._unparsed = b""
        try:
            assert self.sock.selected_alpn_protocol() == "h2"
            self.flush()
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> SocketClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def ask(self, path: str = "/", method: str = "GET", *headers: tuple[bytes, bytes], ended: bool = True) -> int:
        """Returns the number of the stream."""
        number = self.h2.get_next_available_stream_id()
        head = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        self.h2.send_headers(number, [*head, *headers], end_stream=ended)
        self.answers[number] = Answer()
        self.flush()
        return number

    def finish(self, number: int, body: bytes) -> None:
        self.h2.send_data(number, body, end_stream=True)
        self.flush()

    def get(self, path: str, *headers: tuple[bytes, bytes]) -> Answer:
        return self.wait(self.ask(path, "GET", *headers))

    def wait(self, number: int) -> Answer:
        """Until it has ended. Raises Closed."""
        end = time.monotonic() + DEADLINE
        while not ((answer := self.answers[number]).ended or answer.reset is not None):
            assert time.monotonic() < end, f"stream {number} has not ended: {answer}"
            self.receive()
        return answer

    def receive(self) -> None:
        """What comes next. Raises Closed."""
        data = self.sock.recv(65_536)
        if not data:
            raise Closed
        self._unparsed += data
        while len(self._unparsed) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._unparsed[:9]))
            if len(self._unparsed) < 9 + length:
                break
            whole, self._unparsed = self._unparsed[: 9 + length], self._unparsed[9 + length :]
            if frame.type == 7:  # after it h2 would say nothing of what else comes
                self.last_stream = int.from_bytes(whole[9:13])
                continue
            for event in self.h2.receive_data(whole):
                self._note(event)
        self.flush()

    def _note(self, event: Any) -> None:
        answer = self.answers.setdefault(getattr(event, "stream_id", 0) or 0, Answer())
        if isinstance(event, ResponseReceived):
            assert event.headers is not None
            head = [(bytes(name), bytes(value)) for name, value in event.headers]
            answer.status, answer.headers = int(head[0][1]), head[1:]
        elif isinstance(event, DataReceived):
            assert event.data is not None
            answer.body += event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
        elif isinstance(event, StreamEnded):
            answer.ended = True
        elif isinstance(event, StreamReset) and event.remote_reset:
            answer.reset = int(event.error_code)  # type: ignore[arg-type]
