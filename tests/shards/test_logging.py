from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import queue as queues
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import clockworker as cw
from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.logs._logging import JsonFormatter, reopen, set_up_logging
from tests.shards.servers import ECHO, Serve, ask, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

log = logging.getLogger("tests.logging")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def config(directory: Path, text: str, name: str = "log.toml") -> ServeConfig:
    (directory / name).write_text(text)
    return ServeConfig("app:main", log_config=str(directory / name))


def test_text_names_process_and_queue(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("shard 3", ServeConfig("app:main"))
    log.info("outside")

    async def inside() -> None:
        log.warning("inside")

    async def main() -> None:
        async with cw.Executor([cw.Queue("web")]) as executor:
            await executor.queue("web").spawn(inside())

    asyncio.run(main())
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^[\d-]+ [\d:,]+ ", "", line) for line in lines] == [
        "INFO    [shard 3] outside",
        "WARNING [shard 3 web] inside",
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_records_that_our_factory_has_not_made(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("shard 3", ServeConfig("app:main", log_format=log_format))
    logging.setLogRecordFactory(logging.LogRecord)  # an application's own
    log.warning("of another factory")
    sent = logging.LogRecord("worker", logging.WARNING, "", 0, "of another process", (), None)
    sent.processName = "SpawnProcess-1"
    unpickled = logging.makeLogRecord(sent.__dict__)
    bare = logging.makeLogRecord({"msg": "bare", "levelname": "WARNING", "process": 7, "processName": None})
    for record in (unpickled, bare):
        for handler in logging.getLogger().handlers:
            handler.handle(record)
    lines = capsys.readouterr().err.splitlines()
    if log_format == "text":
        assert [re.sub(r"^[\d-]+ [\d:,]+ ", "", line) for line in lines] == [
            "WARNING [MainProcess] of another factory",
            "WARNING [SpawnProcess-1] of another process",
            "WARNING [process 7] bare",
        ]
    else:
        assert [json.loads(line)["message"] for line in lines] == ["of another factory", "of another process", "bare"]


def test_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("shard 3", ServeConfig("app:main", log_format="json"))
    log.info("hello %s", "you", extra={"tenant": "t1", "odd": {1.5, "x"} - {"x"}})
    try:
        raise ValueError("wrong\nvalue")
    except ValueError:
        log.exception("failed")
    plain, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", plain.pop("time"))
    assert plain.pop("pid") > 0
    assert plain == {
        "level": "info",
        "logger": "tests.logging",
        "message": "hello you",
        "shard": 3,
        "queue": None,
        "tenant": "t1",
        "odd": [1.5],
    }
    assert failed["exception"].startswith("Traceback")
    assert failed["exception"].endswith("ValueError: wrong\nvalue")


def test_json_has_no_value_that_it_cannot_write() -> None:
    record = logging.makeLogRecord({"msg": "lone \ud800", "object": object(), "keys": {(1, 2): 3}})
    circle: list[object] = []
    circle.append(circle)
    record.__dict__["circle"] = circle
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "lone \\ud800"
    record = logging.makeLogRecord({"msg": "m", "object": object()})
    assert json.loads(JsonFormatter().format(record))["object"].startswith("<object object")


def test_the_supervisor_has_no_shard(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("supervisor", ServeConfig("app:main", log_format="json", log_level="warning"))
    log.info("not shown")
    log.warning("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["message"], json.loads(line)["shard"]) == ("shown", None)


TOML = """
[handlers.file]
class = "logging.FileHandler"
filename = "{}/app.log"
formatter = "{}"

[root]
level = "INFO"
handlers = ["file"]
"""


def test_a_configuration_in_toml_with_our_formatters(tmp_path: Path) -> None:
    set_up_logging("shard 1", config(tmp_path, TOML.format(tmp_path, "json")))
    log.info("hello")
    assert json.loads((tmp_path / "app.log").read_text())["shard"] == 1


def test_a_configuration_in_json_with_a_formatter_of_its_own(tmp_path: Path) -> None:
    document = {
        "formatters": {"mine": {"format": "%(shard)s|%(queue)s|%(where)s|%(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": f"{tmp_path}/app.log", "formatter": "mine"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    set_up_logging("shard 1", config(tmp_path, json.dumps(document), "log.json"))
    log.info("hello")
    assert (tmp_path / "app.log").read_text() == "1|None|shard 1|hello\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.toml", "[root", "log.toml is not TOML: "),
        ("log.json", "{", "log.json is not a JSON object: "),
        ("log.json", "[]", "log.json is not a JSON object: Expected `object`, got `array`"),
        ("log.json", b"\xff", "log.json is not a JSON object: "),
        ("log.toml", "[root]\nhandlers = ['nowhere']", "log.toml: Unable to configure root logger: .*'nowhere'"),
        ("log.toml", "[handlers.a]\nclass = 'no.such.Class'", "log.toml: Unable to configure handler 'a': .*'no'"),
        ("log.toml", "version = 2", "log.toml: Unsupported version: 2"),
        ("log.toml", "formatters = 3", "log.toml: "),
        ("log.toml", TOML.format("/no/such/directory", "text"), "handler 'file': .*No such file or directory"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_line(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=message) as caught:
        set_up_logging("supervisor", ServeConfig("app:main", log_config=str(tmp_path / name)))
    assert "\n" not in str(caught.value)
    assert "--log-config" in str(caught.value) or name in str(caught.value)


def test_reopen_goes_on_in_a_new_file_under_the_old_name(tmp_path: Path) -> None:
    path, moved = tmp_path / "app.log", tmp_path / "app.log.1"
    set_up_logging("supervisor", config(tmp_path, TOML.format(tmp_path, "text")))
    log.info("before")
    path.rename(moved)
    log.info("between")
    reopen()
    assert path.read_text() == ""
    log.info("after")
    assert [line.rpartition(" ")[2] for line in moved.read_text().splitlines()] == ["before", "between"]
    assert path.read_text().endswith("after\n")


def test_reopen_finds_files_behind_other_handlers_and_cuts_none_off(tmp_path: Path) -> None:
    files = {name: logging.FileHandler(tmp_path / name, mode="w") for name in ("direct", "buffered", "queued")}
    passed: queues.Queue[object] = queues.Queue()
    queued = logging.handlers.QueueHandler(passed)
    queued.listener = logging.handlers.QueueListener(passed, files["queued"])
    handlers = [files["direct"], logging.handlers.MemoryHandler(1, target=files["buffered"]), queued]
    try:
        for handler in handlers:
            log.addHandler(handler)
        for name in files:
            (tmp_path / name).write_text("kept\n")
        reopen()
        for name in files:
            assert (tmp_path / name).read_text() == "kept\n"
            (tmp_path / name).unlink()
        reopen()
        assert all((tmp_path / name).exists() for name in files)
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        for handler in [*handlers, *files.values()]:
            handler.close()


# In real processes.


def test_shard_and_queue_are_in_every_line_of_the_server(serve: Serve) -> None:
    source = ECHO.replace("async def main(shard):", "import logging\n\nasync def main(shard):").replace(
        "while", 'logging.getLogger("app").info("connected")\n        while'
    )
    arguments = ("--shards", "1", "--queue", "first:1", "--log-format", "json")
    server = serve(source.replace("handle)", "handle, queue='web')"), *arguments, "--queue", "web:1")
    eventually(lambda: "serving with" in server.log, "it serves")
    port = next(
        int(line["message"].rpartition(":")[2])
        for line in map(json.loads, server.log.splitlines())
        if line["message"].startswith("listening")
    )
    assert port
    with server.connect() as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    connected = next(line for line in lines if line["message"] == "connected")
    assert (connected["shard"], connected["queue"], connected["level"]) == (0, "web", "info")
    assert all(line["shard"] is None for line in lines if line["logger"] == "clockworker.supervisor")


STRAYS = """
import asyncio, logging, threading, warnings

class Unhappy:
    def __del__(self):
        raise ValueError("in __del__")

async def fail():
    raise ValueError("in a task")

async def main(shard):
    warnings.warn("a warning")
    logging.getLogger("app").warning("%d apples", "no")
    thread = threading.Thread(target=int, args=("in a thread",), name="numbers")
    thread.start()
    thread.join()
    Unhappy()
    shard.executor.queues()[0].spawn(fail())
    asyncio.get_running_loop().call_soon(int, "in a callback")
    await asyncio.sleep(0)
    raise ValueError("in main")
"""


def test_every_line_is_json_whatever_goes_wrong(serve: Serve, tmp_path: Path) -> None:
    server = serve(STRAYS, "--shards", "1", "--log-format", "json")
    assert server.wait_exit() == 3
    lines = [json.loads(line) for line in server.log.splitlines()]
    said = "\n".join(line["message"] + line.get("exception", "") for line in lines)
    assert re.search(r"a log call is wrong, at \S+app\.py:\d+: '%d apples' with \('no',\)", said)
    for what in (
        "a warning",
        "TypeError",
        "thread numbers",
        "in a thread",
        "in __del__",
        "in a task",
        "in a callback",
        "in main",
    ):
        assert what in said
    again = serve(STRAYS, "--shards", "1", "--log-format", "json", "--pid-file", "no/pid")
    assert again.wait_exit() == 2
    lines = [json.loads(line) for line in again.log.splitlines()]
    assert lines[-1]["level"] == "critical"
    assert "--pid-file 'no/pid' cannot be written" in lines[-1]["message"]


def test_the_access_log_is_off_unless_asked_for(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        ask(client, b"hello")
    assert server.stop() == 0
    assert "bytes received" not in server.log


def test_the_access_log_has_a_line_a_connection(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "1", "--access-log", "--bind", f"unix:{tmp_path}/s")
    server.wait_serving()
    with server.connect() as client:
        name = f"127.0.0.1:{client.getsockname()[1]}"
        ask(client, b"hello")
    server.wait_log(rf"INFO +\[shard 0 default\] {name} closed after \d+\.\d+ s, 6 bytes received")


def test_files_of_a_log_configuration_get_the_lines_of_all_processes(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text(TOML.format(tmp_path, "text"))
    arguments = ("--shards", "1", "--log-config", "log.toml", "--access-log", "--log-level", "debug")
    server = serve(ECHO, *arguments, "--bind", f"unix:{tmp_path}/s")
    path = tmp_path / "app.log"
    eventually(lambda: path.exists() and "serving with" in path.read_text(), "it serves")
    assert server.log == ""
    assert "--log-level has no effect beside --log-config" in path.read_text()
    path.rename(tmp_path / "moved")
    server.send(signal.SIGUSR1)
    eventually(lambda: path.exists() and "SIGUSR1: log files opened anew" in path.read_text(), "new files")

    def accessed() -> bool:  # the shard hears of it a moment later
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/s")
            ask(client, b"hello")
        return "bytes received" in path.read_text()

    eventually(accessed, "a line of the shard in the new file")
    assert server.stop() == 0
    assert "opened anew" not in (tmp_path / "moved").read_text()
    assert "stopped after" in path.read_text()
