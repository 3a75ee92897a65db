"""The test kit, used as its users do. This module is also the application."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

import clockworker as cw
from clockworker.shards.testing import Server, serving
from tests.shards.servers import ask, eventually, is_alive

pytestmark = pytest.mark.once  # what is tested is Python in both kinds


class Point(msgspec.Struct):
    x: int
    y: int


class Store:
    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.data: dict[bytes, Point] = {}

    @cw.remote
    async def set(self, key: bytes, value: Point) -> int:
        self.data[key] = value
        return len(self.data)

    @cw.remote
    async def get(self, key: bytes) -> Point | None:
        return self.data.get(key)

    @cw.remote
    async def fail(self) -> None:
        raise LookupError("nothing here")


class Unused:
    @cw.remote
    async def get(self) -> None: ...


@contextlib.contextmanager
def timed() -> Iterator[None]:
    yield


class Nested:
    class Key(msgspec.Struct):
        x: int

    def __init__(self, shard: cw.Shard) -> None:
        pass

    @timed()
    @cw.remote
    async def get(self, key: Key) -> Key:
        return key


async def main(shard: cw.Shard) -> None:
    await shard.start(Store)
    await shard.start(Nested)

    async def handle(reader, writer):  # type: ignore[no-untyped-def]
        while line := await reader.readline():
            writer.write(b"%d %s" % (shard.id, line))

    await shard.start_server(handle)
    await shard.wait_stopped()


@pytest.mark.slow
def test_an_application_from_start_to_stop() -> None:
    with serving(main, shards=2, options=["--queue", "foreground:8"]) as server:
        with server.connect() as client:
            assert ask(client, b"hello") in (b"0 hello", b"1 hello")
        assert server.addresses == ["{}:{}".format(*server.address)]
        assert server.call(0, Store.set, b"key", Point(1, 2)) == 1
        assert server.call(0, Store.get, b"key") == Point(1, 2)
        assert server.call(1, Store.get, b"key") is None
        assert server.call(1, Nested.get, Nested.Key(1)) == Nested.Key(1)
        pids = [server.supervisor_pid, server.pid(0), server.pid(1)]
    assert not any(map(is_alive, pids))


async def two(shard: cw.Shard) -> None:
    async def say(reader, writer):  # type: ignore[no-untyped-def]
        writer.write(b"admin\n")

    await shard.start_server(say, bind="admin")
    await main(shard)


def test_addresses_by_their_names() -> None:
    with serving(two, shards=1, options=["--bind", "admin=127.0.0.1:0", "--port", "0"]) as server:
        with server.connect() as client, server.connect("admin") as admin:
            assert ask(client, b"hello") == b"0 hello"
            assert admin.recv(100) == b"admin\n"
        assert server.addresses == ["admin={}:{}".format(*server.address_of("admin")), "{}:{}".format(*server.address)]
        with pytest.raises(LookupError, match="no TCP address named 'other', only admin=127"):
            server.connect("other")


def test_a_killed_shard_is_waited_for_and_has_forgotten() -> None:
    with serving(main) as server:
        for shard in (0, 1):
            server.call(shard, Store.set, b"key", Point(shard, 0))
        before = server.pid(1)
        server.kill(1)
        assert server.pid(1) != before
        assert server.call(0, Store.get, b"key") == Point(0, 0)
        assert server.call(1, Store.get, b"key") is None
        server.wait_log(rf"shard 1 \(pid {before}\) killed by SIGKILL")


def test_replacing_all() -> None:
    with serving(main) as server:
        before = [server.pid(0), server.pid(1)]
        server.replace()
        assert not {server.pid(0), server.pid(1)} & set(before)
        assert server.stop() == 0


class Tags:
    def __init__(self, shard: cw.Shard) -> None:
        self.tags = ["a"]

    @cw.remote
    async def get(self) -> list[str]:
        return self.tags

    @cw.remote
    async def twice(self, number: int) -> int:
        return number * 2

    @cw.remote
    async def fail(self) -> None:
        raise Undeclared("x")


class Undeclared(Exception):
    pass


async def tags(shard: cw.Shard) -> None:
    """Answers a line `SHARD METHOD`."""
    service = await shard.start(Tags)

    async def handle(reader, writer):  # type: ignore[no-untyped-def]
        while line := await reader.readline():
            peer, method = line.decode().split()
            there = service.on(int(peer))
            try:
                if method == "shared":
                    (await there.get()).append("b")
                    answer = repr(await there.get())
                else:
                    answer = repr(await (there.twice("x") if method == "wrong" else there.fail()))
            except Exception as error:
                answer = type(error).__name__
            writer.write(f"{answer}\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()


@pytest.mark.parametrize("encode", [True, False])
def test_a_test_with_one_shard_sees_what_two_would(encode: bool) -> None:
    with serving(tags, shards=1, encode_local_calls=encode) as server, server.connect() as client:
        answers = [ask(client, b"0 " + method) for method in (b"shared", b"wrong", b"fail")]
    assert answers == ([b"['a']", b"TypeError", b"RemoteError"] if encode else [b"['a', 'b']", b"'xx'", b"Undeclared"])


def test_that_is_what_two_shards_do() -> None:
    with serving(tags, options=["--distribution", "fixed"]) as server, server.connect() as client:
        answers = {(ask(client, b"%d shared" % peer), ask(client, b"%d wrong" % peer)) for peer in (0, 1)}
    assert answers == {(b"['a']", b"TypeError"), (b"['a', 'b']", b"'xx'")}


def test_what_does_not_travel_keeps_the_application_from_being_started(tmp_path: Path) -> None:
    (tmp_path / "paths.py").write_text(
        "import pathlib\nimport clockworker as cw\n"
        "class Files:\n    @cw.remote\n    async def get(self, path: pathlib.Path) -> bytes: ...\n"
        "async def main(shard): await shard.wait_stopped()\n"
    )
    with (
        pytest.raises(
            cw.ApplicationError,
            match=r"shard 0: Files\.get: parameter path has a type that cannot be sent: pathlib\.Path",
        ) as caught,
        serving("paths:main", app_dir=tmp_path, shards=1),
    ):
        pytest.fail("it has started")
    assert "Traceback" not in str(caught.value)
    arguments = [sys.executable, "-m", "clockworker.shards._cli", "paths:main", "--check-config"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "Files.get: parameter path has a type that cannot be sent" in done.stderr + done.stdout


def test_what_goes_wrong_in_a_call() -> None:
    with serving(main, shards=1) as server:
        with pytest.raises(cw.RemoteError, match=r"Store\.fail on shard 0: LookupError: nothing here") as caught:
            server.call(0, Store.fail)
        assert caught.value.type_name == "builtins.LookupError"
        with pytest.raises(cw.RemoteError, match="has not started Unused"):
            server.call(0, Unused.get)
        with pytest.raises(cw.RemoteError, match="shard 7 does not answer"):
            server.call(7, Store.fail)


def test_an_application_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    started = serving("broken:main", app_dir=tmp_path)
    with pytest.raises(cw.ApplicationError, match=r"(?s)ended with status 3:.*ZeroDivisionError"), started:
        pytest.fail("it has started")


def test_a_failing_test_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), serving(main, shards=1) as server:
        pid = server.pid(0)
        raise ZeroDivisionError
    assert not is_alive(pid)


# Ends as a killed test does; prints the pids, and where the kit has put its files.
KILLED = """
import os, signal, sys, threading
from clockworker.shards.testing import serving
options = ["--pid-file", "pid", "--uds", "socket", "--control", "control"]
with serving("tests.shards.test_testing:main", shards=1, options=options) as server:
    print(server.supervisor_pid, server.pid(0), server._log_path.parent, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_killed_test_leaves_nothing(end: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}
    command = [sys.executable, "-c", KILLED.format(end=end)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False)
    supervisor, shard, directory = done.stdout.split()
    eventually(lambda: not is_alive(int(supervisor)) and not is_alive(int(shard)), "both are gone")
    eventually(lambda: not os.path.exists(directory), f"{directory} is gone")
    assert os.listdir(tmp_path) == []


def test_a_test_that_is_killed_while_its_server_starts_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        f"import os, signal; os.kill({os.getpid()}, 0); os.mkfifo('started'); open('started')"
    )
    starting = "from clockworker.shards.testing import serving; serving('slow:main', shards=1).__enter__()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", starting], env=environment, cwd=tmp_path) as test:
        eventually((tmp_path / "started").exists, "the application is being imported")
        test.kill()
    eventually(lambda: not list(tmp_path.glob("clockworker-*")), "its directory is gone")


LOG_CONFIG = """
version = 1
[handlers.file]
class = "logging.FileHandler"
filename = "file.log"
[root]
handlers = ["file"]
"""


@pytest.mark.parametrize(
    "options",
    [
        ["--log-level", "critical"],
        ["--log-format=json"],
        ["--log-format=json", "--log-level=debug", "--access-log"],
        ["--log-config", "log.toml"],
        ["--control", "own"],
    ],
)
def test_whatever_is_logged_and_wherever_its_control_socket_is(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.toml").write_text(LOG_CONFIG)
    with serving(main, shards=1, options=options) as server:
        before = server.pid(0)
        with server.connect() as client:
            assert ask(client, b"hello") == b"0 hello"
        server.kill(0)
        assert server.pid(0) != before
        server.replace()


def test_what_is_set_for_another_server_is_not_this_ones_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clockworker.toml").write_text('bind = ["127.0.0.1:1"]\n')
    monkeypatch.setenv("CLOCKWORKER_BIND", "127.0.0.1:2")
    with serving(main, shards=1) as server:
        assert server.address[1] > 1000


def test_nothing_is_left_of_shards_whose_supervisor_has_died() -> None:
    with serving(main, shards=1) as server:
        pid, directory = server.pid(0), server._log_path.parent
        os.kill(pid, signal.SIGSTOP)  # or it would go with its supervisor before we come to it
        os.kill(server.supervisor_pid, signal.SIGKILL)
    assert not is_alive(pid)
    assert not directory.exists()


def test_this_process_stays_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        signals = [signal.getsignal(number) for number in signal.valid_signals()]
        threads = [thread for thread in threading.enumerate() if thread.is_alive()]
        return dict(os.environ), list(sys.path), signals, threads, os.getcwd(), sorted(os.listdir("/proc/self/fd"))

    before = state()
    with serving(main, shards=1) as server, server.connect():
        pass
    assert state() == before


def test_the_server_outlives_the_thread_that_has_started_it() -> None:
    with ExitStack() as stack:
        found: list[Server] = []
        starter = threading.Thread(target=lambda: found.append(stack.enter_context(serving(main, shards=1))))
        starter.start()
        starter.join()
        # What the death of the thread would have sent is sent at once.
        with found[0].connect() as client:
            assert ask(client, b"hello") == b"0 hello"
        assert is_alive(found[0].supervisor_pid)
        assert found[0].stop() == 0
