"""`run_process` under a supervisor: processes, CPUs, logs, figures, and whoever ends first."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import Serve, Server, ask, eventually, is_alive

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

PAGE = Path(__file__).parents[2] / "docs" / "processes.md"

POOLED = """
import asyncio, json, logging, os, sys, time
from pathlib import Path
import clockworker as cw

def about():
    cpus = sorted(os.sched_getaffinity(0))
    print("PRINTED by", os.getpid())
    logging.getLogger("app").info("logged by a function")
    logging.getLogger("app").warning("and once more")
    return [os.getpid(), os.getppid(), cpus, os.nice(0)]

def wait(path, seconds):
    Path(path).write_text(str(os.getpid()))
    end = time.monotonic() + seconds
    while time.monotonic() < end and not os.path.exists("go"):
        time.sleep(0.01)
    return "waited"

def no_shard():
    try:
        cw.current_shard()
    except cw.UsageError as error:
        return str(error)

def fail():
    raise KeyError("in another process")

async def main(shard):
    async def answer(way, *what):
        match way:
            case "about":
                return json.dumps(await shard.run_process(about))
            case "wait":
                return await shard.run_process(wait, what[0], float(what[1]))
            case "three":
                await asyncio.gather(*(shard.run_process(wait, f"{what[0]}-{n}", 0.2) for n in range(3)))
                return "three"
            case "pid":
                return str(os.getpid())
            case "no-shard":
                return await shard.run_process(no_shard)
            case "fork":
                if (child := os.fork()) == 0:
                    try:
                        await shard.run_process(os.getpid)
                    except cw.UsageError as error:
                        print("CHILD", error, flush=True)
                    os._exit(0)
                return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            case "stats":
                stats = shard.stats()
                return f"{stats.processes_running} {stats.processes_waiting} {stats.processes_done}"
            case "fail":
                return await shard.run_process(fail)

    async def handle(reader, writer):
        while line := await reader.readline():
            try:
                said = await answer(*line.decode().split())
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            writer.write(f"{said}\\n".encode())
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(POOLED, "--shards", "1", "--processes", "2", "--timeout-graceful-shutdown", "60")
    server.wait_serving()
    return server


def begun(directory: Path, name: str) -> int:
    """The pid of the process that waits."""
    path = directory / name
    return int(eventually(lambda: path.exists() and path.read_text(), f"{name} is there"))


def test_what_a_function_has_around_it(server: Server) -> None:
    with server.connect() as client:
        pid, parent, cpus, nice = json.loads(ask(client, b"about"))
        shard = int(ask(client, b"pid"))
        assert (pid == shard, parent) == (False, shard)
        assert nice == min(19, os.nice(0) + 10)
        allowed = os.sched_getaffinity(0)
        pinned = psutil.Process(shard).cpu_affinity()
        assert pinned is not None
        assert len(pinned) == 1
        assert set(cpus) == (allowed - set(pinned) or allowed)
        assert b"there is no shard here" in ask(client, b"no-shard")
        assert ask(client, b"fail") == b"KeyError: 'in another process'"
        assert ask(client, b"stats") == b"0 0 3"
        assert ask(client, b"fork") == b"0"
        assert json.loads(ask(client, b"about"))[0] == pid
    server.wait_log(rf"(?m)^PRINTED by {pid}$", 2)
    server.wait_log(r"INFO    \[shard 0 pool\] logged by a function", 2)
    server.wait_log(r"WARNING \[shard 0 pool\] and once more", 2)
    server.wait_log("CHILD this process was forked from a shard, and is none")
    assert server.stop() == 0
    assert not is_alive(pid)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("end", ["TERM", "HUP", "INT to the terminal's group"])
def test_a_stop_waits_for_what_runs(server: Server, tmp_path: Path, end: str) -> None:
    with server.connect() as client:
        client.sendall(b"wait began 30\n")
        process = begun(tmp_path, "began")
        old = server.shard_pids()[0]
        if end == "HUP":
            server.send(signal.SIGHUP)
        elif end == "TERM":
            server.send(signal.SIGTERM)
        else:
            os.killpg(server.pid, signal.SIGINT)
        server.wait_log("SIGHUP: " if end == "HUP" else "stopping, open requests have")
        time.sleep(0.3)
        assert is_alive(process)
        (tmp_path / "go").touch()
        assert client.recv(100) == b"waited\n"
    if end == "HUP":
        eventually(lambda: not is_alive(old), "the old shard ends")
        eventually(lambda: not is_alive(process), "and its process")
        assert server.stop() == 0
    else:
        assert server.wait_exit() == 0
    assert not is_alive(process)
    assert "Traceback" not in server.log
    assert "KeyboardInterrupt" not in server.log


def test_what_does_not_end_within_the_grace_is_named_and_killed(serve: Serve, tmp_path: Path) -> None:
    source = POOLED.replace(
        "    await shard.wait_stopped()\n",
        """
    forever = asyncio.create_task(shard.run_process(wait, "began", 1000))
    await shard.wait_stopped()
""",
    )
    server = serve(source, "--shards", "1", "--timeout-graceful-shutdown", "4")
    server.wait_serving()
    process = begun(tmp_path, "began")
    server.send(signal.SIGTERM)
    server.wait_log(rf"\[shard 0\] the stop waits for processes: app\.wait \(.* s, in process {process}\)")
    server.wait_exit()
    assert "shard 0 still had work 4 s after it was told to stop: killed" in server.log
    eventually(lambda: not is_alive(process), "it is killed with its shard")


@pytest.mark.parametrize("whom", ["shard", "supervisor"])
def test_nothing_is_left_behind_by_a_kill(server: Server, tmp_path: Path, whom: str) -> None:
    with server.connect() as client, server.connect() as other:
        client.sendall(b"wait began 1000\n")
        busy = begun(tmp_path, "began")
        free = json.loads(ask(other, b"about"))[0]
        shard = server.shard_pids()[0]
        os.kill(shard if whom == "shard" else server.pid, signal.SIGKILL)
        for pid in (shard, busy, free):
            eventually(lambda pid=pid: not is_alive(pid), "it is gone")  # type: ignore[misc]
    if whom == "shard":
        server.wait_log(r"shard 0 ready", 2)
        assert server.stop() == 0


def test_figures(serve: Serve, tmp_path: Path) -> None:
    server = serve(POOLED, "--shards", "1", "--processes", "1", "--metrics", "127.0.0.1:0")
    server.wait_serving()
    host, port = server.wait_log(r"metrics on http://([\d.]+):(\d+)/metrics")[0].groups()
    with server.connect() as client, server.connect() as other:
        assert ask(client, b"three first") == b"three"
        client.sendall(b"three second\n")
        begun(tmp_path, "second-0")
        assert ask(other, b"stats") == b"1 2 3"

        def page(path: str) -> str:
            with urllib.request.urlopen(f"http://{host}:{port}{path}") as response:
                return str(response.read().decode())

        lines = {
            'clockworker_process_pool_functions{shard="0",state="running"} 0',
            'clockworker_process_pool_functions{shard="0",state="waiting"} 0',
            'clockworker_process_pool_functions_done_total{shard="0"} 6',
        }
        assert client.recv(100) == b"three\n"
        eventually(lambda: lines <= set(page("/metrics").splitlines()), "all are done", shown=lambda: page("/metrics"))
        assert re.search(r'"processes_done": ?6\b', page("/stats"))
    assert server.stop() == 0


def test_the_page_of_the_documentation(serve: Serve) -> None:
    pytest.importorskip("fastapi")
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "timeout(5)" in program
    program = program.replace("timeout(5)", "timeout(50)")  # the first process starts, on whatever else runs here
    server = serve(program, "--shards", "1", app="app:app")
    server.wait_serving()
    with urllib.request.urlopen("http://{}:{}/primes/1000".format(*server.address), timeout=60) as response:
        assert json.load(response) == {"primes": 168}
    assert server.stop() == 0
