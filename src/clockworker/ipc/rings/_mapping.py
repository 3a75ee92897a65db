"""A memfd, mapped into this process without keeping a descriptor: `mmap.mmap` keeps a copy of one for each mapping, and a shard
has two for each of its peers. (From Python 3.13 on it need not, `trackfd=False`.)

`keep_private` is for a forked child, which has all mappings that its parent has: what it writes there would be taken for its
parent's. It gets memory of its own at the same addresses, so that whatever still refers to them does no harm.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value

_mappings: weakref.WeakSet[Mapping] = weakref.WeakSet()


class Mapping:
    """All of a memfd, shared, until `close` or until nothing refers to this object. The descriptor stays the caller's.

    address: where it begins.
    words: the same as numbers of 64 bits. What else is made of it must be given up before `close`.
    """

    def __init__(self, descriptor: int, *, writable: bool = True) -> None:
        self.size = os.fstat(descriptor).st_size
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        address = _map(None, self.size, access, mmap.MAP_SHARED, descriptor)
        self.address = address
        self._unmap = weakref.finalize(self, _libc.munmap, address, self.size)
        self._unmap.atexit = False
        everything = memoryview((ctypes.c_ubyte * self.size).from_address(address)).cast("B")
        self.bytes = everything if writable else everything.toreadonly()
        self.words = self.bytes[: self.size & ~7].cast("Q")
        _mappings.add(self)

    def close(self) -> None:
        """Unmap. A second time is without effect."""
        self.words.release()
        self.bytes.release()
        self._unmap()


def keep_private() -> None:
    """In a forked child: put memory of its own, zero, in the place of all that is mapped."""
    for mapping in _mappings:
        if mapping._unmap.alive:
            access = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            _map(mapping.address, mapping.size, access, flags, -1)


def _map(address: int | None, size: int, access: int, flags: int, descriptor: int) -> int:
    mapped: int = _libc.mmap(address, size, access, flags, descriptor, 0)
    if mapped == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap of {size} bytes: {os.strerror(number)}")
    return mapped
