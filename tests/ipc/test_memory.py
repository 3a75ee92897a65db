from __future__ import annotations

import fcntl
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clockworker as cw
from clockworker.ipc import rings
from clockworker.ipc.rings._memory_cy import SharedMemory, create_memory


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = create_memory("test", 8192)
    yield descriptor
    os.close(descriptor)


def test_words_and_bytes_are_seen_through_every_mapping(descriptor: int) -> None:
    one, other = SharedMemory(descriptor), SharedMemory(descriptor)
    assert one.size == 8192
    assert one.load(0) == 0
    for value in (1, 2**63, 2**64 - 1):
        one.store(8, value)
        one.fence()
        assert other.load(8) == value
    one.write(4096, b"--payload--", 2, 7)
    assert other.read(4096, 7) == b"payload"
    assert other.read(4095, 9) == b"\0payload\0"
    assert other.read(0, 0) == b""
    one.close()
    assert other.read(4096, 7) == b"payload"
    other.close()


def test_closing_unmaps(descriptor: int) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("clockworker-test" in line for line in maps)

    memory = SharedMemory(descriptor)
    assert mapped() == 1
    memory.close()
    assert mapped() == 0


@pytest.mark.parametrize("size", [0, 4096, 16384])
def test_a_peer_cannot_change_the_size(descriptor: int, size: int) -> None:
    script = "import os, sys; os.ftruncate(int(sys.argv[1]), int(sys.argv[2]))"
    command = [sys.executable, "-c", script, str(descriptor), str(size)]
    done = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr
    assert os.fstat(descriptor).st_size == 8192


def test_seals_cannot_be_added_to(descriptor: int) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_it_is_not_inherited_and_has_no_name(descriptor: int) -> None:
    assert not os.get_inheritable(descriptor)
    assert "memfd:clockworker-test" in os.readlink(f"/proc/self/fd/{descriptor}")
    with mmap.mmap(descriptor, 8192) as mapped:
        assert mapped[:8] == bytes(8)


@pytest.mark.skipif(cw.compiled, reason="compiled, the orderings are the compiler's")
def test_the_pure_version_refuses_processors_that_reorder_stores(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(cw.ConfigurationError, match="on aarch64 the pure-Python rings are not safe"):
        SharedMemory(descriptor)


# What aarch64 needs and x86-64 does by itself. Each shared word is stored, loaded and fenced by one of these.
ORDERED = """
uint64_t load(const void *word) { return cw_load_acquire(word); }
void store(void *word, uint64_t value) { cw_store_release(word, value); }
void fence(void) { cw_full_fence(); }
void order(void) { cw_order(); }
"""
INSTRUCTIONS = {"load": r"ldapr|ldar", "store": "stlr", "fence": r"dmb\s+ish", "order": r"dmb\s+ish"}


def test_a_compiler_for_aarch64_orders_what_is_shared(tmp_path: Path) -> None:
    compiler = "cc" if platform.machine() == "aarch64" else "aarch64-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    _, code, _ = Path(rings.__path__[0], "_atomics.pxd").read_text().split('"""')
    source = tmp_path / "ordered.c"
    source.write_text(code + ORDERED)
    subprocess.run([compiler, "-O2", "-S", source.name], cwd=tmp_path, check=True, timeout=60)
    assembly = source.with_suffix(".s").read_text()
    for name, instruction in INSTRUCTIONS.items():
        body = re.search(rf"^{name}:(.*?)\bret\b", assembly, re.MULTILINE | re.DOTALL)
        assert body is not None
        assert len(re.findall(rf"^\s+(?:{instruction})\b", body[1], re.MULTILINE)) == 1, body[1]
