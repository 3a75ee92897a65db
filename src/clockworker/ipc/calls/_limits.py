"""Bounds of a mesh."""

from __future__ import annotations

import msgspec

from clockworker._errors import ConfigurationError

_HIGHEST = {
    "max_message": 2**32 - 1,  # a frame's header has 32 bits for it
    "credit": 2**31 - 1,
    "streams": 2**31 - 1,
    "window": 2**31 - 1,
    "window_bytes": 2**62,
}


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a mesh.

    max_message: bytes of one encoded call, reply or item of a stream.
    credit: calls in flight from here to one peer, for each queue that they run in there, and for each depth of calls that are
        made while serving others.
    streams: open from here to one peer.
    window: items of a stream that have been sent and not used.
    window_bytes: of those items together; one item may be larger.
    """

    max_message: int = 16 * 1024 * 1024
    credit: int = 1_024
    streams: int = 65_536
    window: int = 64
    window_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, highest = getattr(self, name), _HIGHEST[name]
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
                raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from 1 to {highest:,}")
