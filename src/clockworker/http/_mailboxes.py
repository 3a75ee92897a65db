"""Mailboxes: where the messages of a channel layer wait (`channels`), and groups of them.

A mailbox has the name of its channel, and is on one shard: that of the process whose channel it is, or the one that owns the
name. It holds so many messages, each for so long; one more is refused. A message is bytes, so each reader gets a copy. A group
is a topic: each shard that has members of it subscribes, and puts what comes into the mailboxes of those that it has.

Here is what does not need Channels itself, and so is there on every shard, whether that has used the layer yet or not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from clockworker.executor import JoinHandle
from clockworker.ipc import Topic
from clockworker.ipc.calls._remote import remote
from clockworker.shards.worker._current import current_shard
from clockworker.shards.worker._shard import Shard

GROUP_LIMIT = 10_000  # messages of one group that a shard has not put into mailboxes yet


class Rules(msgspec.Struct, frozen=True):
    """Of one channel. capacity: messages. expiry, group_expiry: seconds that a message waits, and a member stays."""

    capacity: int
    expiry: float
    group_expiry: float


class Box:
    """The messages of one channel, each with the time at which it is too old, and who waits for one."""

    def __init__(self) -> None:
        self.messages: deque[tuple[float, bytes]] = deque()
        self.waiting: deque[asyncio.Future[None]] = deque()

    def wake_one(self) -> None:
        """Whoever has waited longest looks at the messages."""
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
                return


class Boxes:
    """Those of one layer on one shard. now: seconds. expired: told of a channel whose messages nobody has read in time."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, expired: Callable[[str], None] = lambda _: None
    ) -> None:
        self._boxes: dict[str, Box] = {}
        self._now = now
        self._expired = expired

    def put(self, channel: str, body: bytes, rules: Rules) -> bool:
        """False if there is no room."""
        box = self._current(channel)
        if len(box.messages) >= rules.capacity:
            return False
        box.messages.append((self._now() + rules.expiry, body))
        box.wake_one()
        return True

    async def take(self, channel: str) -> bytes:
        """The next message, once there is one. Who has waited longest gets it."""
        while True:
            box = self._current(channel)
            if box.messages:
                _, body = box.messages.popleft()
                self._tidy(channel, box)
                return body
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            box.waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and box.messages:
                    box.wake_one()  # in our place
                raise
            finally:
                box.waiting.remove(waiter)
                self._tidy(channel, box)

    def clear(self) -> None:
        """Forget all messages."""
        for channel, box in list(self._boxes.items()):
            box.messages.clear()
            self._tidy(channel, box)

    def __len__(self) -> int:
        return len(self._boxes)

    def _current(self, channel: str) -> Box:
        """Without the messages that are too old."""
        box = self._boxes.get(channel)
        if box is None:
            box = self._boxes[channel] = Box()
        elif box.messages and box.messages[0][0] < self._now():
            while box.messages and box.messages[0][0] < self._now():
                box.messages.popleft()
            self._expired(channel)
        return box

    def _tidy(self, channel: str, box: Box) -> None:
        if not box.messages and not box.waiting and self._boxes.get(channel) is box:
            del self._boxes[channel]


@dataclass
class _Member:
    until: float
    rules: Rules


class _Group:
    """The members of a group that this shard has, and its subscription."""

    def __init__(self, shard: Shard, topic: Topic[bytes], boxes: Boxes) -> None:
        self.members: dict[str, _Member] = {}
        self._topic = topic
        self._boxes = boxes
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: JoinHandle[None] = shard.executor.queues()[0].spawn(self._listen(), name=f"group {topic.name}")

    async def entered(self) -> None:
        """From when what is sent to the group arrives."""
        await asyncio.shield(self._entered)

    def leave(self) -> None:
        self._task.abort()

    async def _listen(self) -> None:
        try:
            async with self._topic.subscribe(limit=GROUP_LIMIT, when_full="drop-newest") as bodies:
                self._entered.set_result(None)
                async for body in bodies:
                    self._deliver(body)
        except Exception as error:  # of those who wait for it to be entered
            if self._entered.done():
                raise
            self._entered.set_exception(error)

    def _deliver(self, body: bytes) -> None:
        now = time.monotonic()
        for channel, member in list(self.members.items()):
            if member.until < now:
                self.members.pop(channel, None)
            else:
                self._boxes.put(channel, body, member.rules)  # who is full does not get it


class Office:
    """One layer on one shard. mark: of this process, in the names of its own channels."""

    def __init__(self, shard: Shard, prefix: str) -> None:
        self.boxes = Boxes(expired=self._has_expired)
        self.mark = f"{shard.id}.{secrets.token_hex(4)}"
        self._shard = shard
        self._prefix = prefix
        self._groups: dict[str, _Group] = {}
        self._own: JoinHandle[None] | None = None

    def own_channel(self, kind: str) -> str:
        """A new name of a channel of this process."""
        if self._own is None:
            self._own = self._shard.executor.queues()[0].spawn(self._listen(), name="own channels")
        return f"{kind}.{self.mark}!{secrets.token_hex(8)}"

    def has(self, channel: str) -> bool:
        """Whether its mailbox is to be here."""
        of_process, is_own, _ = channel.partition("!")
        if is_own:
            return of_process.endswith(f".{self.mark}")
        return self._shard.owner(channel) == self._shard.id

    async def join(self, group: str, channel: str, rules: Rules) -> None:
        """Returns when all that is sent from now on comes to the channel. It leaves after `rules.group_expiry` seconds."""
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = _Group(self._shard, self.topic(group), self.boxes)
        found.members[channel] = _Member(time.monotonic() + rules.group_expiry, rules)
        await found.entered()

    def leave(self, group: str, channel: str) -> None:
        """A channel that is not in it may leave, too."""
        found = self._groups.get(group)
        if found is not None:
            found.members.pop(channel, None)
            if not found.members:
                del self._groups[group]
                found.leave()

    def topic(self, group: str) -> Topic[bytes]:
        """By which messages to the group go to all shards."""
        return self._shard.topic(f"{self._prefix}:{group}", bytes)

    def topic_of(self, mark: str) -> Topic[tuple[str, bytes, Rules]]:
        """What is sent to channels of another incarnation than the one that calls reach."""
        return self._shard.topic(f"{self._prefix}!{mark}", tuple[str, bytes, Rules])

    def flush(self) -> None:
        """Drop all that waits here, and leave all groups."""
        self.boxes.clear()
        for group, found in list(self._groups.items()):
            for channel in list(found.members):
                self.leave(group, channel)

    def _has_expired(self, channel: str) -> None:
        for group, found in list(self._groups.items()):
            if channel in found.members:
                self.leave(group, channel)

    async def _listen(self) -> None:
        async with self.topic_of(self.mark).subscribe(limit=GROUP_LIMIT, when_full="drop-newest") as messages:
            async for channel, body, rules in messages:
                self.boxes.put(channel, body, rules)


_offices: dict[str, Office] = {}  # of this process, by prefix


def office(prefix: str) -> Office:
    """That of this shard."""
    shard = current_shard()
    found = _offices.get(prefix)
    if found is None or found._shard is not shard:
        found = _offices[prefix] = Office(shard, prefix)
    return found


@remote
async def put(prefix: str, channel: str, body: bytes, rules: Rules) -> bool | None:
    """None: the channel is not of this process. False: it is full."""
    here = office(prefix)
    return here.boxes.put(channel, body, rules) if here.has(channel) else None


@remote
async def take(prefix: str, channel: str) -> bytes:
    """The next message of a channel that this shard owns."""
    return await office(prefix).boxes.take(channel)


@remote
async def join(prefix: str, group: str, channel: str, rules: Rules) -> None:
    """A channel of this shard is in the group. Nothing, if it is of another incarnation."""
    here = office(prefix)
    if here.has(channel):
        await here.join(group, channel, rules)


@remote
async def leave(prefix: str, group: str, channel: str) -> None:
    """It is not any more."""
    office(prefix).leave(group, channel)


@remote
async def flush(prefix: str) -> None:
    """Forget all that this shard has of the layer."""
    office(prefix).flush()
