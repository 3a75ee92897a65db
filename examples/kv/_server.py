"""The way of a request: chunk, commands, shards, replies, one write."""

from __future__ import annotations

import asyncio
import itertools

import clockworker as cw

from ._commands import ManyKeys, OneKey
from ._everywhere import Everywhere, Service
from ._pipeline import Pipeline, call_failed
from ._request import RequestReader
from ._resp import Error, Reply, encode
from ._session import OnConnection, Session
from ._table import find_command

READ_BYTES = 64 << 10
PIPELINE = 256  # commands that are answered with one write and run before others have their turn


class Server:
    """Answers the connections of one shard."""

    def __init__(self, shard: cw.Shard, service: Service) -> None:
        self.shard = shard
        self.service = service
        self._commands = shard.counter("kv_commands")
        # Dealt to the shards in turn, so that no two connections of the server have the same number.
        self._ids = itertools.count(shard.count + shard.id, shard.count)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the client ends it, says QUIT or breaks the protocol. Returning closes it."""
        session = Session(next(self._ids))
        requests = RequestReader()
        while data := await reader.read(READ_BYTES):
            commands = requests.feed(data)
            for start in range(0, len(commands), PIPELINE):
                if start:
                    await asyncio.sleep(0)
                writer.write(await self._answer(session, commands[start : start + PIPELINE]))
                await writer.drain()
                if session.closing:
                    return
            if requests.error is not None:
                error = Error(b"ERR Protocol error: " + requests.error.encode("latin-1"))
                writer.write(encode(error, session.protocol))
                return

    async def _answer(self, session: Session, commands: list[list[bytes]]) -> bytes:
        """Commands on keys that follow each other make a pipeline; any other command waits for what came before it."""
        answers: list[bytes] = []
        pipeline = Pipeline(self.shard, self.service)
        for arguments in commands:
            command = find_command(arguments)
            if isinstance(command, OneKey):
                pipeline.run_one(command, arguments)
            elif isinstance(command, ManyKeys):
                pipeline.run_many(command, arguments)
            elif isinstance(command, Error):
                pipeline.replies.append(command)
            else:
                await self._settle(pipeline, session, answers)
                pipeline = Pipeline(self.shard, self.service)
                answers.append(encode(await self._run(command, session, arguments), session.protocol))
                if session.closing:
                    break
        await self._settle(pipeline, session, answers)
        self._commands.add(len(answers))
        return b"".join(answers)

    async def _settle(self, pipeline: Pipeline, session: Session, answers: list[bytes]) -> None:
        if not pipeline.settled:
            await pipeline.settle()
        protocol = session.protocol
        answers += [encode(reply, protocol) for reply in pipeline.replies]

    async def _run(self, command: OnConnection | Everywhere, session: Session, arguments: list[bytes]) -> Reply:
        if isinstance(command, OnConnection):
            return command.run(session, arguments)
        try:
            return await command.run(self.service, arguments)
        except cw.CallError as error:
            return call_failed(error)
