"""The supervisor's side of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable

import msgspec

from clockworker._errors import UsageError
from clockworker.shards.observe._admission import Admission
from clockworker.shards.observe._query import (
    MAX_REQUEST,
    MAX_TRACE_S,
    AskRings,
    AskStats,
    AskTrace,
    Recording,
    Refused,
    Rings,
    Stats,
    decode_request,
    frame,
)
from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._reading import RingReading

log = logging.getLogger("clockworker.supervisor")

MAX_CONNECTIONS = 16
_CHUNK = 256 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")


class Answers(msgspec.Struct, frozen=True):
    """Who knows. trace: recordings as they come, each a shard and an open file, which is the caller's to close."""

    stats: Callable[[], ServerStats]
    rings: Callable[[], list[list[RingReading]]]
    trace: Callable[[float], AsyncGenerator[tuple[int, int], None]]


class QueryServer:
    """Owns the socket. most: connections at once."""

    def __init__(self, sock: socket.socket, answers: Answers, most: int = MAX_CONNECTIONS) -> None:
        self._most = most
        self._sock = sock
        self._answers = answers
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._admission = Admission(self._sock, self._connected)

    async def close(self) -> None:
        self._admission.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._most or not _may_ask(writer.get_extra_info("socket")):
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size > MAX_REQUEST:
                    writer.write(frame(Refused(f"a request of {size} bytes is too long: {MAX_REQUEST} at most")))
                    await writer.drain()
                    return
                await self._answer(await reader.readexactly(size), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it went away
        except OSError as error:
            log.error("answering at the control socket failed: %s", error)
        except Exception:
            log.exception("answering at the control socket failed")
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = decode_request(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            writer.write(frame(Refused(f"the request cannot be read: {error}")))
            return
        match request:
            case AskStats():
                writer.write(frame(Stats(self._answers.stats())))
            case AskRings():
                writer.write(frame(Rings(self._answers.rings())))
            case AskTrace(seconds) if not 0 < seconds <= MAX_TRACE_S:
                reason = f"a trace of {seconds:g} s is not possible; more than 0 and at most {MAX_TRACE_S:g} is"
                writer.write(frame(Refused(reason)))
            case AskTrace(seconds):
                try:
                    async with contextlib.aclosing(self._answers.trace(seconds)) as recordings:
                        async for shard, descriptor in recordings:
                            with os.fdopen(descriptor, "rb") as file:
                                await _send_recording(writer, shard, file.fileno())
                    writer.write(frame(Recording(-1, 0)))
                except UsageError as error:
                    writer.write(frame(Refused(str(error))))


async def _send_recording(writer: asyncio.StreamWriter, shard: int, descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    writer.write(frame(Recording(shard, size)))
    for start in range(0, size, _CHUNK):
        writer.write(os.pread(descriptor, min(_CHUNK, size - start), start))
        await writer.drain()


def _may_ask(sock: socket.socket) -> bool:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, user, _ = _PEER_CREDENTIALS.unpack(credentials)
    return user in (0, os.geteuid())
