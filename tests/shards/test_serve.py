"""`clockworker.serve`: a program that is its own server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints

import pytest

import clockworker as cw
from clockworker.shards._serve import find_name
from clockworker.shards.config._config import TcpAddress
from clockworker.shards.config._http import Route
from clockworker.shards.config._keywords import COMMANDS, ServeOptions, read_keywords
from clockworker.shards.config._options import BY_NAME
from clockworker.shards.config._settings import settings_of
from tests.shards.servers import DEADLINE, ECHO, Serve, Server, ask

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

PROGRAM = """
import signal, sys
import clockworker as cw
{main}
if __name__ == "__main__":
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGRTMIN)]
    print("returned", cw.serve({what}, {options}), flush=True)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGRTMIN)]
    print("as before", flush=True)
"""
OPTIONS = 'port=0, shards=2, no_pin=True, queue=["foreground:8:las", {"name": "background", "share": 2}]'


def program(
    serve: Serve, what: str, options: str = OPTIONS, main: str = ECHO, command: tuple[str, ...] = ("app.py",)
) -> Server:
    source = PROGRAM.format(main=main, what=what, options=options)
    return serve(source, app=None, bind=(), command=[sys.executable, *command])


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("main", ("app.py",)),
        ('"app:main"', ("app.py",)),
        ("main", ("-m", "app")),
        ("cw.application(main)", ("app.py",)),
    ],
)
def test_a_program_serves_until_it_is_stopped(what: str, command: tuple[str, ...], serve: Serve) -> None:
    main = ECHO
    if what.startswith("cw."):  # an object that is no function, under a name of its own
        main, what = f"{ECHO}\nserved = {what}\n", "served"
    server = program(serve, what, main=main, command=command)
    server.wait_log("serving with 2 shards")
    for shard in (0, 1):
        with server.connect_to(shard) as client:
            assert ask(client, b"hello") == b"%d hello" % shard
    before = server.shard_pids()
    server.send(signal.SIGHUP)  # the application is imported again, by its name
    server.wait_log(r"shard \d ready on", 4)
    assert not {*before.values()} & {*server.shard_pids().values()}
    assert server.stop(signal.SIGINT) == 0
    assert server.log.endswith("returned None\nas before\n")


def test_the_directory_of_the_program_is_where_applications_are(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other.py").write_text(ECHO)
    source = "import clockworker as cw\nif __name__ == '__main__':\n    cw.serve('other:main', port=0, shards=1)\n"
    (tmp_path / "run it.py").write_text(source)
    command = ["env", "-C", "elsewhere", sys.executable, str(tmp_path / "run it.py")]
    server = serve(None, app=None, bind=(), command=command)
    server.wait_serving()
    assert server.stop() == 0


def test_an_application_of_asgi(serve: Serve) -> None:
    pytest.importorskip("httptools")
    main = """
class App:
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"hi"})

app = App()
"""
    server = program(serve, "app", 'port=0, shards=1, lifespan="off"', main)
    server.wait_serving()
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0


def test_a_call_without_the_guard_is_told_so(serve: Serve) -> None:
    server = program(serve, "main", main=f"{ECHO}\ncw.serve(main, port=0, shards=1)\n")
    assert server.wait_exit() == 1
    assert 'put the call under `if __name__ == "__main__":`' in server.log
    assert "ApplicationError: app:main cannot be started; the server's log says why" in server.log


def test_the_guide(serve: Serve, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/from-python.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    for before, after in (("127.0.0.1:8000", "127.0.0.1:0"), ("shards=2", "shards=2, no_pin=True")):
        assert before in source
        source = source.replace(before, after)
    server = serve(source, app=None, bind=(), command=[sys.executable, "app.py"])
    server.wait_log("serving with 2 shards")
    with server.connect() as client:
        assert ask(client, b"hello") == b"hello"
    assert server.stop() == 0
    assert server.log.endswith("stopped\n")


def run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(source)
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)


CAUGHT = """
import clockworker as cw
async def main(shard):
    shard.ready()
    raise SystemExit(7)
if __name__ == "__main__":
    try:
        cw.serve({arguments})
    except cw.{error} as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ("main, shards=0", "ConfigurationError", r"serve\(shards=\): the number of shards is 0; "),
        ("main, shard=2", "ConfigurationError", r"serve\(\) has no option 'shard'; did you mean shards\?"),
        ("main, shards=1000", "ConfigurationError", r"1000 shards need .* \(--shards is given by serve\(shards=\)\)"),
        (
            "'nothing:main', shards=1, port=0",
            "ApplicationError",
            "nothing:main cannot be started; the server's log says",
        ),
        ("'nothing'", "ConfigurationError", "'nothing' does not say what to run; give MODULE:ATTRIBUTE"),
        ("lambda shard: None", "ConfigurationError", r"serve\(\) is given <lambda>, which has no name; "),
        (
            "main, port=0, shards=1, respawn=False, spares=0",
            "ClockworkerError",
            "the server of program:main has given up",
        ),
        ("main, bind='192.0.2.1:80'", "AddressUnavailable", "192.0.2.1:80"),
    ],
)
def test_mistakes(arguments: str, error: str, said: str, tmp_path: Path) -> None:
    done = run(tmp_path, CAUGHT.format(arguments=arguments, error=error))
    assert re.match(rf"\w+ {said}", done.stdout) or (error == "AddressUnavailable" and said in done.stdout), done
    assert done.returncode == 0


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, CAUGHT.format(arguments=f"main, port={port}", error="AddressUnavailable"))
    assert re.match(rf"AddressUnavailable .*127\.0\.0\.1:{port}", done.stdout), done


def test_a_name_that_cannot_be_imported(tmp_path: Path) -> None:
    source = CAUGHT.format(arguments="main", error="ConfigurationError")
    (tmp_path / "my app.v2.py").write_text(source)
    command = [sys.executable, "my app.v2.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert "my app.v2.py cannot be imported under that name" in done.stdout
    done = subprocess.run(
        [sys.executable], input=source, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert "serve() is given what no file defines" in done.stdout, done


def test_elsewhere_than_in_the_main_thread() -> None:
    found: list[BaseException] = []

    def call() -> None:
        try:
            cw.serve("app:main")
        except cw.UsageError as error:
            found.append(error)

    thread = threading.Thread(target=call, name="worker-7")
    thread.start()
    thread.join()
    assert "serve() was called in thread 'worker-7'" in str(found[0])


def test_where_a_loop_runs() -> None:
    async def call() -> None:
        cw.serve("app:main")

    with pytest.raises(cw.UsageError, match="serve\\(\\) was called where an event loop runs"):
        asyncio.run(call())


def test_python_m_clockworker_is_the_command(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "1", command=[sys.executable, "-m", "clockworker"])
    server.wait_serving()
    assert server.stop() == 0
    done = subprocess.run(
        [sys.executable, "-m", "clockworker", "--prot"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (2, "clockworker-serve: unknown option --prot; did you mean --port?\n")


# The name of an object.


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Holder:
        @staticmethod
        async def main(shard: cw.Shard) -> None: ...

    module: Any = ModuleType("some.where")
    module.app = SimpleNamespace()
    module.Holder = Holder
    Holder.main.__module__ = "some.where"
    Holder.main.__qualname__ = "Holder.main"
    monkeypatch.setitem(sys.modules, "some.where", module)
    monkeypatch.setitem(sys.modules, "strange", None)  # type: ignore[arg-type]  # as an import that is forbidden has it
    assert find_name(module.app) == ("some.where:app", None)
    assert find_name(Holder.main) == ("some.where:Holder.main", None)
    with pytest.raises(cw.ConfigurationError, match="an object of type SimpleNamespace, which has no name"):
        find_name(SimpleNamespace())


# Options.


def test_keywords_are_the_options_of_the_command() -> None:
    assert get_type_hints(ServeOptions).keys() == BY_NAME.keys() - COMMANDS


def test_values() -> None:
    options: dict[str, Any] = {
        "shards": 2,
        "cpus": range(2),
        "no_pin": True,
        "idle_poll": None,
        "max_message": "1MiB",
        "queue": [cw.QueueConfig("foreground", share=8, preemptive=True), "background:1"],
        "shard_queue": ["0:compaction:2"],
        "bind": ("127.0.0.1:0", "admin=127.0.0.1:9000"),
        "reload_dir": Path("src"),
        "route": [cw.Route("/reports/*", queue="background", methods=("GET",)), "/x=foreground:client"],
        "header": "x-a: b",
        "metrics": True,
        "timeout_graceful_shutdown": 2.5,
        "pid_file": Path("pid"),
    }
    config = settings_of("app:main", ".", options, {"CLOCKWORKER_SHARDS": "3", "CLOCKWORKER_BACKLOG": "7"}).config
    assert (config.shards, config.cpus, config.pin, config.backlog) == (2, (0, 1), False, 7)
    assert config.max_message == 1 << 20
    assert config.queues == (cw.QueueConfig("foreground", 8, preemptive=True), cw.QueueConfig("background", 1))
    assert config.shard_queues == {0: (cw.QueueConfig("compaction", 2),)}
    assert config.addresses == (TcpAddress("127.0.0.1", 0), TcpAddress("127.0.0.1", 9000, "admin"))
    assert config.reload_dirs == ("src",)
    assert config.http.routes == (
        Route("/reports/*", queue="background", methods=("GET",)),
        Route("/x", queue="foreground", group="client"),
    )
    assert config.http.headers == (("x-a", "b"),)
    assert config.metrics == TcpAddress("127.0.0.1", 9464)
    assert (config.timeout_graceful_shutdown, config.pid_file) == (2.5, "pid")


def test_the_directory_comes_last() -> None:
    assert settings_of("app:main", "/srv", {}, {}).config.app_dir == "/srv"
    assert settings_of("app:main", "/srv", {}, {"CLOCKWORKER_APP_DIR": "/env"}).config.app_dir == "/env"
    assert (
        settings_of("app:main", "/srv", {"app_dir": Path("/given")}, {"CLOCKWORKER_APP_DIR": "/env"}).config.app_dir
        == "/given"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 2}, r"serve\(\) has no option 'workers'; did you mean shards\?"),
        ({"qwertzuiop": 2}, r"serve\(\) has no option 'qwertzuiop'; its options are those of clockworker-serve --help"),
        ({"app": "x"}, "takes the application as its first argument"),
        ({"check_config": True}, r"serve\(check_config=\): is for the command only: clockworker-serve --check-config"),
        ({"shards": "many"}, r"serve\(shards=\): the number of shards is 'many'"),
        ({"no_pin": 1}, r"serve\(no_pin=\): the value 1 is a whole number; give true or false"),
        ({"port": "80"}, r"serve\(port=\): the value \"80\" is a string; give a whole number \(PORT\)"),
        ({"bind": [80]}, r"serve\(bind=\): 80 in the list is a whole number; give a string"),
        ({"queue": [cw.Queue("background")]}, r"serve\(queue=\): queue is "),
        ({"shard_queue": [1]}, r"serve\(shard_queue=\): the value 1 is of type int; give a string"),
        ({"config": 1}, r"serve\(config=\): the value 1 is of type int; give a path"),
        ({"log_level": "loud"}, r"serve\(log_level=\): "),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(cw.ConfigurationError, match=said):
        read_keywords(options)


def test_the_working_directory_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clockworker.toml").write_text("backlog = 5\nshards = 3\n")
    (tmp_path / "other.toml").write_text("backlog = 6\n")
    config = settings_of("app:main", ".", {"shards": 1}, os.environ).config
    assert (config.backlog, config.shards) == (5, 1)
    assert settings_of("app:main", ".", {"config": tmp_path / "other.toml"}, os.environ).config.backlog == 6
