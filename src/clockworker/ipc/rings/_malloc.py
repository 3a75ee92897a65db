"""Freed memory is kept for the next message.

glibc takes a block of more than 128 KiB from the kernel, gives it back when it is freed, and soon after adjusts itself to that
size: blocks come from the heap then, but the end of the heap goes back to the kernel whenever twice one block is free there.
So a shard that receives messages of a megabyte gets new pages for each, zeroed by the kernel, one page fault in 4 KiB; that
took three quarters of the time of such a message. Here blocks up to 8 MiB come from the heap, and up to 16 MiB at its end
are kept, which is all that it costs.

Rejected: a pool of buffers of our own (bodies are `bytes`, which the application may keep), and another allocator (its users
bring one by LD_PRELOAD, and then this has no effect).
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 16 << 20
_FROM_HEAP = 8 << 20


def keep_freed_memory() -> bool:
    """For the whole process. False, and nothing is done, if the user has chosen, or the C library is not glibc."""
    chosen = "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_THRESHOLD_" in os.environ
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
