# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Memory that two processes share: words that one writes and the other reads, and runs of bytes between them.

It is a memfd: it has no name in any file system, and is gone with the last process that holds it, however that ends. It is
sealed against shrinking, since a peer that truncated it would kill us with SIGBUS. Mapped (`_mapping`) it needs no descriptor.

Uncompiled, a word is stored and loaded through a memoryview, which is one 8-byte move. On x86-64 that is enough: stores
are seen in order, loads are done in order, and the full fence is a lock taken and released, which is a locked instruction.
On other processors it is not enough, and the pure version refuses to run.
"""

from __future__ import annotations

import fcntl
import os
import platform
import threading
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.ipc.rings._mapping import Mapping

if cython.compiled:
    from cython.cimports.clockworker.ipc.rings._atomics import (
        cw_full_fence,
        cw_load_acquire,
        cw_order,
        cw_store_release,
    )
    from cython.cimports.cpython.bytes import (
        PyBytes_AS_STRING,
        PyBytes_CheckExact,
        PyBytes_FromStringAndSize,
        PyBytes_GET_SIZE,
    )
    from cython.cimports.libc.string import memcpy

compiled: bool = cython.compiled

# Where there are none (other systems than Linux) this can be imported all the same, and a memory cannot be made.
_SIZE_SEALS = sum(getattr(fcntl, name, 0) for name in ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"))


def create_memory(name: str, size: int) -> int:
    """The descriptor of a new sealed memfd of `size` zero bytes. Its pages are taken when first touched."""
    descriptor = os.memfd_create(f"clockworker-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_sealed(descriptor: int) -> bool:
    """Whether it is a memfd whose size nobody can change."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SIZE_SEALS == _SIZE_SEALS
    except OSError:  # a file of another kind
        return False


def order() -> None:
    """For words that are moved through a memoryview (`Mapping.words`): stores on either side are seen in this order, and loads
    are done in it. Nothing is said of a store before and a load after. Uncompiled it is for x86-64, which does so by itself."""
    if cython.compiled:
        cw_order()


def new_bytes(length: int) -> Any:
    """Room for `read_into`. Compiled: bytes that nobody has seen yet, with anything in them; pure: a bytearray."""
    if cython.compiled:
        return PyBytes_FromStringAndSize(cython.NULL, length)
    return bytearray(length)


@cython.final
@cython.cclass
class SharedMemory:
    """One memfd, mapped. Word offsets are in bytes and multiples of 8.

    Rings know their bounds. What is out of them all the same, or comes after `close`, is not touched: a word reads as 0, bytes
    as b"", and nothing is kept. Not compiled, it is an error of the memoryview's.
    """

    size: int
    _base: Any  # compiled: where it begins
    _words_end: int  # no word begins here or after; 0 once it is closed

    def __init__(self, descriptor: int) -> None:
        if not cython.compiled and platform.machine() != "x86_64":
            raise ConfigurationError(
                f"on {platform.machine()} the pure-Python rings are not safe: install a C compiler and clockworker again"
            )
        self._map = Mapping(descriptor)
        self.size = self._map.size
        if cython.compiled:
            self._base = cython.cast(cython.p_char, cython.cast(cython.size_t, self._map.address))
            self._words_end = max(0, self.size - 7)
        else:
            self._bytes = self._map.bytes
            self._words = self._map.words
            self._lock = threading.Lock()

    def close(self) -> None:
        """Unmap. Nothing may be called afterwards."""
        if cython.compiled:
            self.size = 0
            self._words_end = 0
            self._base = cython.NULL
        self._map.close()

    def _holds(self, offset: int, length: int) -> bool:
        return length >= 0 and 0 <= offset <= self.size - length

    def load(self, offset: int) -> int:
        """A word; what its writer stored before it is visible afterwards (acquire)."""
        if cython.compiled:
            if cython.cast(cython.size_t, offset) >= self._words_end:  # as is what is negative, unsigned
                return 0
            return cw_load_acquire(self._base + offset)  # type: ignore[no-any-return]
        return self._words[offset >> 3]

    def store(self, offset: int, value: int) -> None:
        """A word; whoever loads it sees what was stored before (release)."""
        if cython.compiled:
            if cython.cast(cython.size_t, offset) < self._words_end:
                cw_store_release(self._base + offset, value)
        else:
            self._words[offset >> 3] = value

    def fence(self) -> None:
        """No load that follows is done before a store that precedes is visible to all."""
        if cython.compiled:
            cw_full_fence()
        else:
            self._lock.acquire()
            self._lock.release()

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes."""
        if cython.compiled:
            if not self._holds(offset, length):
                return b""
            return PyBytes_FromStringAndSize(self._base + offset, length)  # type: ignore[no-any-return]
        return bytes(self._bytes[offset : offset + length])

    def read_into(self, target: Any, at: int, offset: int, length: int) -> None:
        """Copy `length` bytes to `target[at:]`, which `new_bytes` has made."""
        if cython.compiled:
            if (
                self._holds(offset, length)
                and PyBytes_CheckExact(target)
                and 0 <= at <= PyBytes_GET_SIZE(target) - length
            ):
                memcpy(PyBytes_AS_STRING(target) + at, self._base + offset, length)
        else:
            target[at : at + length] = self._bytes[offset : offset + length]

    def write(self, offset: int, data: bytes, start: int, length: int) -> None:
        """Copy `data[start : start + length]` in."""
        if cython.compiled:
            if self._holds(offset, length) and 0 <= start <= PyBytes_GET_SIZE(data) - length:
                memcpy(self._base + offset, PyBytes_AS_STRING(data) + start, length)
        else:
            self._bytes[offset : offset + length] = data[start : start + length]
