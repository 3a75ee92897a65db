"""The command as a newcomer meets it: help, version, mistakes, and where values come from."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import clockworker
from clockworker._errors import ConfigurationError
from clockworker.shards._cli import OPTIONS, place_shards, read_config
from clockworker.shards._config import InheritedSocket, QueueConfig, ServeConfig, TcpAddress, UnixAddress
from tests.shards.servers import ECHO, Serve


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clockworker.shards._cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        env=os.environ | environment,
        check=False,
    )


def test_help_fits_100_columns_and_names_every_option_and_variable() -> None:
    result = run("--help", COLUMNS="200")
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    for option in OPTIONS:
        assert option.variable in result.stdout
        for flag in option.flags:
            assert flag in result.stdout
    assert re.findall(r"^(\w+):$", result.stdout, re.MULTILINE)[-7:] == [
        "shards",
        "queues",
        "sockets",
        "application",
        "life",
        "logs",
        "operations",
    ]


def test_version_says_what_is_running() -> None:
    result = run("--version")
    kind = "compiled" if clockworker.compiled else "pure Python"
    assert result.returncode == 0
    assert re.fullmatch(rf"clockworker \S.* \({kind}\), CPython 3\.\d+\.\d+\S*, uvloop \d\S+\n", result.stdout)


# name -> (arguments, exit status, what the one line must contain)
MISTAKES = {
    "no application": ([], 2, ["MODULE:ATTRIBUTE"]),
    "no colon": (["app"], 2, ["'app'", "app:main"]),
    "a file name": (["app.py"], 2, ["app:main"]),
    "no such module": (["ap:main"], 3, ["'ap'", "--app-dir"]),
    "no such attribute": (["app:mian"], 3, ["'app'", "'mian'", "async def main(shard)"]),
    "not callable": (["app:number"], 3, ["app:number", "int", "async def main(shard)"]),
    "a plain function": (["app:plain"], 3, ["app:plain", "async def main(shard)", "--factory"]),
    "a class": (["app:Class"], 3, ["app:Class", "async def main(shard)"]),
    "no parameter": (["app:nothing"], 3, ["app:nothing", "one argument"]),
    "a factory that makes nothing": (["app:plain", "--factory"], 3, ["what app:plain returned", "NoneType"]),
    "no shards": (["app:main", "--shards", "0"], 2, ["--shards", "1 to 1024", "auto"]),
    "a share of 0": (["app:main", "--queue", "web:0"], 2, ["--queue", "'web:0'", "1 to 10000"]),
    "an unknown scheduler": (["app:main", "--queue", "web:1:lifo"], 2, ["'lifo'", "fifo", "las"]),
    "a CPU that is not there": (["app:main", "--cpus", "8000"], 2, ["--cpus", "8000"]),
    "a time that is none": (["app:main", "--timeout-startup", "soon"], 2, ["--timeout-startup", "'soon'", "seconds"]),
    "a pid file that cannot be": (
        ["app:main", "--pid-file", "/no/such/dir/pid"],
        2,
        ["--pid-file", "/no/such/dir/pid"],
    ),
}

APP = """
number = 42
def plain(): pass
class Class: pass
async def nothing(): pass
async def main(shard): await shard.wait_stopped()
"""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_and_no_traceback(name: str, tmp_path: Path) -> None:
    arguments, status, parts = MISTAKES[name]
    (tmp_path / "app.py").write_text(APP)
    result = run(*arguments, "--port", "0", "--log-level", "error", cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr


def test_an_unknown_option_ends_with_2() -> None:
    assert run("app:main", "--sahrds", "2").returncode == 2


def test_a_port_in_use_is_named_before_any_shard_starts(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("open('imported', 'w')\n" + ECHO)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        result = run("app:main", "--port", str(port), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"clockworker-serve: 127.0.0.1:{port} is already in use; "
        "stop the process that listens there, or choose another with --bind"
    ]
    assert not (tmp_path / "imported").exists()


def test_defaults() -> None:
    assert read_config(["app:main"], {}) == ServeConfig("app:main")


def test_every_option_from_the_command_line() -> None:
    arguments = (
        "app:main --shards 3 --cpus 0-2 --no-pin --idle-poll 50 --queue web:8:las --queue bg:1 --bind :1 --bind unix:/s"
        " --host ::1 --port 2 --uds /t --fd 3 --backlog 9 --factory --app-dir d --timeout-graceful-shutdown 1.5"
        " --timeout-startup 2 --no-respawn --log-level DEBUG --pid-file p --shard-queue 1:web:9 --shard-queue 1:x:2:qlas"
        " --distribution fixed --max-connections 7 --env-file e --reload --reload-dir f --reload-dir g"
        " --timeout-shard-healthcheck 0 --log-format json --log-config l --access-log --metrics [::1]:4 --control c"
    )
    assert read_config(arguments.split(), {}) == ServeConfig(
        app="app:main",
        shards=3,
        cpus=(0, 1, 2),
        pin=False,
        idle_poll_us=50,
        queues=(QueueConfig("web", 8, "las"), QueueConfig("bg", 1, "fifo")),
        shard_queues={1: (QueueConfig("web", 9), QueueConfig("bg"), QueueConfig("x", 2, "qlas"))},
        addresses=(
            TcpAddress("0.0.0.0", 1),
            UnixAddress("/s"),
            TcpAddress("::1", 2),
            UnixAddress("/t"),
            InheritedSocket(3),
        ),
        backlog=9,
        factory=True,
        app_dir="d",
        timeout_graceful_shutdown=1.5,
        timeout_startup=2.0,
        respawn=False,
        log_level="debug",
        pid_file="p",
        distribution="fixed",
        max_connections=7,
        env_file="e",
        reload=True,
        reload_dirs=("f", "g"),
        timeout_shard_healthcheck=0.0,
        log_format="json",
        log_config="l",
        access_log=True,
        metrics=TcpAddress("::1", 4),
        control="c",
    )


def test_metrics_alone_is_a_switch() -> None:
    default = TcpAddress("127.0.0.1", 9464)
    assert read_config(["--metrics", "app:main"], {}) == ServeConfig("app:main", metrics=default)
    assert read_config(["app:main", "--metrics"], {}) == ServeConfig("app:main", metrics=default)
    assert read_config(["app:main"], {"CLOCKWORKER_METRICS": "1"}) == ServeConfig("app:main", metrics=default)
    assert read_config(["--metrics", ":1", "app:main"], {}).metrics == TcpAddress("0.0.0.0", 1)


def test_the_environment_stands_in_for_the_command_line() -> None:
    environment = {
        "CLOCKWORKER_APP": "app:main",
        "CLOCKWORKER_SHARDS": "3",
        "CLOCKWORKER_QUEUE": "web:8:las, bg:1",
        "CLOCKWORKER_BIND": ":1 unix:/s",
        "CLOCKWORKER_NO_PIN": "1",
        "CLOCKWORKER_RESPAWN": "0",
    }
    expected = ServeConfig(
        "app:main",
        shards=3,
        queues=(QueueConfig("web", 8, "las"), QueueConfig("bg", 1, "fifo")),
        addresses=(TcpAddress("0.0.0.0", 1), UnixAddress("/s")),
        pin=False,
        respawn=False,
    )
    assert read_config([], environment) == expected
    assert read_config(["--shards", "2"], environment).shards == 2
    assert read_config(["-w", "2"], environment).shards == 2
    assert read_config(["--respawn"], environment).respawn


def test_web_concurrency_is_the_last_resort() -> None:
    assert read_config(["app:main"], {"WEB_CONCURRENCY": "5"}).shards == 5
    assert read_config(["app:main"], {"WEB_CONCURRENCY": "5", "CLOCKWORKER_SHARDS": "2"}).shards == 2


def test_a_wrong_value_is_blamed_on_where_it_came_from() -> None:
    with pytest.raises(ConfigurationError, match=r"^WEB_CONCURRENCY: the number of shards is 'lots'"):
        read_config(["app:main"], {"WEB_CONCURRENCY": "lots"})
    with pytest.raises(ConfigurationError, match=r"^CLOCKWORKER_PORT: "):
        read_config(["app:main"], {"CLOCKWORKER_PORT": "-1"})


def test_auto_is_one_shard_a_cpu() -> None:
    assert place_shards(ServeConfig("app:main")).count == len(os.sched_getaffinity(0))
    one = min(os.sched_getaffinity(0))
    assert place_shards(ServeConfig("app:main", cpus=(one,))).cpus == (one,)


def test_shards_above_cpus_is_a_warning(serve: Serve) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    server = serve(ECHO, "--shards", "2", "--cpus", cpu)
    server.wait_serving()
    server.wait_log("WARNING .* 2 shards share 1 CPU:")
    assert all(os.sched_getaffinity(pid) == {int(cpu)} for pid in server.shard_pids().values())
    assert server.stop() == 0
