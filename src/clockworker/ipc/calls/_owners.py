"""Whose a key is, and what a call of it carries.

On one machine a key's shard follows from its checksum and the number of shards, and never changes. In a cluster keys belong to
partitions, which move; so what says where a key is, an `Owner`, remembers the partition and the epoch of the view that it was
looked up in. A request that is made through one begins with both (the flag `KEYED`):

    bytes 0-1     the partition
    bytes 2-9     the epoch

Who is asked looks at that when the call begins, and not when it comes: it may have waited meanwhile.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Protocol

from clockworker._errors import CallError
from clockworker.ipc.calls._link_cy import Link

PLACES = 1024  # of a node: what is below is a shard of this one, what is not is `slot * PLACES + shard`

_KEY = struct.Struct("<HQ")
KEY_SIZE = _KEY.size


class Owner(int):
    """The number of the shard that a key belongs to, as it was at that epoch."""

    partition: int
    epoch: int

    def __new__(cls, place: int, partition: int, epoch: int) -> Owner:
        owner = super().__new__(cls, place)
        owner.partition = partition
        owner.epoch = epoch
        return owner

    def packed(self) -> bytes:
        """What a request begins with."""
        return _KEY.pack(self.partition, self.epoch)


def unpack_key(key: bytes) -> tuple[int, int]:
    """Partition and epoch. Raises ValueError if it is cut short."""
    if len(key) < KEY_SIZE:
        raise ValueError("a request of a key that is cut short")
    partition, epoch = _KEY.unpack(key)
    return partition, epoch


def checksum(key: bytes | str | int) -> int:
    """The same in every shard, run and machine. A text key is its UTF-8 bytes; a number is itself, and not the text that shows
    it."""
    if isinstance(key, str):
        key = key.encode()
    elif isinstance(key, int):
        key = key.to_bytes(key.bit_length() // 8 + 1, "little", signed=True)
    return zlib.crc32(key)


class Cluster(Protocol):
    """What the calls of a shard ask of the cluster that its node is in. Places: see `PLACES`.

    place: of this shard, as others number it.
    """

    place: int

    def places(self) -> Sequence[int]:
        """All shards of the view, in the same order on all nodes; those of this node by their own numbers."""

    def link(self, place: int) -> Link | None:
        """To a shard of another node; None if no view had it."""

    def alone(self) -> None:
        """There is no other incarnation of this shard any more."""

    def owner(self, checksum: int) -> Owner:
        """Of the key with this checksum, by the view that we know. Raises `NodeIsolated` while there is none."""

    def refusal(self, partition: int, epoch: int) -> CallError | None:
        """Why a call of a key, which its caller has looked up at that epoch, is not served here now. None: it is."""


class Owners:
    """Of one mesh. cluster: None: the shards of this machine are all there are."""

    def __init__(self, shard_id: int, count: int) -> None:
        self.shard_id = shard_id
        self.count = count
        self.cluster: Cluster | None = None

    def of(self, key: bytes | str | int) -> int:
        """The shard that it belongs to; an `Owner`, in a cluster."""
        if self.cluster is None:
            return checksum(key) * self.count >> 32
        return self.cluster.owner(checksum(key))

    def places(self) -> Sequence[int]:
        """All shards that there are."""
        return range(self.count) if self.cluster is None else self.cluster.places()

    def refusal(self, owner: int) -> CallError | None:
        """Why we do not serve a key, if it is that of an `Owner`."""
        if self.cluster is None or not isinstance(owner, Owner):
            return None
        return self.cluster.refusal(owner.partition, owner.epoch)

    def refusal_of(self, key: bytes) -> Exception | None:
        """The same, of a request that has come."""
        try:
            partition, epoch = unpack_key(key)
        except ValueError as error:
            return TypeError(str(error))
        return None if self.cluster is None else self.cluster.refusal(partition, epoch)

    def no_shard(self, place: object) -> IndexError:
        """The error of who names one that is not there."""
        elsewhere = "" if self.cluster is None else ", and what `service.others` has of other nodes"
        return IndexError(f"there is no shard {place!r}: they are 0 to {self.count - 1}{elsewhere}")
