from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from clockworker.shards.logs._log_stream import LogStream


def tell(lost: int) -> str:
    return f"lost {lost}\n"


def pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def sockets() -> tuple[int, int]:
    ends = socket.socketpair()
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ends[0].detach(), ends[1].detach()


@contextmanager
def both(make: Callable[[], tuple[int, int]]) -> Iterator[tuple[int, int]]:
    reader, writer = make()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_lines(reader: int, until: str) -> list[str]:
    """Up to this line."""
    text = b""
    while f"{until}\n".encode() not in text.replace(b"\r\n", b"\n"):
        text += os.read(reader, 65536)
    return text.decode().splitlines()


@pytest.mark.parametrize("make", [pipe, sockets, pty.openpty])
def test_lines_wait_for_a_reader_and_their_writer_does_not(make: Callable[[], tuple[int, int]]) -> None:
    with both(make) as (reader, writer):
        stream = LogStream(writer, tell)
        lines = [f"{number} {'x' * 100}" for number in range(2000)]
        for line in lines:
            stream.write(line + "\n")
        stream.write("end\n")
        assert read_lines(reader, "end") == [*lines, "end"]
        stream.finish()
        stream.write("and at once again\n")
        assert read_lines(reader, "and at once again") == ["and at once again"]


@pytest.mark.parametrize("make", [pipe, pty.openpty])
def test_lines_beyond_the_limit_are_counted(make: Callable[[], tuple[int, int]]) -> None:
    with both(make) as (reader, writer):
        stream = LogStream(writer, tell, most=20_000)
        for number in range(2000):
            stream.write(f"{number} {'x' * 100}\n")
        text = b""
        lines: list[int] = []
        lost = 0
        while len(lines) + lost < 2000:  # a terminal takes more when it has passed on what it had
            text += os.read(reader, 65536)
            whole = text[: text.rindex(b"\n") + 1].decode().splitlines() if b"\n" in text else []
            lines = [int(line.split()[0]) for line in whole if not line.startswith("lost ")]
            lost = sum(int(line.split()[1]) for line in whole if line.startswith("lost "))
        assert len(lines) + lost == 2000
        assert lines == sorted(set(lines))
        assert lines[:100] == [*range(100)]
        assert lost


def test_where_the_write_cannot_be_asked_not_to_wait_a_thread_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(95, "not supported")

    with both(pipe) as (reader, writer):
        monkeypatch.setattr(os, "pwritev", refuse)
        opened = os.open
        monkeypatch.setattr(os, "open", lambda path, *rest: refuse() if "/proc/" in path else opened(path, *rest))
        stream = LogStream(writer, tell)
        for number in range(500):
            stream.write(f"{number}\n")
        assert read_lines(reader, "499") == [str(number) for number in range(500)]
        stream.finish()


def test_without_a_thread_the_next_line_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with both(pipe) as (reader, writer):
        stream = LogStream(writer, tell)
        for number in range(300):
            stream.write(f"{number} {'x' * 100}\n")
        seen: list[str] = []
        while not seen or not seen[-1].startswith("299 "):
            seen += os.read(reader, 65536).decode().splitlines()
            stream.finish(0)
        assert "".join(seen).count("x") == 300 * 100


def test_a_reader_that_is_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = LogStream(writer, tell)
    stream.write("nobody\n")
    os.close(writer)
    stream.write("nowhere\n")
    stream.finish(20)
    assert not stream._waiting, "nobody will ever read them"


def read_if_any(reader: int) -> bytes:
    """What there is to read, or comes soon: whether more will come nobody can say."""
    return os.read(reader, 1 << 20) if select.select([reader], [], [], 0.01)[0] else b""


def test_the_end_waits_for_a_while_and_no_longer() -> None:
    with both(pipe) as (reader, writer):
        stream = LogStream(writer, tell)
        for _ in range(100):
            stream.write("x" * 100 + "\n")
        stream.finish(0.01)
        assert len(os.read(reader, 1 << 20)) <= 4096
        while stream._writer is not None:  # it would write on in a descriptor that is another's by then
            read_if_any(reader)


def test_what_waits_is_written_by_one_process() -> None:
    with both(pipe) as (reader, writer):
        stream = LogStream(writer, tell)
        for _ in range(100):
            stream.write("x" * 99 + "\n")
        assert stream._size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            child = os.fork()
        if child == 0:
            stream.finish()
            os._exit(stream._size)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        data = b""
        while stream._size or stream._writer is not None:
            data += read_if_any(reader)
        data += read_if_any(reader)
        assert data == 100 * (b"x" * 99 + b"\n")
