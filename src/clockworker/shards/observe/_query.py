"""The control socket: how tools on the same machine ask a running supervisor what it knows. Here is what is said.

A Unix socket of mode 0600, by default in a directory of mode 0700 that belongs to this user (`_query_paths`); and whoever
connects is asked for its credentials all the same: only this user and root are answered (`_query_server`). The conversation
is one request and its answer after the other, each a frame: four bytes of length, big-endian, then JSON. Requests are small,
and a longer one ends the connection. A trace is answered by one frame a shard, each followed by as many bytes as it says.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._reading import RingReading

MAX_REQUEST = 64 * 1024
MAX_ANSWER = 64 * 1024 * 1024
MAX_TRACE_S = 60.0


class AskStats(msgspec.Struct, frozen=True, tag="stats"):
    """All that the server counts: answered by `Stats`."""


class AskRings(msgspec.Struct, frozen=True, tag="rings"):
    """The traffic of each pair of shards."""


class AskTrace(msgspec.Struct, frozen=True, tag="trace"):
    """Record all shards for so long."""

    seconds: float


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """What `AskStats` asks for."""

    stats: ServerStats


class Rings(msgspec.Struct, frozen=True, tag="rings"):
    """rings[i][j]: what shard i says of its traffic with shard j. Empty for a shard that is not there."""

    rings: list[list[RingReading]]


class Recording(msgspec.Struct, frozen=True, tag="recording"):
    """Of one shard; so many bytes follow. The last one is of shard -1, and empty."""

    shard: int
    size: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The request cannot be answered, and nothing follows."""

    reason: str


Request: TypeAlias = AskStats | AskRings | AskTrace
Reply: TypeAlias = Stats | Rings | Recording | Refused

_encode = msgspec.json.Encoder().encode
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
decode_request = _request_decoder.decode
decode_reply = _reply_decoder.decode


def frame(message: Request | Reply) -> bytes:
    """As it is sent."""
    data = _encode(message)
    return len(data).to_bytes(4, "big") + data
