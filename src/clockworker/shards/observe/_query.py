"""The control socket: how tools on the same machine ask a running supervisor what it knows.

A Unix socket of mode 0600, by default in a directory of mode 0700 that belongs to this user; and whoever connects is
asked for its credentials all the same: only this user and root are answered. The conversation is one request and its
answer after the other, each a frame: four bytes of length, big-endian, then JSON. Requests are small, and a longer one
ends the connection. A trace is answered by one frame a shard, each followed by as many bytes as it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from clockworker._errors import AddressUnavailable, ConfigurationError, ControlError, UsageError
from clockworker.shards.config._config import UnixAddress
from clockworker.shards.machine._sockets import explain
from clockworker.shards.observe._admission import Admission
from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._reading import RingReading

log = logging.getLogger("clockworker.supervisor")

MAX_REQUEST = 64 * 1024
MAX_ANSWER = 64 * 1024 * 1024
MAX_CONNECTIONS = 16
MAX_TRACE_S = 60.0
_CHUNK = 256 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")


class AskStats(msgspec.Struct, frozen=True, tag="stats"):
    pass


class AskRings(msgspec.Struct, frozen=True, tag="rings"):
    """The traffic of each pair of shards."""


class AskTrace(msgspec.Struct, frozen=True, tag="trace"):
    """Record all shards for so long."""

    seconds: float


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    stats: ServerStats


class Rings(msgspec.Struct, frozen=True, tag="rings"):
    """rings[i][j]: what shard i says of its traffic with shard j. Empty for a shard that is not there."""

    rings: list[list[RingReading]]


class Recording(msgspec.Struct, frozen=True, tag="recording"):
    """Of one shard; so many bytes follow. The last one is of shard -1, and empty."""

    shard: int
    size: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    reason: str


Request: TypeAlias = AskStats | AskRings | AskTrace
Reply: TypeAlias = Stats | Rings | Recording | Refused

encode = msgspec.json.Encoder().encode
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


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
                    _send(writer, Refused(f"a request of {size} bytes is too long: {MAX_REQUEST} at most"))
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
            request = _request_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _send(writer, Refused(f"the request cannot be read: {error}"))
            return
        match request:
            case AskStats():
                _send(writer, Stats(self._answers.stats()))
            case AskRings():
                _send(writer, Rings(self._answers.rings()))
            case AskTrace(seconds) if not 0 < seconds <= MAX_TRACE_S:
                _send(
                    writer,
                    Refused(f"a trace of {seconds:g} s is not possible; more than 0 and at most {MAX_TRACE_S:g} is"),
                )
            case AskTrace(seconds):
                try:
                    async with contextlib.aclosing(self._answers.trace(seconds)) as recordings:
                        async for shard, descriptor in recordings:
                            with os.fdopen(descriptor, "rb") as file:
                                await _send_recording(writer, shard, file.fileno())
                    _send(writer, Recording(-1, 0))
                except UsageError as error:
                    _send(writer, Refused(str(error)))


async def _send_recording(writer: asyncio.StreamWriter, shard: int, descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    _send(writer, Recording(shard, size))
    for start in range(0, size, _CHUNK):
        writer.write(os.pread(descriptor, min(_CHUNK, size - start), start))
        await writer.drain()


def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    data = encode(reply)
    writer.write(len(data).to_bytes(4, "big") + data)


def _may_ask(sock: socket.socket) -> bool:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, user, _ = _PEER_CREDENTIALS.unpack(credentials)
    return user in (0, os.geteuid())


# Where the socket is.


def default_directory(environment: os._Environ[str] | dict[str, str]) -> Path:
    """Of this user's control sockets."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "clockworker" if runtime else Path(f"/tmp/clockworker-{os.geteuid()}")


def default_path(environment: os._Environ[str] | dict[str, str]) -> Path:
    """Of this supervisor's socket. Makes the directory. Raises `ConfigurationError` if it is not ours alone."""
    directory = default_directory(environment)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be made: {error.strerror}; give another place by --control"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"{directory} must be a directory of this user, of mode 0700; or give --control PATH")
    sweep(directory)
    return directory / f"{os.getpid()}.sock"


def bind(path: Path) -> socket.socket:
    """A listening socket there, of mode 0600. One that nobody listens at any more is replaced. Raises
    `AddressUnavailable`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # from the first moment on
    try:
        if not remove_stale(path) and not path.is_socket():
            raise AddressUnavailable(
                f"--control: {path} is there and is no socket; remove it, or choose another with --control"
            )
        sock.bind(str(path))
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise AddressUnavailable(f"--control: {explain(UnixAddress(str(path)), error, '--control')}") from error
    except AddressUnavailable:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def remove_stale(path: Path) -> bool:
    """Remove a socket that a killed supervisor has left. True if there is none any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                return False
            probe.connect(str(path))
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                return False
            path.unlink(missing_ok=True)
            return True
    return False


def sweep(directory: Path) -> list[Path]:
    """Remove what killed supervisors have left there, and return what is of living ones. One that is just being bound has
    nobody who listens either: only those are removed whose process is gone too."""
    found = sorted(path for path in directory.glob("*.sock") if path.stem.isdecimal())
    return [path for path in found if Path(f"/proc/{path.stem}").exists() or not remove_stale(path)]


# The other side.


class QueryClient:
    """A tool's connection. Raises `ControlError` if the supervisor refuses or is gone."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise ControlError(f"no supervisor answers at {path}: {error.strerror}") from error

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
        data = encode(request)
        try:
            self._sock.sendall(len(data).to_bytes(4, "big") + data)
        except OSError as error:
            raise ControlError(f"the supervisor is gone: {error.strerror}") from error
        return self._reply()

    def _reply(self) -> Reply:
        size = int.from_bytes(self._receive(4), "big")
        if size > MAX_ANSWER:
            raise ControlError(f"an answer of {size} bytes is too long: {MAX_ANSWER} at most")
        try:
            return _reply_decoder.decode(self._receive(size))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ControlError(
                f"the supervisor, of another version perhaps, gives an answer that is none: {error}"
            ) from error

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._sock.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise ControlError(f"the supervisor is gone: {error.strerror}") from error
            if not piece:
                raise ControlError("the supervisor has closed the connection: it is stopping, or another user's")
            data += piece
        return bytes(data)


def _unexpected(reply: Reply) -> ControlError:
    return ControlError(reply.reason if isinstance(reply, Refused) else f"{type(reply).__name__} was not asked for")


def find_path(target: str | None, environment: os._Environ[str] | dict[str, str]) -> Path:
    """The control socket that a tool means: a path, a supervisor's pid, or None for the only one there is."""
    if target is not None and not target.isdecimal():
        return Path(target)
    directory = default_directory(environment)
    if target is not None:
        return directory / f"{target}.sock"
    found = sweep(directory)
    if not found:
        raise ControlError(f"no server of this user runs (none has its control socket in {directory}); give its path")
    if len(found) > 1:
        raise ControlError(f"several servers run; give the pid of one: {', '.join(path.stem for path in found)}")
    return found[0]
