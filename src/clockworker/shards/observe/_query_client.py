"""A tool's side of the control socket."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from clockworker._errors import ControlError
from clockworker.shards.observe._query import (
    MAX_ANSWER,
    MAX_TRACE_S,
    AskRings,
    AskStats,
    AskTrace,
    Recording,
    Refused,
    Reply,
    Request,
    Rings,
    Stats,
    decode_reply,
    frame,
)
from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._reading import RingReading

ANSWER_S = 20.0  # by then it stands still, as one that was stopped does


class QueryClient:
    """A tool's connection. Raises `ControlError` if the supervisor refuses or is gone, or is silent for timeout_s seconds."""

    def __init__(self, path: Path, timeout_s: float = ANSWER_S) -> None:
        self._timeout_s = timeout_s
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise ControlError(f"no supervisor answers at {path}: {error.strerror or error}") from error

    def stats(self) -> ServerStats:
        match self._ask(AskStats()):
            case Stats(stats):
                return stats
            case reply:
                raise _unexpected(reply)

    def rings(self) -> list[list[RingReading]]:
        match self._ask(AskRings()):
            case Rings(rings):
                return rings
            case reply:
                raise _unexpected(reply)

    def trace(self, seconds: float) -> dict[int, bytes]:
        """The recording of each shard. Waits for as long."""
        found = {}
        self._sock.settimeout(self._timeout_s + min(MAX_TRACE_S, max(0.0, seconds)))
        reply = self._ask(AskTrace(seconds))
        while isinstance(reply, Recording) and reply.shard >= 0:
            found[reply.shard] = self._receive(reply.size)
            reply = self._reply()
        if not isinstance(reply, Recording):
            raise _unexpected(reply)
        return found

    def close(self) -> None:
        self._sock.close()

    def _ask(self, request: Request) -> Reply:
        try:
            self._sock.sendall(frame(request))
        except OSError as error:
            raise ControlError(f"the supervisor is gone: {error.strerror or error}") from error
        return self._reply()

    def _reply(self) -> Reply:
        size = int.from_bytes(self._receive(4), "big")
        if size > MAX_ANSWER:
            raise ControlError(f"an answer of {size} bytes is too long: {MAX_ANSWER} at most")
        try:
            return decode_reply(self._receive(size))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ControlError(
                f"the supervisor, of another version perhaps, gives an answer that is none: {error}"
            ) from error

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._sock.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise ControlError(
                    f"the supervisor has not answered for {self._sock.gettimeout():g} s: it stands still, or is stopped"
                ) from None
            except OSError as error:
                raise ControlError(f"the supervisor is gone: {error.strerror or error}") from error
            if not piece:
                raise ControlError("the supervisor has closed the connection: it is stopping, or another user's")
            data += piece
        return bytes(data)


def _unexpected(reply: Reply) -> ControlError:
    return ControlError(reply.reason if isinstance(reply, Refused) else f"{type(reply).__name__} was not asked for")
