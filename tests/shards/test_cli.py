"""The command as a newcomer meets it: help, version, mistakes, and where values come from."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clockworker
from clockworker.shards.config._options import OPTIONS
from clockworker.shards.machine._host import descriptors_needed
from tests.shards.forked import ForkedCommand
from tests.shards.servers import ECHO, Serve

pytestmark = pytest.mark.once  # what is tested is Python in both kinds


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clockworker.shards._cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=os.environ | environment,
        check=False,
    )


def test_help_fits_100_columns_and_names_every_option_and_variable(command: ForkedCommand) -> None:
    result = command("--help", COLUMNS="200")
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    for option in OPTIONS:
        assert option.variable in result.stdout
        for flag in option.flags:
            assert flag in result.stdout
    assert re.findall(r"^(\w+):$", result.stdout, re.MULTILINE)[-9:] == [
        "shards",
        "queues",
        "sockets",
        "application",
        "http",
        "cluster",
        "life",
        "logs",
        "operations",
    ]


def test_version_says_what_is_running() -> None:
    result = run("--version", COLUMNS="300")
    kind = "compiled" if clockworker.compiled else "pure Python"
    assert result.returncode == 0
    off = f"; switched off: {', '.join(clockworker.switched_off())}" if clockworker.switched_off() else ""
    assert re.fullmatch(rf"clockworker \S.* \({kind}\), CPython 3\.\d+\.\d+\S*, uvloop \d[^\s;]+{off}\n", result.stdout)
    result = run("--version", COLUMNS="200", CLOCKWORKER_PLAIN="suspend,force")
    assert "; switched off: force, " in result.stdout
    assert result.stdout.endswith("suspend\n")


# name -> (arguments, exit status, what the one line must contain)
MISTAKES = {
    "no application": ([], 2, ["MODULE:ATTRIBUTE"]),
    "no colon": (["app"], 2, ["'app'", "app:main"]),
    "a file name": (["app.py"], 2, ["app:main"]),
    "no such module": (["ap:main"], 3, ["'ap'", "--app-dir"]),
    "no such attribute": (["app:mian"], 3, ["'app'", "'mian'", "'main'", "async def main(shard)"]),
    "not callable": (["app:number"], 3, ["app:number", "int", "async def main(shard)"]),
    "a plain function": (["app:plain"], 3, ["app:plain", "async def main(shard)", "--factory"]),
    "a class": (["app:Class"], 3, ["app:Class", "async def main(shard)"]),
    "an ASGI application that is said to be of WSGI": (
        ["app:asgi", "--interface", "wsgi"],
        3,
        ["app:asgi is an ASGI application", "take --interface wsgi out"],
    ),
    "a program of ours that is said to be of ASGI": (
        ["app:main", "--interface", "asgi3"],
        3,
        ["app:main is called with (shard)", "take --interface asgi3 out"],
    ),
    "a route into no queue": (
        ["app:main", "--route", "/reports/*=bakground", "--queue", "web:1", "--queue", "background:1"],
        2,
        ["--route /reports/*: queue is 'bakground'", "'web', 'background'", "did you mean 'background'?"],
    ),
    "a lifespan in no queue": (["app:main", "--lifespan-queue", "x"], 2, ["--lifespan-queue is 'x'", "'default'"]),
    "an endpoint in no queue": (
        ["app:program"],
        3,
        ["route /*: queue is 'nightly'", "'default'", "--queue nightly:1"],
    ),
    "a route without a queue": (["app:main", "--route", "/reports/*"], 2, ["--route", "PATH=QUEUE[:GROUP]"]),
    "no parameter": (["app:nothing"], 3, ["app:nothing", "one argument"]),
    "a factory that makes nothing": (["app:plain", "--factory"], 3, ["what app:plain returned", "NoneType"]),
    "no shards": (["app:main", "--shards", "0"], 2, ["--shards", "1 to 1024", "auto"]),
    "more shards than CPUs": (["app:main", "--shards", "1000"], 2, ["1000 CPUs", "--shards ", "auto", "--no-pin"]),
    "a share of 0": (["app:main", "--queue", "web:0"], 2, ["--queue", "'web:0'", "1 to 10000"]),
    "an unknown scheduler": (["app:main", "--queue", "web:1:lifo"], 2, ["'lifo'", "fifo", "las"]),
    "a scheduler that is not there": (["app:main", "--queue", "web:1:app:No"], 3, ["'app'", "'No'", "Scheduler"]),
    "a scheduler that is none": (["app:main", "--queue", "web:1:app:Class"], 3, ["app:Class", "Scheduler"]),
    "a queue of a shard that is not there": (["app:main", "--shard-queue", "1000:x:1"], 2, ["shard 1000", "queue"]),
    "an unknown option": (["app:main", "--sahrds", "2"], 2, ["--sahrds", "--shards"]),
    "two applications": (["app:main", "app:main"], 2, ["'app:main'", "one application"]),
    "a CPU that is not there": (["app:main", "--cpus", "8000"], 2, ["--cpus", "8000"]),
    "a time that is none": (["app:main", "--timeout-startup", "soon"], 2, ["--timeout-startup", "'soon'", "seconds"]),
    "no such file": (["app:main", "--config", "no.toml"], 2, ["--config", "no.toml", "No such file"]),
    "a file with a mistake": (["--config", "wrong.toml"], 2, ["wrong.toml", "shrads", "shards"]),
    "no such env file": (["app:main", "--env-file", "no.env"], 2, ["--env-file", "no.env"]),
    "a wrong env file": (["app:main", "--env-file", "wrong.env"], 2, ["wrong.env", "line 2", "'what'"]),
    "no such log configuration": (["app:main", "--log-config", "no.json"], 2, ["--log-config", "no.json"]),
    "a wrong log configuration": (["app:main", "--log-config", "wrong.json"], 2, ["wrong.json", "'nowhere'"]),
    "a file in this directory": (["./app:main"], 2, ["'./app'", ": app:main"]),
    "a file elsewhere": (["/srv/web/app.py:main"], 2, ["--app-dir /srv/web app:main"]),
    "a directory that is not there": (["app:main", "--app-dir", "nowhere"], 2, ["--app-dir", "'nowhere'", "directory"]),
    "a directory to watch that is not": (["app:main", "--reload-dir", "nowhere"], 2, ["--reload-dir", "'nowhere'"]),
    "metrics on a port": (["app:main", "--metrics", "9464"], 2, ["--metrics", "'9464'", "127.0.0.1:9464"]),
    "a socket in no directory": (["app:main", "--uds", "no/s"], 1, ["unix:no/s", "no directory 'no'"]),
    "an address that is none": (["app:main", "--bind", "8000"], 2, ["--bind", "'8000'", "HOST:PORT (127.0.0.1:8000)"]),
    "an address of elsewhere": (["app:main", "--bind", "192.0.2.1:80"], 1, ["192.0.2.1:80", "--bind"]),
    "a pid file in no directory": (["app:main", "--pid-file", "no/pid"], 2, ["--pid-file", "'no/pid'", "make", "'no'"]),
    "a pid file without a name": (["app:main", "--pid-file", ""], 2, ["--pid-file", "no path"]),
    "a control socket in no directory": (["app:main", "--control", "no/s"], 1, ["--control", "no/s", "no directory"]),
    "a control socket in the place of a file": (
        ["app:main", "--control", "app.py"],
        1,
        ["--control", "app.py", "is no"],
    ),
    "a control socket with a long name": (["app:main", "--control", "x" * 108], 2, ["--control", "1 to 107 bytes"]),
    "a socket in the place of a directory": (["app:main", "--uds", "."], 1, ["unix:.", "no socket", "another path"]),
    "a socket with a long name": (["app:main", "--bind", "unix:" + "x" * 108], 2, ["--bind", "1 to 107 bytes"]),
    "metrics on an address of elsewhere": (
        ["app:main", "--metrics", "192.0.2.1:9464"],
        1,
        ["--metrics", "192.0.2.1:9464 is not an address of this machine"],
    ),
    "metrics on a host that is not": (
        ["app:main", "--metrics", "no..no:1"],
        1,
        ["--metrics", "no..no", "host"],
    ),
    "a host that is not": (["app:main", "--host", "x" * 64], 1, ["xxx:8000", "no such host"]),
    "metrics on no port": (["app:main", "--metrics", ":x"], 2, ["--metrics", "the port is 'x'"]),
    "metrics on a Unix socket": (["app:main", "--metrics", "unix:s"], 2, ["--metrics", "'unix:s'", "HOST:PORT"]),
    "a log configuration of another kind": (["app:main", "--log-config", "app.py"], 2, [".toml or .json"]),
    "a URL": (["app:main", "--bind", "http://localhost:80/"], 2, ["--bind", "HOST:PORT (localhost:80)"]),
    "an IPv6 address without brackets": (["app:main", "--bind", "::1:8000"], 2, ["--bind", "([::1]:8000)"]),
    "an IPv6 address without a port": (["app:main", "--bind", "[::1]"], 2, ["--bind", "([::1]:8000)"]),
    "a host with its port": (["app:main", "--host", "h:80"], 2, ["--host", "--bind h:80", "--host h --port 80"]),
    "a host without a name": (["app:main", "--host", ""], 2, ["--host", "0.0.0.0 for all"]),
    "a descriptor that is closed": (["app:main", "--fd", "77"], 1, ["fd:77", "nothing is open"]),
    "many CPUs that are not there": (["app:main", "--cpus", "5000-6000"], 2, ["--cpus", "CPU 5000-6000"]),
    "a scheduler of no module": (["app:main", "--queue", "web:1:no:No"], 3, ["queue 'web'", "'no'"]),
    "a queue that is not there": (
        ["app:queue", "--queue", "web:1"],
        3,
        ["no queue 'background', only 'web'", "--queue background:1"],
    ),
    "a server in a queue with another name": (
        ["app:server", "--queue", "foreground:1"],
        3,
        ["no queue 'foregruond', only 'foreground'"],
    ),
    "a service in a queue that is not there": (
        ["app:service"],
        3,
        ["Service.work", "no queue 'background', only 'default'", "--queue background:1"],
    ),
    "a function in a queue that is not there": (
        ["app:function"],
        3,
        ["work", "no queue 'nightly'", "--queue nightly:1"],
    ),
    "a switch with a value": (["app:main", "--no-pin=1"], 2, ["--no-pin", "no value"]),
    "APP as an option": (["--app", "app:main"], 2, ["--app", "by itself"]),
    "TLS": (["app:main", "--ssl-keyfile", "key.pem"], 2, ["--ssl-keyfile", "--ssl-certfile"]),
    "another server's option": (["app:main", "--worker-connections", "4"], 2, ["--max-connections"]),
}

APP = """
import clockworker as cw
from clockworker import remote
number = 42
def plain(): pass
class Class: pass
async def nothing(): pass
async def asgi(scope, receive, send): pass
program = cw.asgi(cw.queue("nightly")(asgi))
async def main(shard): await shard.wait_stopped()
async def queue(shard): shard.queue("background")
async def server(shard): await shard.start_server(nothing, queue="foregruond")
async def service(shard): await shard.start(Service)
async def function(shard): await shard.call(shard.id, work)
@remote(queue="nightly")
async def work() -> None: pass
class Service:
    def __init__(self, shard): pass
    @remote(queue="background")
    async def work(self) -> None: pass
"""

FILES = {
    "app.py": APP,
    "wrong.toml": "shrads = 2",
    "wrong.env": "A=1\nwhat\n",
    "wrong.json": '{"root": {"handlers": ["nowhere"]}}',
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_and_no_traceback(name: str, tmp_path: Path, command: ForkedCommand) -> None:
    arguments, status, parts = MISTAKES[name]
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    shards = () if "--shards" in arguments else ("--shards", "1")
    port = () if {"--bind", "--uds", "--host"} & {*arguments} else ("--port", "0")
    result = command(*arguments, *port, *shards, "--log-level", "error", cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_port_in_use_is_named_before_any_shard_starts(tmp_path: Path, command: ForkedCommand) -> None:
    (tmp_path / "app.py").write_text("open('imported', 'w')\n" + ECHO)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        result = command("app:main", "--port", str(port), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"clockworker-serve: 127.0.0.1:{port} is already in use; "
        "stop the process that listens there, or choose another with --bind"
    ]
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("option", ["--port", "--metrics"])
def test_a_port_that_takes_a_privilege(option: str, tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("anybody may have port 80 here")
    (tmp_path / "app.py").write_text(ECHO)
    without = ["setpriv", "--bounding-set=-net_bind_service"] if os.geteuid() == 0 else []
    address = ["--port", "80"] if option == "--port" else ["--port", "0", "--metrics", "127.0.0.1:80"]
    command = [*without, sys.executable, "-m", "clockworker.shards._cli", "app:main", "--log-level", "error", *address]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "127.0.0.1:80: permission denied; choose a port above 1023" in line


def test_an_exception_on_import_is_shown_once_and_trimmed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def fail():\n    raise OSError('no disk')\nfail()\n")
    result = run("app:main", "--shards", "2", "--no-pin", "--port", "0", "--log-level", "error", cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr.count("Traceback") == 1
    assert re.findall(r'File "(.*?)"', result.stderr) == [str(tmp_path / "app.py")] * 2
    assert result.stderr.rstrip().endswith("OSError: no disk")


# The file.

FILE = """
app = "app:main"
shards = 1
port = 0

[[queue]]
name = "foreground"
share = 8
scheduler = "las"
slice = 0.0005

[[queue]]
name = "background"
scheduler = "app:Own"

[[shard.0.queue]]
name = "background"
share = 2

[[shard.0.queue]]
name = "compaction"
"""

TELLS = """
import clockworker as cw

class Own(cw.RunnableFifo):
    def __init__(self):
        super().__init__()
        print("own scheduler made\\n", end="", flush=True)

async def main(shard):
    for key, stats in shard.executor.queue_stats().items():
        # In one piece: others write to the same file.
        print(f"queue {key} {stats.share}\\n", end="", flush=True)
    await shard.wait_stopped()
"""


def test_the_file_is_enough(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(TELLS, app=None, bind=())
    server.wait_serving()
    assert re.findall(r"^queue (\w+) (\d+)$", server.log, re.MULTILINE) == [
        ("foreground", "8"),
        ("background", "2"),
        ("compaction", "1"),
    ]
    assert server.log.count("own scheduler made") == 1
    assert server.stop() == 0


def test_one_shard_has_a_queue_more(serve: Serve) -> None:
    server = serve(TELLS, "--shards", "2", "--queue", "web:3", "--shard-queue", "1:web:4", "--shard-queue", "1:x:1")
    server.wait_serving()
    assert sorted(re.findall(r"^queue (\w+) (\d+)$", server.log, re.MULTILINE)) == [
        ("web", "3"),
        ("web", "4"),
        ("x", "1"),
    ]


def test_an_exception_that_escapes_a_queue_that_propagates_ends_the_shard(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text("[[queue]]\nname = 'a'\n[[queue]]\nname = 'b'\non_panic = 'propagate'\n")
    source = """
async def fail():
    raise ValueError("escaped")

async def main(shard):
    async def handle(reader, writer):
        shard.queue((await reader.readline()).strip().decode()).spawn(fail())
        writer.write(await reader.readline())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""
    server = serve(source, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        client.sendall(b"a\nstill here\n")
        assert client.recv(100) == b"still here\n"
    assert server.log.count("shard 0 ready") == 1
    with server.connect() as client:
        client.sendall(b"b\n")
        assert client.recv(100) == b""
    server.wait_log("shard 0 ready", 2)
    server.wait_log('an exception escaped a task of a queue with on_panic = "propagate"\nTraceback')
    assert server.stop() == 0


def test_check_config_imports_and_starts_nothing(tmp_path: Path, command: ForkedCommand) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    (tmp_path / "app.py").write_text("print('imported', flush=True)\n" + TELLS)
    result = command("--check-config", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    imported, *made, right = result.stdout.splitlines()
    assert (imported, set(made)) == ("imported", {"own scheduler made"})
    assert right.startswith("configuration is right: app:main on 1 shard on CPU ")
    assert "queues foreground:8:las, background:1:app:Own, at 127.0.0.1:0" in right


@pytest.mark.parametrize(
    ("source", "arguments", "status", "message"),
    [
        ("number = 1", (), 3, "'main'"),
        ("1 / 0", (), 3, "Traceback.*\n  File .*app.py.*\n.*1 / 0\n(.*\n)?ZeroDivisionError"),
        (APP, ("--queue", "a:1:app:Class"), 3, "Scheduler"),
        (APP, ("--log-config", "no.json"), 2, "no.json"),
        (APP, ("--shards", "0"), 2, "--shards"),
    ],
)
def test_check_config_finds_what_a_start_would_find(
    source: str, arguments: tuple[str, ...], status: int, message: str, tmp_path: Path, command: ForkedCommand
) -> None:
    (tmp_path / "app.py").write_text(source)
    result = command("app:main", "--check-config", *arguments, cwd=tmp_path)
    assert result.returncode == status
    assert re.search(message, result.stderr)
    assert "File" not in result.stderr or 'app.py"' in result.stderr.partition("File")[2].partition("\n")[0]
    assert result.stdout == ""


# Those that only a running main() makes.
_OF_MAIN = {
    "a queue that is not there",
    "a server in a queue with another name",
    "a service in a queue that is not there",
    "a function in a queue that is not there",
}


@pytest.mark.parametrize("name", sorted(MISTAKES.keys() - _OF_MAIN))
def test_check_config_and_the_start_say_the_same(name: str, tmp_path: Path, command: ForkedCommand) -> None:
    arguments, status, parts = MISTAKES[name]
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    before = sorted(tmp_path.iterdir())
    shards = () if "--shards" in arguments else ("--shards", "1")
    result = command(*arguments, *shards, "--check-config", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (status, "")
    for part in parts:
        assert part in result.stderr
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_an_address_that_is_taken_is_no_mistake_to_the_check(tmp_path: Path, command: ForkedCommand) -> None:
    (tmp_path / "app.py").write_text(ECHO)
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as third,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        address, metrics = (f"127.0.0.1:{each.getsockname()[1]}" for each in (other, third))
        options = ("--bind", address, "--bind", "unix:s", "--metrics", metrics, "--control", "s")
        result = command("app:main", "--shards", "1", "--check-config", *options, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_check_warns_as_the_start_does(serve: Serve, tmp_path: Path) -> None:
    environment = {
        "CLOCKWORKER_SHRADS": "2",
        "CLOCKWORKER_QWERTZUIOP": "1",
        "CLOCKWORKER_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    server = serve(ECHO, "--shards", "1", environment=environment)
    server.wait_serving()
    said = re.findall(r"WARNING \[supervisor\] (.*)", server.log)
    assert said == [
        "CLOCKWORKER_QWERTZUIOP is no option's variable",
        "CLOCKWORKER_SHRADS is no option's variable; did you mean CLOCKWORKER_SHARDS?",
    ]
    checked = run("app:main", "--shards", "1", "--check-config", cwd=tmp_path, **environment)
    assert checked.returncode == 0
    assert checked.stderr.splitlines() == [f"clockworker-serve: {line}" for line in said]


@pytest.mark.parametrize(
    ("given", "file", "hint"),
    [
        ({"WEB_CONCURRENCY": "1000"}, "", "(--shards is given by WEB_CONCURRENCY)"),
        ({"CLOCKWORKER_SHARDS": "1000"}, "", "(--shards is given by CLOCKWORKER_SHARDS)"),
        ({}, "shards = 1000", "(--shards is given by clockworker.toml)"),
        ({}, "cpus = [8000]", "(--cpus is given by clockworker.toml)"),
        ({"CLOCKWORKER_PID_FILE": "no/pid"}, "", "(--pid-file is given by CLOCKWORKER_PID_FILE)"),
        ({"CLOCKWORKER_METRICS": "192.0.2.1:9"}, "", "(--metrics is given by CLOCKWORKER_METRICS)"),
    ],
)
def test_a_mistake_is_told_with_where_the_value_is_from(
    given: dict[str, str], file: str, hint: str, tmp_path: Path, command: ForkedCommand
) -> None:
    (tmp_path / "app.py").write_text(ECHO)
    (tmp_path / "clockworker.toml").write_text(file)
    for arguments in (["--check-config"], ["--port", "0", "--log-level", "error"]):
        result = command("app:main", *arguments, cwd=tmp_path, **given)
        assert result.returncode in (1, 2)
        assert result.stderr.endswith(f"{hint}\n"), result.stderr


def test_the_configuration_can_be_printed_without_an_application(tmp_path: Path, command: ForkedCommand) -> None:
    printed = command("--print-config", "--shards", "1", cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert re.search("^# app +# not set$", printed.stdout, re.MULTILINE)
    assert command("--print-config", "--check-config", cwd=tmp_path).returncode == 2


def test_print_config_can_be_fed_back(tmp_path: Path, command: ForkedCommand) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    printed = command("--print-config", "--port", "9000", cwd=tmp_path, CLOCKWORKER_BACKLOG="7")
    assert (printed.returncode, printed.stderr) == (0, "")
    for line in (
        r'bind = \["127.0.0.1:9000"\] +# --port',
        "backlog = 7 +# CLOCKWORKER_BACKLOG",
        "shards = 1 +# clockworker.toml; 1 shard on CPU ",
        "respawn = true +# default",
    ):
        assert re.search(f"^{line}", printed.stdout, re.MULTILINE), line
    (tmp_path / "clockworker.toml").write_text(printed.stdout)
    again = command("--print-config", cwd=tmp_path)
    values = [re.sub(" +#.*", "", text) for text in (printed.stdout, again.stdout)]
    assert values[0] == values[1]


# The environment.


def test_the_env_file_is_the_applications_too(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WHO=everyone\nHOME=/nowhere\nCLOCKWORKER_SHARDS=1\n")
    source = "import os\nprint('hello', os.environ['WHO'], os.environ['HOME'], flush=True)\n" + ECHO
    server = serve(source, "--env-file", ".env", environment={"HOME": "/home/me"})
    server.wait_serving()
    assert "hello everyone /home/me" in server.log
    assert "serving with 1 shard\n" in server.log


def test_what_has_no_effect_is_warned_of(serve: Serve) -> None:
    environment = {
        "CLOCKWORKER_SHRADS": "2",
        "CLOCKWORKER_SERVICE_HOST": "10.0.0.1",
        "CLOCKWORKER_PURE": "1",
        "CLOCKWORKER_PLAIN": "force",
    }
    server = serve(
        ECHO,
        *(
            "--shards",
            "1",
            "--reload-dir",
            ".",
            "--reload-include",
            "*.html",
            "--threads",
            "2",
            "--blocking-threads",
            "3",
        ),
        *("--limit-max-requests-jitter", "5"),
        environment=environment,
    )
    server.wait_serving()
    assert re.findall(r"WARNING \[supervisor\] (.*)", server.log) == [
        "--reload-dir has no effect without --reload",
        "--reload-include has no effect without --reload",
        "--limit-max-requests-jitter has no effect without --limit-max-requests",
        "--blocking-threads has no effect beside --threads",
        "CLOCKWORKER_SHRADS is no option's variable; did you mean CLOCKWORKER_SHARDS?",
    ]


# Where shards run.


def test_auto_is_one_shard_a_cpu_and_said(serve: Serve) -> None:
    server = serve(ECHO)
    server.wait_serving()
    match = server.wait_log(r"placement: (\d+) shards? (on CPUs? [\d, -]+|not pinned) \((.*)\)")[0]
    quota = re.search(r"cpu\S+ allows ([\d.]+)", match[3])
    cpus = len(os.sched_getaffinity(0))
    assert int(match[1]) == (max(1, int(float(quota[1]))) if quota else cpus)


def test_with_an_affinity_mask_of_one_there_is_one_shard(serve: Serve) -> None:
    cpu = max(os.sched_getaffinity(0))
    server = serve(ECHO, under=("taskset", "-c", str(cpu)))
    server.wait_serving()
    server.wait_log(rf"placement: 1 shard on CPU {cpu} \((the affinity mask allows 1 of|the machine has 1)")
    assert os.sched_getaffinity(server.shard_pids()[0]) == {cpu}
    assert server.stop() == 0


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A control group with half a CPU, where we may make one."""
    for parent, limits in (
        (Path("/sys/fs/cgroup"), {"cpu.max": "50000 100000"}),
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
    ):
        group = parent / f"clockworker-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if all((group / name).exists() for name in (*limits, "cgroup.procs")):
                for name, limit in limits.items():
                    (group / name).write_text(limit)
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")


def test_in_a_container_with_half_a_cpu_there_is_one_shard(serve: Serve, half_a_cpu: Path) -> None:
    try:
        server = serve(ECHO, under=("sh", "-c", f'echo $$ > {half_a_cpu}/cgroup.procs && exec "$@"', "sh"))
        server.wait_serving()
        server.wait_log(
            r"placement: 1 shard not pinned \((cpu.max|cpu.cfs_quota_us) allows 0.5 CPUs; any of \d+ CPUs?, --cpus pins\)"
        )
        assert server.stop() == 0
    finally:
        serve.clean_up()  # before the group can be removed


@pytest.mark.parametrize("count", [1_024, 1_025])
def test_the_check_knows_how_many_queues_there_may_be(
    serve: Serve, tmp_path: Path, count: int, command: ForkedCommand
) -> None:
    (tmp_path / "app.py").write_text(ECHO)
    queue = '[[queue]]\nname = "tenant-{:05}"\nshare = 8\nscheduler = "las"\n'
    (tmp_path / "many.toml").write_text("".join(queue.format(number) for number in range(count)))
    arguments = ("--shards", "1", "--config", "many.toml")
    checked = command("app:main", *arguments, "--check-config", cwd=tmp_path)
    server = serve(None, *arguments)
    if count > 1_024:
        assert checked.returncode != 0
        for said in (checked.stderr, server.log if server.wait_exit() == 3 else ""):
            assert "1,025 queues are too many" in said
            assert "Traceback" not in said
    else:
        assert checked.returncode == 0
        server.wait_serving()
        assert server.stop() == 0


def test_the_check_knows_the_limit_on_open_files(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(ECHO)
    command = [
        sys.executable,
        "-m",
        "clockworker.shards._cli",
        "app:main",
        "--shards",
        "9",
        "--no-pin",
        "--check-config",
    ]
    ended = subprocess.run(
        ["prlimit", f"--nofile={descriptors_needed(9, 1) - 1}", *command],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "9 shards need" in ended.stderr
