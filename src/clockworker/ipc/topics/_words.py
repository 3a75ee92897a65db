"""What shards tell each other of their topics: bodies of frames.

INTEREST   `Word`: has a subscriber of a topic, or none any more; the frame's number is the word's
HEARD      the word with this number is known; the body says why such messages are not understood, if they are not
TOPICS     which topics do you have? The answer is words, and then a TOPICS with 1 for its number; with 2: the sender leaves,
           and passes on no more
TOPIC      a message; method: the receiver's number for the topic; queue: 1 if it came by way of the topic's owner, 2 if from
           another node: then its body begins with 8 bytes, of which publisher there it is (4) and which of its messages (4)
PASS_ON    a message for the topic's owner; the first `queue` bytes of the body are the topic's name
TAKEN      so many (call) messages have been taken in, or if `method` is 1, passed on
"""

from __future__ import annotations

import msgspec

from clockworker._errors import UsageError
from clockworker.ipc.calls._schema import MethodSchema
from clockworker.ipc.rings._ring_cy import PoisonedRing
from clockworker.ipc.topics._codec import shown

ANSWERED = 1  # the number of a TOPICS that ends the answer to one
LEAVES = 2
PASSED_ON = 1  # the method of a TAKEN
FIRST_HAND = 0  # the queue of a TOPIC
IN_ORDER = 1
BEYOND = 2

LONGEST_NAME = 255  # bytes


class Word(msgspec.Struct, array_like=True, frozen=True):
    """topic: the sender's number for it; 0: it has no subscriber any more. schema: its type there; what it is made of is told
    once for each link."""

    name: str
    topic: int
    ordered: bool = False
    schema: MethodSchema | None = None


_decoder = msgspec.msgpack.Decoder(Word)


def read_word(body: bytes) -> Word:
    """Raises `PoisonedRing` if that is none."""
    try:
        word = _decoder.decode(body)
    except Exception as error:
        raise PoisonedRing(f"a word of a topic that cannot be read: {error}") from None
    if (
        len(word.name.encode(errors="replace")) > LONGEST_NAME
        or not 0 <= word.topic < 1 << 32
        or (word.topic and not word.schema)
    ):
        raise PoisonedRing(f"a word of topic {word.name[:LONGEST_NAME]!r} that no shard says")
    return word


def check_name(name: object) -> None:
    """Raises `UsageError`."""
    if not isinstance(name, str) or not name:
        raise UsageError(
            f"a topic's name is text of 1 to {LONGEST_NAME} bytes, and not {shown(type(name))}: {name!r:.100}"
        )
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"a topic's name is text that UTF-8 has, and not {name!r:.300}") from None
    if length > LONGEST_NAME:
        raise UsageError(f"a topic's name has up to {LONGEST_NAME} bytes, and {name[:40]!r}... has {length}")
