"""What the test kit (`testing`) puts beside an application in every shard: a socket where a test asks for a method of one
of the services that were started. One question and one answer a connection, each a length and a msgpack body.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import msgspec

from clockworker._errors import UsageError
from clockworker.ipc import Sharded
from clockworker.shards.config._application import Main, load_application
from clockworker.shards.config._declaration import Application
from clockworker.shards.worker._fork import own_servers
from clockworker.shards.worker._shard import Shard

M = TypeVar("M")

APPLICATION_VARIABLE = "CLOCKWORKER_TESTING_APP"
SOCKETS_VARIABLE = "CLOCKWORKER_TESTING_SOCKETS"
ENCODE_VARIABLE = "CLOCKWORKER_TESTING_ENCODE_LOCAL_CALLS"

_LENGTH = 4


class Question(msgspec.Struct, frozen=True):
    """A method, by the module and the qualified name of its function."""

    module: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """`error` is None where there is a result, encoded."""

    result: bytes = b""
    error: str | None = None
    type_name: str = ""
    trace: str = ""


def send(connection: socket.socket, message: msgspec.Struct) -> None:
    body = msgspec.msgpack.encode(message)
    connection.sendall(len(body).to_bytes(_LENGTH, "little") + body)


def receive(connection: socket.socket, kind: type[M]) -> M:
    """Raises `OSError` if the connection ends before the message does."""

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = connection.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("the connection ended in the middle of an answer")
            data += piece
        return data

    return msgspec.msgpack.decode(read(int.from_bytes(read(_LENGTH), "little")), type=kind)


def make() -> Main:
    """The factory: the application that is tested, with an agent beside it."""
    application = load_application(os.environ[APPLICATION_VARIABLE], ".", factory=False)

    async def main(shard: Shard) -> object:
        shard._mesh.home.encode_local = ENCODE_VARIABLE in os.environ
        server = await _Agent(shard).listen(f"{os.environ[SOCKETS_VARIABLE]}/shard-{shard.id}")
        try:
            return await application(shard)
        finally:
            server.close()

    return Application(main, application.queues, application.served)


class _Agent:
    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._services: dict[type, Sharded[Any]] = {}
        start = shard.start

        async def start_and_remember(service: Callable[..., Any], *args: Any, **kwargs: Any) -> Sharded[Any]:
            sharded = await start(service, *args, **kwargs)
            if isinstance(service, type):
                self._services[service] = sharded
            return sharded

        shard.start = start_and_remember  # type: ignore[method-assign]

    async def listen(self, path: str) -> asyncio.AbstractServer:
        """At this path from when the shard is ready: there may be another incarnation meanwhile, and it may stay."""
        own = f"{path}-{os.getpid()}"
        ready = self._shard.ready

        def take_place() -> None:
            with contextlib.suppress(FileNotFoundError):  # it has been taken
                os.rename(own, path)
            ready()

        self._shard.ready = take_place  # type: ignore[method-assign]
        server = await asyncio.start_unix_server(self._answer, own)
        own_servers.add(own)
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await reader.readexactly(int.from_bytes(await reader.readexactly(_LENGTH), "little"))
        try:
            answer = Reply(await self._call(msgspec.msgpack.decode(body, type=Question)))
        except Exception as error:
            kind = type(error)
            text = f"{kind.__name__}: {error}"
            answer = Reply(b"", text, f"{kind.__module__}.{kind.__qualname__}", traceback.format_exc())
        body = msgspec.msgpack.encode(answer)
        writer.write(len(body).to_bytes(_LENGTH, "little") + body)
        writer.close()

    async def _call(self, question: Question) -> bytes:
        class_name, _, name = question.name.rpartition(".")
        owner: Any = importlib.import_module(question.module)
        for part in class_name.split("."):
            owner = getattr(owner, part)
        for service, sharded in self._services.items():
            if issubclass(service, owner):
                method = getattr(sharded.local, name)
                signature = inspect.signature(method).bind(*question.args, **question.kwargs)
                remote = sharded._methods.get(name)
                hints = remote.types if remote is not None else get_type_hints(method)
                for parameter, value in signature.arguments.items():
                    signature.arguments[parameter] = msgspec.convert(value, hints.get(parameter, Any))
                return msgspec.msgpack.encode(await method(*signature.args, **signature.kwargs))
        raise UsageError(f"the application has not started {class_name} on this shard")
