from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from clockworker.http._access import AccessLog
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.logs import _logging
from clockworker.shards.logs._log_stream import GATHERED, LogStream
from clockworker.shards.logs._logging import JsonFormatter, direct, set_up_logging
from tests.conftest import Run, until

access = logging.getLogger("clockworker.access")


def request(
    path: bytes = b"/reports/7",
    query: bytes = b"",
    *,
    client: tuple[str, int] | None = ("127.0.0.1", 4711),
    queue: str = "light",
    group: str | None = None,
    version: int = 11,
) -> Any:
    return SimpleNamespace(
        scope={"client": client, "query_string": query},
        method="GET",
        raw_path=path,
        path=path.decode("latin-1"),
        version=version,
        target=SimpleNamespace(queue=queue, group_of=lambda scope, path: group),
    )


class Log:
    """Of a shard: what `set_up_logging` makes of this process, with a pipe in place of standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
        self.reader, writer = os.pipe()
        self._writer = writer
        self._stderr = open(writer, "w", closefd=False)  # noqa: SIM115  # closed by `close`
        monkeypatch.setattr("sys.stderr", self._stderr)
        for name in ("excepthook", "unraisablehook"):
            monkeypatch.setattr(f"sys.{name}", getattr(__import__("sys"), name))
        monkeypatch.setattr(threading, "excepthook", threading.excepthook)
        for name in ("_process", "_factory"):
            monkeypatch.setattr(_logging, name, getattr(_logging, name))
        self._root = logging.root.handlers[:], logging.root.level, logging.getLogRecordFactory()
        logging.root.handlers.clear()  # pytest's
        set_up_logging("shard 3", msgspec.structs.replace(ServeConfig("app:app"), log_format=format))

    def close(self) -> None:
        logging.captureWarnings(False)
        logging.root.handlers[:], level, factory = self._root
        logging.root.setLevel(level)
        logging.setLogRecordFactory(factory)
        self._stderr.close()
        # A log's thread may still have something to write, and would write it to whatever has this number next.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._writer)
        os.close(nothing)
        os.close(self.reader)

    def read(self, lines: int) -> list[str]:
        data = b""
        while data.count(b"\n") < lines:
            data += os.read(self.reader, 65536)
        return data.decode().splitlines()


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Log]]:
    """To be called in the test itself: pytest adds its own handlers before that."""
    logs: list[Log] = []

    def make(format: str) -> Log:
        logs.append(Log(monkeypatch, format))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_that_is_made_here_is_the_line_that_a_record_would_be(
    format: str, run: Run, log_in: Callable[[str], Log]
) -> None:
    """In either format, but for the time and where JSON has what."""
    given = [
        (request(), 200, 12, 1_250_000),
        (request(b"/a", b"b=1&c=%20", group="tenant-7", queue="heavy"), 404, 0, 12_000),
        (request(client=None, version=10), 0, 0, 0),
        (request(client=("2001:db8::1", 80), group="", version=20), 503, 2**40, 123_456_789_000),
        (request(client=("203.0.113.9", 0), queue="two words"), 200, 1, 1),
    ]

    log = log_in(format)

    async def body() -> None:
        direct_log, record_log = AccessLog(3), AccessLog(3)
        for each in given:
            direct_log.write(*each)
        made = await asyncio.to_thread(log.read, len(given))
        assert direct_log._stream is not None
        access.addFilter(keep := lambda record: True)
        try:
            for each in given:
                record_log.write(*each)
        finally:
            access.removeFilter(keep)
        assert record_log._stream is None
        for mine, theirs in zip(made, log.read(len(given)), strict=True):
            if mine.startswith("{"):
                one, other = json.loads(mine), json.loads(theirs)
                assert one.keys() == other.keys()
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one.pop("time"))
                other.pop("time")
                assert one == other
            else:
                assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", mine)
                assert mine[24:] == theirs[24:]

    run(body)


def test_a_line_says_who_asked_what_and_how_it_was_answered(run: Run, log_in: Callable[[str], Log]) -> None:
    log = log_in("text")

    async def body() -> None:
        AccessLog(3).write(request(b"/a", b"b=1", group="x y"), 200, 5120, 12_345_678)
        AccessLog(3).write(request(group=""), 200, 0, 0)
        line, other = await asyncio.to_thread(log.read, 2)
        assert line[24:] == 'INFO    [shard 3 light] 127.0.0.1:4711 "GET /a?b=1 HTTP/1.1" 200 5120 12.3 light x\\x20y'
        assert other.endswith(' light ""')

    run(body)


@pytest.mark.parametrize(
    "odd",
    [
        request(b'/" 200 1 1.0 q -\r\n1.2.3.4 "GET /'),
        request(b'/"', b'"'),
        request(b"/\x1b[31m\x00\xff\x85\x7f"),
        request(b"/", b'a"b\\'),
        request(client=('1.2.3.4 "GET / HTTP/1.1" 200\n', 1)),
        request(client=("\u2028\x85", 0)),
        request(group='\n1.2.3.4 "GET /'),
        request(group="\u2029\ud800"),
    ],
)
def test_no_client_can_forge_a_line(odd: Any, run: Run, log_in: Callable[[str], Log]) -> None:
    log = log_in("text")

    async def body() -> None:
        AccessLog(3).write(odd, 200, 1, 1)
        [line] = await asyncio.to_thread(log.read, 1)
        assert line.isascii()
        assert line.isprintable()
        fields = re.fullmatch(r'(\S+) "GET (?:[^"\\]|\\.)+ HTTP/1\.1" 200 1 0\.0 light (\S+)', line.partition("] ")[2])
        assert fields is not None, line

    run(body)


def test_lines_are_written_together_and_soon(
    run: Run, log_in: Callable[[str], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = log_in("text")

    async def body() -> None:
        log = AccessLog(3)
        log.write(request(), 200, 1, 1)
        stream = log._stream
        assert stream is not None
        written: list[int] = []
        write = stream._write_some
        monkeypatch.setattr(stream, "_write_some", lambda data: written.append(len(data)) or write(data))
        for _ in range(200):
            log.write(request(), 200, 1, 1)
        assert written
        assert max(written) <= GATHERED, "a pipe takes them in one piece"
        assert len(written) < 10
        lines = await asyncio.to_thread(text.read, 201)
        assert len(lines) == 201

    run(body)


def test_another_line_does_not_overtake_those_that_wait(run: Run, log_in: Callable[[str], Log]) -> None:
    log = log_in("text")

    async def body() -> None:
        AccessLog(3).write(request(), 200, 1, 1)
        logging.getLogger("app").info("later")
        first, second = log.read(2)
        assert "GET /reports/7" in first
        assert second.endswith("later")

    run(body)


def test_a_reader_that_stands_still_is_not_waited_for_and_lines_lost_are_counted(
    run: Run, log_in: Callable[[str], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = log_in("text")

    async def body() -> None:
        log = AccessLog(3)
        log.write(request(), 200, 1, 1)
        stream = log._stream
        assert isinstance(stream, LogStream)
        monkeypatch.setattr(stream, "_most", 20_000)
        for _ in range(5000):
            log.write(request(), 200, 1, 1)
        assert stream._size <= 20_000
        stream.write_gathered()
        lines: list[str] = []
        while not (told := re.search(r"(\d+) lines of this process's log are lost", "\n".join(lines))):
            lines += await asyncio.to_thread(text.read, 1)
        assert len([line for line in lines if "GET" in line]) == 5001 - int(told[1])

    run(body)


def test_what_an_application_does_to_its_logging_is_noticed(run: Run, log_in: Callable[[str], Log]) -> None:
    """Within a second: a level that is raised, a handler of its own."""
    seen: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    log_in("text")

    async def body() -> None:
        log = AccessLog(3)

        def write() -> bool:
            log.write(request(group="g"), 200, 7, 1_500_000)
            return bool(seen)

        assert not write()
        handler = Handler()
        logging.getLogger("clockworker").addHandler(handler)
        try:
            await until(write, "a record")
        finally:
            logging.getLogger("clockworker").removeHandler(handler)
        record = seen[0]
        fields = (
            "client",
            "method",
            "path",
            "http_version",
            "status",
            "bytes",
            "ms",
            "group",
            "shard",
            "queue",
            "where",
        )
        assert [getattr(record, name) for name in fields] == [
            *("127.0.0.1:4711", "GET", "/reports/7", "1.1", 200, 7, 1.5, "g", 3, "light", "shard 3 light")
        ]
        assert (record.name, record.levelname) == ("clockworker.access", "INFO")
        access.setLevel(logging.WARNING)
        try:
            await until(lambda: write() and not log._enabled, "nothing more")
        finally:
            access.setLevel(logging.NOTSET)

    run(body)


def test_direct_only_where_nobody_else_sees_a_record(log_in: Callable[[str], Log]) -> None:
    log_in("text")
    assert direct(access) is not None
    handler = logging.root.handlers[0]
    parent = logging.getLogger("clockworker")

    class Other(logging.Filter):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parent, "filters", [Other()])
        assert direct(access) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "propagate", False)
        assert direct(access) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "filters", [Other()])
        assert direct(access) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "formatter", logging.Formatter())
        assert direct(access) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "formatter", JsonFormatter())
        found = direct(access)
        assert found is not None
        assert found[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.root, "handlers", [handler, logging.NullHandler()])
        assert direct(access) is None
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    try:
        assert direct(access) is None
    finally:
        logging.setLogRecordFactory(factory)
    assert direct(access) is not None
