# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What all links of a mesh have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker.executor._core_cy import Core
from clockworker.ipc.calls._deadlines import Deadlines
from clockworker.ipc.calls._limits import Limits


class Shared:
    """Of one mesh."""

    core: Core
    loop: asyncio.AbstractEventLoop
    shard_id: int
    place: int  # of this shard among all: the same number as shard_id, unless its node is in a cluster
    limits: Limits
    max_message: int
    encode: Any
    identifiers: dict[Any, int]  # of our queues' states
    deadlines: Deadlines
    calls_sent: int
    one_ways_sent: int
    new_earliest: Callable[[], None]  # a deadline is earlier than all others
    broken: Callable[[Any, Exception], None]  # the peer of this link broke its rules
    refusal: str | None  # why no call goes out at all
    refusal_of: Callable[[bytes], Exception | None]  # why a request of a key, as `_owners` has it, is not served
    watched: bool  # somebody looks from time to time at who waits
    watch: Callable[[], None]  # see to it

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        shard_id: int,
        limits: Limits,
        identifiers: dict[Any, int],
        new_earliest: Callable[[], None],
        broken: Callable[[Any, Exception], None],
    ) -> None:
        if core is None:
            raise TypeError("a mesh has an executor")
        self.core = core
        self.loop = loop
        self.shard_id = shard_id
        self.place = shard_id
        self.limits = limits
        self.max_message = limits.max_message
        self.encode = msgspec.msgpack.Encoder().encode
        self.identifiers = identifiers
        self.deadlines = Deadlines()
        self.calls_sent = 0
        self.one_ways_sent = 0
        self.new_earliest = new_earliest
        self.broken = broken
        self.refusal = None
        self.refusal_of = _of_none
        self.watched = True  # until there is somebody who does
        self.watch = _nobody


def _nobody() -> None:
    pass


def _of_none(key: bytes) -> None:
    """All keys are where they are looked for: nothing moves on a machine by itself."""
