"""A subscription: the queue of one subscriber.

Messages are put into it as they come, whatever its reader does: so a slow one fills its own queue, and neither a ring nor the
publisher's. What comes when it is full is lost to this subscriber alone, and counted. A message is decoded by the first of a
shard's subscribers that reads it, in that one's queue of the executor, and is the same object for the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from clockworker._errors import ConfigurationError, Lagged, UsageError

if TYPE_CHECKING:
    from clockworker.ipc.topics._topic import Topic

T = TypeVar("T")

WhenFull = Literal["disconnect", "drop-oldest", "drop-newest"]
WAYS: tuple[WhenFull, ...] = ("disconnect", "drop-oldest", "drop-newest")

logger = logging.getLogger("clockworker.ipc")

_NEW, _ENTERED, _LEFT = range(3)


class Message:
    """One for all subscribers of a shard. body: of one that has not been decoded yet."""

    __slots__ = ("body", "value")

    def __init__(self, value: Any, body: bytes | None = None) -> None:
        self.value = value
        self.body = body

    def read(self, decode: Callable[[bytes], Any]) -> Any:
        """Raises what msgspec does if it is not of the topic's type."""
        if self.body is not None:
            self.value = decode(self.body)
            self.body = None
        return self.value


class Subscription(Generic[T]):
    """The messages of one subscriber. Made by `Topic.subscribe`; `async with` enters it, `async for` reads it, in one task.
    Messages that are published after it was entered are in it, in the order of each publisher.

    dropped: how many messages this subscriber did not get, because its queue was full or they could not be read.
    """

    def __init__(self, topic: Topic[T], limit: int, when_full: WhenFull) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(f"limit is {limit!r}; it must be a whole number of messages from 1")
        if when_full not in WAYS:
            raise ConfigurationError(f"when_full is {when_full!r}; it must be one of {', '.join(map(repr, WAYS))}")
        self.dropped = 0
        self._topic = topic
        self._limit = limit
        self._when_full = when_full
        self._messages: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._state = _NEW
        self._cut = False  # it was full, under "disconnect": nothing more is put in

    async def __aenter__(self) -> Self:
        """Returns when all live shards know of it. Raises `SchemaMismatch` if one of them has another type under this name."""
        self._topic._check_thread("subscribe")
        if self._state != _NEW:
            raise UsageError(
                f"a subscription of topic {self._topic.name!r} was entered before; each is entered once: call "
                "topic.subscribe() again for another"
            )
        self._state = _ENTERED
        self._topic._add(self)
        try:
            await self._topic._known_everywhere()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next message. `Lagged` under "disconnect", once what was in the queue when that was full has been read."""
        while True:
            messages = self._messages
            while messages:
                message = messages.popleft()
                try:
                    value: T = message.read(self._topic._codec.decode)
                except Exception as error:
                    self._not_read(error)
                else:
                    self._topic._counts.delivered += 1
                    return value
            if self._cut:
                raise Lagged(self.dropped, self._topic.name)
            if self._state == _NEW:
                raise UsageError(
                    f"a subscription of topic {self._topic.name!r} was read before it was entered: "
                    "`async with topic.subscribe() as messages: async for message in messages: ...`"
                )
            if self._state == _LEFT:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise UsageError(
                    f"two tasks read one subscription of topic {self._topic.name!r}; each task needs one of its own"
                )
            self._waiter = self._topic._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _put(self, message: Message) -> bool:
        """Whether the reader had better have a turn now: it can, and its queue fills up."""
        messages = self._messages
        if len(messages) >= self._limit or self._cut:
            self.dropped += 1
            self._topic._counts.dropped += 1
            if self._when_full == "drop-oldest":
                messages.popleft()
                messages.append(message)
            elif self._when_full == "disconnect":
                self._cut = True
        else:
            messages.append(message)
        waiter = self._waiter
        if waiter is None:
            return False
        if waiter.done():
            return len(messages) * 2 >= self._limit
        waiter.set_result(None)
        return len(messages) * 2 >= self._limit

    def close(self) -> None:
        """Nothing more is put in. Who reads it gets what is there, and then its loop ends. For when the shard stops."""
        if self._state == _ENTERED:
            self._state = _LEFT
            self._topic._remove(self)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def _leave(self) -> None:
        self.close()
        self._messages.clear()

    def _not_read(self, error: Exception) -> None:
        self.dropped += 1
        self._topic._counts.dropped += 1
        topic = self._topic
        if not topic._complained:
            topic._complained = True
            logger.error(
                "topic %r: a message is not %s, and is not delivered; those that follow are only counted: %s",
                topic.name,
                topic._codec.shown,
                error,
            )
