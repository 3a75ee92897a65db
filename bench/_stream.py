"""What one would write without Clockworker: a Unix stream between two uvloops, and typed calls with msgspec over it.

As fast as it is easily made: asyncio protocols instead of streams, one write for all that a turn of the loop has to send,
typed decoders, a task for each request, as the methods are coroutines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec

_PREFIX = 4  # bytes of a frame's length


class FrameProtocol(asyncio.Protocol):
    """Frames with a length before them. `take` is given each; `can_write` is set while the transport's buffer has room."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.transport: asyncio.Transport

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


class RpcClient:
    """Calls by number: the request is (number, method, arguments), the reply (number, result)."""

    def __init__(self, results: dict[str, type]) -> None:
        self.protocol = FrameProtocol(self._settle)
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
        self.protocol.send(self._encoder.encode((self._number, method, arguments)))
        return await future

    def _settle(self, body: bytes) -> None:
        number, result = self._reply.decode(body)
        future, decoder = self._calls.pop(number)
        if not future.done():
            future.set_result(decoder.decode(result))


class RpcServer:
    """The other end: methods by name, with the types of their arguments."""

    def __init__(self, methods: dict[str, tuple[Callable[..., Coroutine[Any, Any, Any]], Any]]) -> None:
        self.protocol = FrameProtocol(self._accept)
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
        self.protocol.send(self._encoder.encode((number, await method(*arguments))))
