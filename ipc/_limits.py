"""Bounds of a mesh."""

from __future__ import annotations

import msgspec

from clockworker._errors import ConfigurationError


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a mesh.

    max_message: bytes of one encoded call, reply or item of a stream.
    credit: calls in flight from here to one peer, for each queue that they run in there.
    window: items of a stream that have been sent and not used.
    window_bytes: of those items together; one item may be larger.
    """

    max_message: int = 16 * 1024 * 1024
    credit: int = 1_024
    window: int = 64
    window_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from 1")
