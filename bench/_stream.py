"""What one would write without Clockworker: a Unix stream between two uvloops, and typed calls with msgspec over it.

In two ways. `FrameProtocol` is as fast as it is easily made: an asyncio protocol, one write for all that a turn of the loop
has to send. `FrameStream` is how most people write it: asyncio's streams, `readexactly`, and `drain` after each write. Calls
over both have typed decoders and a task for each request, as the methods are coroutines.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

import msgspec

_PREFIX = 4  # bytes of a frame's length
_NO_REPLY = 0  # the number of a call that is not answered
_READ_AHEAD = 1 << 20  # bytes

Take = Callable[[bytes], None]


class Frames(Protocol):
    """A way to send frames. What comes is given to the `take` that it was made with."""

    async def connect(self, end: socket.socket) -> None: ...
    def send(self, body: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


Make = Callable[[Take], Frames]


class FrameProtocol(asyncio.Protocol):
    """Frames with a length before them. `take` is given each; `can_write` is set while the transport's buffer has room."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.transport: asyncio.Transport

    async def connect(self, end: socket.socket) -> None:
        await self._loop.create_unix_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    def send(self, body: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._write)
        self._outgoing.append(len(body).to_bytes(_PREFIX, "little"))
        self._outgoing.append(body)

    async def drain(self) -> None:
        """Wait for room. Who sends what is bounded anyway need not."""
        await self.can_write.wait()

    def close(self) -> None:
        self.transport.close()

    def _write(self) -> None:
        self.transport.writelines(self._outgoing)
        self._outgoing = []

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= _PREFIX:
            end = position + _PREFIX + int.from_bytes(buffer[position : position + _PREFIX], "little")
            if end > len(buffer):
                break
            self._take(bytes(memoryview(buffer)[position + _PREFIX : end]))
            position = end
        if position:
            del buffer[:position]


class FrameStream:
    """The same frames over asyncio's streams: a task has them taken, or without `take` they are there to `receive`."""

    def __init__(self, take: Take | None = None) -> None:
        self._take = take
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._taking: asyncio.Task[None] | None = None

    async def connect(self, end: socket.socket) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=_READ_AHEAD)
        if self._take is not None:
            self._taking = asyncio.get_running_loop().create_task(self._take_all(self._take))

    def send(self, body: bytes) -> None:
        self._writer.writelines((len(body).to_bytes(_PREFIX, "little"), body))

    async def drain(self) -> None:
        await self._writer.drain()

    async def receive(self) -> bytes:
        length = int.from_bytes(await self._reader.readexactly(_PREFIX), "little")
        return await self._reader.readexactly(length)

    async def _take_all(self, take: Take) -> None:
        while True:
            take(await self.receive())

    def close(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
        self._writer.close()


class TypedProtocol(FrameProtocol):
    """Frames that are what a request without a reply is: the name of a method and its arguments, whose types are checked."""

    def __init__(self, take: Take) -> None:
        super().__init__(lambda data: take(decode(data)[1][0]))
        decode = msgspec.msgpack.Decoder(tuple[str, tuple[bytes]]).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def send(self, body: bytes) -> None:
        super().send(self._encode(("take", (body,))))


class TypedStream(FrameStream):
    """The same over asyncio's streams."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = msgspec.msgpack.Decoder(tuple[str, tuple[bytes]]).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def send(self, body: bytes) -> None:
        super().send(self._encode(("take", (body,))))

    async def receive(self) -> bytes:
        return self._decode(await super().receive())[1][0]


class RpcClient:
    """Calls by number: the request is (number, method, arguments), the reply (number, result)."""

    def __init__(self, make: Make, results: dict[str, type]) -> None:
        self.frames = make(self._settle)
        self._drains = isinstance(self.frames, FrameStream)
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.msgpack.Encoder()
        self._reply = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
        self._results: dict[str, msgspec.msgpack.Decoder[Any]] = {
            method: msgspec.msgpack.Decoder(kind) for method, kind in results.items()
        }
        self._calls: dict[int, tuple[asyncio.Future[Any], Any]] = {}
        self._number = 0

    async def call(self, method: str, *arguments: Any) -> Any:
        self._number += 1
        future = self._loop.create_future()
        self._calls[self._number] = (future, self._results[method])
        self.frames.send(self._encoder.encode((self._number, method, arguments)))
        if self._drains:
            await self.frames.drain()
        return await future

    def notify(self, method: str, *arguments: Any) -> None:
        """A call that nobody answers. Drain now and then."""
        self.frames.send(self._encoder.encode((_NO_REPLY, method, arguments)))

    def _settle(self, body: bytes) -> None:
        number, result = self._reply.decode(body)
        future, decoder = self._calls.pop(number)
        if not future.done():
            future.set_result(decoder.decode(result))


class RpcServer:
    """The other end: methods by name, with the types of their arguments."""

    def __init__(self, make: Make, methods: dict[str, tuple[Callable[..., Coroutine[Any, Any, Any]], Any]]) -> None:
        self.frames = make(self._accept)
        self._drains = isinstance(self.frames, FrameStream)
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.msgpack.Encoder()
        self._request = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])
        self._methods = {name: (method, msgspec.msgpack.Decoder(types)) for name, (method, types) in methods.items()}
        self._running: set[asyncio.Task[None]] = set()

    def _accept(self, body: bytes) -> None:
        number, name, arguments = self._request.decode(body)
        method, decoder = self._methods[name]
        task = self._loop.create_task(self._serve(number, method, decoder.decode(arguments)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, number: int, method: Callable[..., Coroutine[Any, Any, Any]], arguments: Any) -> None:
        result = await method(*arguments)
        if number == _NO_REPLY:
            return
        self.frames.send(self._encoder.encode((number, result)))
        if self._drains:
            await self.frames.drain()
