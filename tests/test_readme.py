"""The code of the README, and of the pages that go on where it ends, runs as it stands there."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.shards.servers import DEADLINE, Serve, Server, ask

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CALLS = (ROOT / "docs" / "calls.md").read_text()
CONFIGURATION_PAGE = (ROOT / "docs" / "configuration.md").read_text()


def blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


ROUTES, VISITS = blocks("python", README)
SERVICE, TEST = blocks("python", CALLS)
(EXECUTOR,) = blocks("python", (ROOT / "docs" / "executor.md").read_text())
(PROTOCOL,) = blocks("python", (ROOT / "docs" / "protocols.md").read_text())
(CONFIGURATION,) = blocks("toml", CONFIGURATION_PAGE)


def options_of(start: str, page: str = README) -> list[str]:
    """Of the command that begins so."""
    command = re.search(rf"^    {re.escape(start)} ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert command is not None
    return shlex.split(command[1].replace("\\\n", ""))


def get(server: Server, path: str) -> object:
    with urllib.request.urlopen("http://{}:{}{}".format(*server.address, path), timeout=DEADLINE) as response:
        return json.load(response)


def test_it_takes_ten_minutes_to_read() -> None:
    assert len(README.splitlines()) <= 150


def test_the_first_server(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    serve = Serve(tmp_path)
    try:
        server = serve(ROUTES, *options_of("clockworker-serve app:app"), "--spares", "0", app="app:app")
        server.wait_serving()
        assert get(server, "/") == {"hello": "world"}
        assert server.stop() == 0
    finally:
        serve.clean_up()


def test_routes(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    serve = Serve(tmp_path)
    try:
        options = options_of("clockworker-serve app:app --shards 2 --queue")
        server = serve(ROUTES, "--shards", "2", "--queue", *options, "--spares", "0", "--access-log", app="app:app")
        server.wait_serving()
        assert get(server, "/") == {"hello": "world"}
        assert get(server, "/reports/acme") == {"tenant": "acme", "total": 66561705000}
        server.wait_log(r'"GET / HTTP/1.1" 200 \d+ [\d.]+ foreground')
        server.wait_log(r'"GET /reports/acme HTTP/1.1" 200 \d+ [\d.]+ background acme')
        assert server.stop() == 0
    finally:
        serve.clean_up()


def test_a_program_that_serves(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    serve = Serve(tmp_path)
    try:
        server = serve(VISITS, "--shards", "2", "--spares", "0")
        server.wait_serving()
        # Connections come to any shard, pages belong to either.
        for page in ("one", "other", "third", "fourth"):
            assert [get(server, f"/pages/{page}") for _ in range(6)] == [{page: count} for count in range(1, 7)]
        assert server.stop() == 0
    finally:
        serve.clean_up()


def test_the_executor_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", EXECUTOR], cwd=tmp_path, capture_output=True, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == (b"42\n", b"", 0)


def test_the_sharded_service(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        server = serve(SERVICE, *options_of("clockworker-serve app:main", CALLS))
        server.wait_serving()
        with server.connect() as one, server.connect() as other:
            for number in range(20):
                assert ask(one, b"set key%d value%d" % (number, number)) == b"ok"
            for number in range(20):
                assert ask(other, b"get key%d" % number) == b"value%d" % number
            assert ask(other, b"get nothing") == b"-"
        assert server.stop() == 0
    finally:
        serve.clean_up()


@pytest.mark.slow
def test_a_protocol(tmp_path: Path) -> None:
    """No request fails while the shards are replaced, and none that was accepted when the server stops."""
    pytest.importorskip("aiohttp")
    serve = Serve(tmp_path)
    try:
        server = serve(PROTOCOL, "--shards", "2")
        server.wait_serving()
        failed, asked, stop = list[str](), list[float](), threading.Event()

        def ask_again_and_again() -> None:
            while not stop.wait(0.003):
                try:
                    client = server.connect()
                except OSError:  # it has stopped
                    return
                try:
                    with client:
                        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        answer = client.recv(1000)
                    asked.append(time.monotonic())
                    if not answer.startswith(b"HTTP/1.1 200 OK"):
                        failed.append(repr(answer))
                except OSError as error:
                    failed.append(type(error).__name__)

        threads = [threading.Thread(target=ask_again_and_again) for _ in range(8)]
        for thread in threads:
            thread.start()
        for hup in (1, 2):
            server.send(signal.SIGHUP)
            server.wait_log("shard . ready", times=2 + 2 * hup)
        with server.connect() as idle:
            idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000).endswith(b"hello\n")
            status = server.stop()
            assert idle.recv(1) == b""
        stop.set()
        for thread in threads:
            thread.join()
        assert (status, failed) == (0, []), f"{len(asked)} were answered; {server.log}"
    finally:
        serve.clean_up()


@pytest.mark.parametrize("command", re.findall(r"^    clockworker-serve (--.*)$", CONFIGURATION_PAGE, re.MULTILINE))
def test_the_configuration_and_its_commands(command: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SERVICE)
    (tmp_path / "clockworker.toml").write_text(CONFIGURATION)
    cpus = len(os.sched_getaffinity(0))
    arguments = [sys.executable, "-m", "clockworker.shards._cli", *command.split(), *["--no-pin"][: cpus < 2]]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "app:main" in done.stdout


def test_the_configuration_serves(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        (tmp_path / "clockworker.toml").write_text(CONFIGURATION)
        server = serve(SERVICE, "--shards", "2", app=None)
        server.wait_serving()
        with server.connect() as client:
            assert ask(client, b"set key value") == b"ok"
        server.wait_log('bytes received","shard":[01],"queue":"foreground"')
        assert server.stop() == 0
    finally:
        serve.clean_up()


def test_the_test_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SERVICE)
    (tmp_path / "test_app.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
