"""Load on an HTTP server that costs the machine little: what is asked is made before, and answers are counted by their length.

A request a connection is under way. All answers to the same request have one length, which the first one tells; only the date
in them changes.
"""

from __future__ import annotations

import base64
import select
import socket
import time

import msgspec

HANGS_S = 30.0


class Exchange(msgspec.Struct, frozen=True):
    """What is asked again and again, and what the answer ends with. prologue: sent before, once a connection."""

    asked: bytes
    end: bytes
    prologue: bytes = b""


def websocket_echo(path: str, text: bytes) -> Exchange:
    """Masked with zeros, which leave the text as it is. Below 126 bytes."""
    key = base64.b64encode(bytes(16)).decode()
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    return Exchange(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text, bytes([0x81, len(text)]) + text, head.encode())


class HttpLoad:
    def __init__(self, port: int, exchange: Exchange, connections: int) -> None:
        self._asked = exchange.asked
        self._end = exchange.end
        self._length = 0  # of an answer
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), HANGS_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if exchange.prologue:
                sock.sendall(exchange.prologue)
                read_head(sock)
                self._length = len(exchange.end)
            else:
                sock.sendall(exchange.asked)
                self._length = len(read_answer(sock, exchange.end))
            self._connections[sock.fileno()] = sock
            self._poll.register(sock, select.EPOLLIN)

    def run(self, seconds: float) -> int:
        """How many answers came. No request is under way when it returns."""
        missing = dict.fromkeys(self._connections, self._length)
        for sock in self._connections.values():
            sock.sendall(self._asked)
        done, ends = 0, time.monotonic() + seconds
        while missing:
            ready = self._poll.poll(HANGS_S)
            if not ready:
                raise SystemExit(f"no answer to {self._asked[:40]!r} for {HANGS_S:g} s")
            for descriptor, _ in ready:
                sock = self._connections[descriptor]
                data = sock.recv(missing[descriptor])
                missing[descriptor] -= len(data)
                if not data or (not missing[descriptor] and not data.endswith(self._end[-len(data) :])):
                    raise SystemExit(f"an unexpected answer to {self._asked[:40]!r}: {data[:200]!r}")
                if missing[descriptor]:
                    continue
                done += 1
                if time.monotonic() < ends:
                    missing[descriptor] = self._length
                    sock.sendall(self._asked)
                else:
                    del missing[descriptor]
        return done

    def close(self) -> None:
        self._poll.close()
        for sock in self._connections.values():
            sock.close()


def read_head(sock: socket.socket) -> None:
    """Of the answer to a handshake."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(1)  # and nothing of what comes after
        if not part:
            raise SystemExit(f"a connection was closed after {data!r}")
        data += part
    if not data.startswith(b"HTTP/1.1 101 "):
        raise SystemExit(f"a handshake was answered {data!r}")


def read_answer(sock: socket.socket, end: bytes) -> bytes:
    """A whole one. SystemExit if it is no success."""
    data = b""
    while not (data.startswith(b"HTTP/1.1 200 ") and data.endswith(end)):
        part = sock.recv(65_536)
        if not part or (len(data) > 13 and not data.startswith(b"HTTP/1.1 200 ")):
            raise SystemExit(f"an answer that should end with {end!r}: {data!r}")
        data += part
    return data
