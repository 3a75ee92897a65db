"""The subjects that a cluster's messages go by, and who has sent what: the sender is taken from the subject, which the broker's
permissions guard, and never from the body, which anybody can write.

    cw.<cluster>.to.<node>.<shard>.<from node>.<from shard>     from shard to shard (`_far_cy`)
    cw.<cluster>.topic.<node>.<shard>.<topic>                   what that shard has published (`_topics`)
    cw.<cluster>.alive.<node>                                   of its supervisor

Names may have any characters; in a subject they are words of letters, digits and `-`, with `_` and two hexadecimal digits for
each byte that is none of these.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_UNSAFE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"_([0-9a-f]{2})")


class Sender(NamedTuple):
    """A shard of a node."""

    node: str
    shard: int


def word(name: str) -> str:
    """The name as a word of a subject."""
    return _UNSAFE.sub(lambda found: b"_%02x" % found[0][0], name.encode()).decode() or "_"


def name_of(word: str) -> str:
    """The name that the word stands for. ValueError if it stands for none."""
    if word == "_":
        return ""
    name = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), word.encode()).decode()
    if _word_of(name) != word:
        raise ValueError(f"{word!r} is no name in a subject")
    return name


_word_of = word


def to(cluster: str, node: str, shard: int, from_node: str, from_shard: int) -> str:
    """What the second shard publishes for the first."""
    return f"cw.{word(cluster)}.to.{word(node)}.{shard}.{word(from_node)}.{from_shard}"


def to_any(cluster: str, node: str, shard: int) -> str:
    """What the shard subscribes to."""
    return f"cw.{word(cluster)}.to.{word(node)}.{shard}.>"


def topic(cluster: str, node: str, shard: int, name: str) -> str:
    """What the shard publishes of a topic."""
    return f"cw.{word(cluster)}.topic.{word(node)}.{shard}.{word(name)}"


def topic_of_any(cluster: str, name: str) -> str:
    """What who listens to it subscribes to."""
    return f"cw.{word(cluster)}.topic.*.*.{word(name)}"


def alive(cluster: str, node: str) -> str:
    """What the node's supervisor publishes."""
    return f"cw.{word(cluster)}.alive.{word(node)}"


def alive_of_any(cluster: str) -> str:
    """What the supervisors of the others subscribe to."""
    return f"cw.{word(cluster)}.alive.*"


def sender(subject: str) -> Sender | None:
    """Who has published a message of a shard's: of `to` and `topic`. None if the subject is not one of those."""
    words = subject.split(".")
    try:
        if len(words) == 7 and words[2] == "to":
            return Sender(name_of(words[5]), _number(words[6]))
        if len(words) == 6 and words[2] == "topic":
            return Sender(name_of(words[3]), _number(words[4]))
    except ValueError:
        pass
    return None


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise ValueError(f"{word!r} is no shard's number")
    return int(word)
