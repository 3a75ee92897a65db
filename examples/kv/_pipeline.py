"""Commands on keys that arrived together, run with as few crossings as can be.

Those whose keys this shard owns run at once, as long as it has them: while they move to its successor, and afterwards, it is
no nearer to them than to any others. The others are laid in one batch for each shard that owns keys, and one call carries each
batch. So commands on different shards run in no set order, but those on one key run in the client's,
and the replies stand in the order of the requests.
"""

from __future__ import annotations

import asyncio

import clockworker as cw

from ._commands import ManyKeys, OneKey, run
from ._everywhere import Service
from ._resp import Error, Reply, Scalar


class _Batch:
    """Commands for one other shard, and for each the list and the place in it where its reply goes."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.targets: list[tuple[list[Reply] | list[Scalar], int]] = []


class Pipeline:
    def __init__(self, shard: cw.Shard, service: Service) -> None:
        self.replies: list[Reply] = []  # complete, and in order, after `settle`
        self._owner = shard.owner
        self._here = shard.id if service.is_here else None
        self._service = service
        self._local = service.local
        self._batches: dict[int, _Batch] = {}
        self._split: list[tuple[int, ManyKeys, list[Scalar]]] = []  # place in `replies`, command, its parts' replies

    def run_one(self, command: OneKey, arguments: list[bytes]) -> None:
        shard = self._owner(arguments[1])
        if shard == self._here:
            self.replies.append(self._local.run_local(command.run, arguments))
        else:
            self._lay(shard, arguments, self.replies)

    def run_many(self, command: ManyKeys, arguments: list[bytes]) -> None:
        parts: list[Scalar] = []
        for shard, part in command.split(arguments, self._owner):
            if shard == self._here:
                parts.append(self._local.run_local(run, part))
            else:
                self._lay(shard, part, parts)
        self._split.append((len(self.replies), command, parts))
        self.replies.append(None)

    def _lay(self, shard: int, arguments: list[bytes], replies: list[Reply] | list[Scalar]) -> None:
        """Into the batch of that shard. The reply will come where `replies` ends now."""
        batch = self._batches.get(shard)
        if batch is None:
            batch = self._batches[shard] = _Batch()
        batch.commands.append(arguments)
        batch.targets.append((replies, len(replies)))
        replies.append(None)

    @property
    def settled(self) -> bool:
        return not self._batches and not self._split

    async def settle(self) -> None:
        """Send the batches and wait for their replies."""
        if len(self._batches) == 1:
            [(shard, batch)] = self._batches.items()
            await self._cross(shard, batch)
        elif self._batches:
            await asyncio.gather(*[self._cross(shard, batch) for shard, batch in self._batches.items()])
        for place, command, parts in self._split:
            error = next((part for part in parts if isinstance(part, Error)), None)
            self.replies[place] = error or command.combine(parts)

    async def _cross(self, shard: int, batch: _Batch) -> None:
        """Large replies come in instalments. A shard that is lost leaves errors in place of the missing ones."""
        done = 0
        try:
            while done < len(batch.commands):
                replies = await self._service.on(shard).execute(batch.commands[done:] if done else batch.commands)
                for (target, place), reply in zip(batch.targets[done:], replies, strict=False):
                    target[place] = reply
                done += len(replies)
        except cw.CallError as error:
            for target, place in batch.targets[done:]:
                target[place] = call_failed(error, shard)


def call_failed(error: cw.CallError, shard: int | None = None) -> Error:
    """What a client is told about a shard that gave no answer. Its connection lives on."""
    which = "a shard" if shard is None else f"shard {shard}"
    if isinstance(error, cw.ShardDown):
        return Error(f"CLUSTERDOWN {which} is down".encode())
    if isinstance(error, cw.ShardDied):
        return Error(f"ERR {which} died with the command in flight; it may or may not have run".encode())
    return Error(f"ERR {which}: {error}".encode())
