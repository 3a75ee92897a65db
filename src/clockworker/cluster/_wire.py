"""What the cluster asks of a broker: messages by subject, at most once and in order of each publisher, and one bucket of keys
with compare-and-set.

A subject is words with dots between; in those that are subscribed to, `*` is any one word and a last `>` any that follow. A
wire never repeats and never hides: once it is lost it stays lost, and what was published and not yet flushed may be lost with
it. Whoever uses it makes a new one. So nothing is replayed at a reconnect, and nothing waits unseen in a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Subscription(Protocol):
    """To a subject, until it is closed or the wire is lost."""

    def close(self) -> None:
        """Hear no more of it."""


class Entry(NamedTuple):
    """A key's value in a bucket, and the revision that wrote it, from 1 on; revisions of a bucket only grow."""

    value: bytes
    revision: int


class Bucket(Protocol):
    """A few keys that all machines agree on. Each method raises `WireError` when the broker cannot say (no leader, no quorum,
    no answer in time): then the write may have happened, and may even happen later."""

    async def get(self, key: str) -> Entry | None:
        """What is there; None if nothing is."""

    async def update(self, key: str, value: bytes, last: int) -> int | None:
        """Write if `last` is the revision that is there, 0 if nothing may be; the new revision; None: another wrote."""


class Wire(Protocol):
    """One connection to a broker."""

    max_payload: int  # bytes of a message; known once connected
    lost: Callable[[Exception], None]  # told once, when the broker has gone or has refused something; not for `close`

    async def connect(self) -> None:
        """Raises `WireError`, with the addresses that were tried and what each said."""

    async def subscribe(self, subject: str, heard: Callable[[str, bytes], None]) -> Subscription:
        """`heard(subject, body)` for each message, in order, in a callback of the loop; once the broker has confirmed it."""

    def publish(self, subject: str, body: bytes | bytearray | memoryview, *, hold: bool = False) -> bool:
        """Never waits. False: nothing was sent, as too much waits for the socket; `flush`, then try again. It leaves with this
        turn of the loop's; hold: with `send_off`, which will be called in this turn."""

    def send_off(self) -> None:
        """What was published leaves now."""

    async def flush(self) -> None:
        """Until all that was published is with the broker."""

    async def bucket(self, name: str) -> Bucket:
        """Made, if it is not there: in a file, with one value a key, and on as many servers as there are, up to three."""

    async def close(self) -> None:
        """Twice is once."""


class WireError(Exception):
    """The broker is not there, has gone, or does not answer."""


class NobodyAnswers(WireError):
    """It has nobody who hears the question."""
