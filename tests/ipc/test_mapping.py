from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from clockworker.ipc.rings._mapping import Mapping, keep_private
from clockworker.ipc.rings._memory_cy import create_memory


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = create_memory("mapped", 8192)
    yield descriptor
    os.close(descriptor)


def mapped() -> int:
    with open("/proc/self/maps") as maps:
        return sum("clockworker-mapped" in line for line in maps)


def test_it_is_the_memory_and_needs_no_descriptor(descriptor: int) -> None:
    gc.collect()  # what other tests have left
    before = os.listdir("/proc/self/fd")
    writer, reader = Mapping(descriptor), Mapping(descriptor, writable=False)
    assert os.listdir("/proc/self/fd") == before
    assert (writer.size, len(writer.bytes), len(writer.words)) == (8192, 8192, 1024)
    writer.words[3] = 2**64 - 2
    assert os.pread(descriptor, 8, 24) == b"\xfe" + b"\xff" * 7
    os.pwrite(descriptor, b"text", 4096)
    assert (reader.words[3], bytes(reader.bytes[4096:4100])) == (2**64 - 2, b"text")
    with pytest.raises(TypeError, match="read-only"):
        reader.words[0] = 1
    writer.close()
    reader.close()


def test_it_is_unmapped_once_when_closed_or_forgotten(descriptor: int) -> None:
    first, second = Mapping(descriptor), Mapping(descriptor)
    assert mapped() == 2
    first.close()
    first.close()
    assert mapped() == 1
    with pytest.raises(ValueError, match="released"):
        first.words[0]
    del second
    gc.collect()
    assert mapped() == 0


def test_what_cannot_be_mapped_is_an_error() -> None:
    empty = os.memfd_create("empty")
    with pytest.raises(OSError, match="mmap of 0 bytes: Invalid argument"):
        Mapping(empty)
    os.close(empty)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Mapping(empty)


def test_a_size_that_is_no_multiple_of_a_word() -> None:
    descriptor = create_memory("odd", 13)
    odd = Mapping(descriptor)
    os.close(descriptor)
    assert (len(odd.bytes), len(odd.words)) == (13, 1)
    odd.close()


def test_a_forked_child_has_memory_of_its_own(descriptor: int) -> None:
    closed, memory = Mapping(descriptor), Mapping(descriptor)
    closed.close()
    memory.words[0], memory.words[1] = 7, 7
    if (child := os.fork()) == 0:
        try:
            keep_private()
            right = memory.words[0] == 0
            memory.words[1] = 8
            memory.close()
        finally:
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert memory.words[:2].tolist() == [7, 7]
    memory.close()
