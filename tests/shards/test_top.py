"""clockworker-top, as a person would use it: in a terminal, on a running server."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pyte
import pytest

from clockworker import ControlError
from clockworker.shards.observe._query_client import QueryClient
from clockworker.shards.supervisor._watch import is_stopped
from tests.shards.servers import DEADLINE, ECHO, Serve, Server, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# Shard 0 spins a third of its time in `foreground` for two tenants and a third in `background`; shard 1 does little.
UNEQUAL = """
import asyncio, time

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

async def main(shard):
    async def tenant(seconds):
        while not shard.stopping:
            spin(seconds)
            await asyncio.sleep(0.01)

    async def fill():
        while not shard.stopping:
            spin(0.0005)
            await asyncio.sleep(0.0005)

    foreground = shard.queue("foreground")
    foreground.group("tenant-1").spawn(tenant(0.004 if shard.id == 0 else 0.0001), name="tenant")
    foreground.group("tenant-2").spawn(tenant(0.001 if shard.id == 0 else 0.0001), name="tenant")
    if shard.id == 0:
        shard.queue("background").spawn(fill(), name="fill")
    await shard.wait_stopped()
"""
TOP = [sys.executable, "-m", "clockworker.shards.tools._top"]


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(UNEQUAL, "--shards", "2", "--queue", "foreground:8", "--queue", "background:1")
    server.wait_serving()
    return server


@pytest.fixture
def quiet(serve: Serve) -> Server:
    """One that does nothing, for what does not depend on its figures."""
    source = "async def main(shard):\n    await shard.wait_stopped()\n"
    server = serve(source, "--shards", "2", "--queue", "foreground:8", "--queue", "background:1")
    server.wait_serving()
    return server


def top(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([*TOP, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


class Terminal:
    """A program in a terminal of 80 columns and 24 lines, and what is to be seen there."""

    def __init__(self, command: list[str]) -> None:
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="80", LINES="24")
            os.execv(command[0], command)
        ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))

    def see(self) -> list[str]:
        """The screen as it is now."""
        while select.select([self._descriptor], [], [], 0.05)[0]:
            try:
                self._stream.feed(os.read(self._descriptor, 65536))
            except OSError:  # the program has ended
                break
        return list(self._screen.display)

    def press(self, key: str) -> None:
        os.write(self._descriptor, key.encode())

    def wait_exit(self) -> int:
        def ended() -> tuple[int] | None:
            self.see()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            return (os.waitstatus_to_exitcode(status),) if pid else None

        return eventually(ended, "the end of the program")[0]

    def close(self) -> None:
        os.close(self._descriptor)


def shards(lines: list[str]) -> list[list[str]]:
    """The rows of the table of shards."""
    return [line.split() for line in lines if re.match(r" +\d+ (ready|STALLED|starting|back-off|dead) ", line)]


def queues(lines: list[str]) -> dict[str, list[str]]:
    return {words[0]: words[1:] for line in lines if (words := line.split()) and words[0].endswith("ground")}


def test_in_a_terminal(server: Server) -> None:
    terminal = Terminal(TOP)
    try:

        def unequal() -> list[str] | None:
            lines = terminal.see()
            rows = shards(lines)
            if len(rows) == 2 and float(rows[0][4]) > 2 * float(rows[1][4]) > 0 and "GROUP" in "".join(lines):
                return lines
            return None

        lines = eventually(unequal, "a busy shard and an idle one")
        assert re.match(rf" app:main  pid {server.pid}  up \d\d:\d\d:\d\d  clockworker ", lines[0])
        assert lines[1].startswith(" 2 of 2 shards ready")
        assert [row[0] for row in shards(lines)] == ["0", "1"]
        assert [row[1] for row in shards(lines)] == ["ready", "ready"]
        found = queues(lines)
        assert [found["foreground"][:2], found["background"][:2]] == [["8", "89"], ["1", "11"]]
        assert abs(int(found["foreground"][2]) + int(found["background"][2]) - 100) <= 1
        groups = [line.split()[:2] for line in lines if line.startswith(" tenant-")]
        assert groups == [["tenant-1", "foreground"], ["tenant-2", "foreground"]]
        # It goes on by itself, and sorts at a key.
        eventually(lambda: terminal.see()[0] != lines[0], "a new look")
        os.kill(json.loads(top("--json"))["shards"][1]["pid"], signal.SIGKILL)
        eventually(lambda: [row[12] for row in shards(terminal.see())] == ["0", "1"], "a restart")
        for _ in range(6):  # to the last order, by restarts
            terminal.press("s")
        eventually(lambda: [row[0] for row in shards(terminal.see())] == ["1", "0"], "the order by restarts")
        terminal.press("q")
        assert terminal.wait_exit() == 0
    finally:
        terminal.close()


def test_sorted(server: Server) -> None:
    def by_busy() -> bool:
        return [row[0] for row in shards(top("--once", "--sort", "busy").splitlines())] == ["0", "1"]

    eventually(by_busy, "the busy shard first")


def test_once_is_plain_text_of_80_columns(quiet: Server) -> None:
    text = top("--once")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(shards(text.splitlines())) == 2
    assert set(queues(text.splitlines())) == {"foreground", "background"}
    # Not a terminal: the same.
    assert len(shards(top().splitlines())) == 2


def test_json_is_everything(server: Server) -> None:
    shown = json.loads(top("--json"))
    assert (shown["pid"], shown["app"]) == (server.pid, "app:main")
    assert [queue["name"] for queue in shown["queues"]] == ["foreground", "background"]

    def steps() -> int:
        shards = json.loads(top("--json"))["shards"]
        return sum(shards[0]["since_start"]["queues"]["foreground"]["poll_time"]["buckets"])

    eventually(steps, "steps in the histogram")


@pytest.mark.slow
def test_which_server(quiet: Server, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "clockworker" / f"{quiet.pid}.sock"
    for target in (str(quiet.pid), str(path)):
        assert json.loads(top("--json", target))["pid"] == quiet.pid
    queues = ("--queue", "foreground:8", "--queue", "background:1")
    other = serve(None, "--shards", "1", *queues, bind=("--bind", "admin=unix:other.sock"))
    other.wait_serving()
    listed = [
        f"{quiet.pid:>9}  app:main  127.0.0.1:{quiet.address[1]}",
        f"{other.pid:>9}  app:main  admin=unix:other.sock",
    ]
    if quiet.pid > other.pid:
        listed.reverse()
    what = "several servers run; give the pid, application or address of one:"
    assert top("--json", status=1).splitlines() == [f"clockworker-top: {what}", *listed]
    assert top("--json", "app:main", status=1).splitlines() == [
        "clockworker-top: several servers are app:main; give the pid of one:",
        *listed,
    ]
    assert top("--json", "shop:main", status=1).splitlines() == [
        "clockworker-top: no server of this user is shop:main; these run:",
        *listed,
    ]
    assert json.loads(top("--json", f"127.0.0.1:{quiet.address[1]}"))["pid"] == quiet.pid
    for target in ("unix:other.sock", "admin=unix:other.sock"):
        assert json.loads(top("--json", target))["pid"] == other.pid
    # One that stands still is one all the same.
    other.send(signal.SIGSTOP)
    assert f"{other.pid:>9}  does not answer  no address" in top("--json", status=1).splitlines()
    other.send(signal.SIGCONT)
    # One that was killed has left its socket, and does not count.
    other.send(signal.SIGKILL)
    other.wait_exit()
    for target in ((), ("app:main",)):
        assert json.loads(top("--json", *target))["pid"] == quiet.pid
    assert quiet.stop() == 0
    assert re.match("clockworker-top: no server of this user runs", top("--json", status=1))
    assert re.match("clockworker-top: no supervisor answers at nothing", top("--json", "./nothing", status=1))


def test_a_trace_is_valid_and_agrees_with_the_statistics(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    began = time.monotonic()
    said = top("--trace", "1", str(file))
    assert time.monotonic() - began >= 1
    trace = json.loads(file.read_text())
    check_schema(trace)
    busy_us: dict[tuple[str, str], float] = defaultdict(float)
    polls: dict[tuple[str, str], int] = defaultdict(int)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    steps = [event for event in trace["traceEvents"] if event.get("cat") == "step"]
    for event in steps:
        key = f"shard {event['pid']}", names[event["pid"], event["tid"]].removeprefix("queue ")
        busy_us[key] += event["dur"] - event["args"]["stolen us"]
        polls[key] += 1
    assert said.startswith(f"{len(steps)} steps of 2 shards in {file}: ")
    assert {event["name"] for event in steps} >= {"tenant (tenant-1)", "tenant (tenant-2)", "fill"}
    for shard, known in trace["otherData"].items():
        assert known["whole"]
        assert known["seconds"] >= 0.99  # timers of the loop are good to a millisecond
        for queue, counted in known["queues"].items():
            assert polls[shard, queue] == counted["polls"]
            assert busy_us[shard, queue] * 1e3 == pytest.approx(counted["busy_ns"], rel=0.02)
    assert busy_us["shard 0", "background"] > 0
    # What the executor does when it is not traced is not slower for having been: nothing is recorded any more.
    assert json.loads(top("--json"))["total"]["shards_ready"] == 2


def check_schema(trace: dict[str, Any]) -> None:
    """Chrome's Trace Event Format: what each kind of event must have. Steps of a thread neither overlap nor go back."""
    number = (int, float)
    required: dict[str, dict[str, Any]] = {
        "X": {"name": str, "cat": str, "ts": number, "dur": number},
        "i": {"name": str, "ts": number, "s": str},
        "M": {"name": str, "args": dict},
    }
    assert trace["displayTimeUnit"] in ("ms", "ns")
    ends: dict[tuple[int, int], float] = {}
    for event in trace["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        for field, kind in required[event["ph"]].items():
            assert isinstance(event[field], kind), event
        if event["ph"] == "X":
            thread = event["pid"], event["tid"]
            assert event["dur"] >= 0
            assert event["ts"] >= ends.get(thread, 0) - 1, event  # the clock of steps is good to a thousandth
            ends[thread] = event["ts"] + event["dur"]


def test_mistakes(quiet: Server) -> None:
    for arguments, said in {
        ("soon", "file"): "--trace 'soon' is no time; give seconds, at most 60, and a file",
        ("1", "/nowhere/file"): "--trace: /nowhere/file cannot be written: No such file or directory",
        ("90", "/dev/null"): "a trace of 90 s is not possible; more than 0 and at most 60 is",
    }.items():
        assert top("--trace", *arguments, status=1) == f"clockworker-top: {said}\n"


def test_a_supervisor_that_stands_still_is_waited_for_with_an_end(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "1")
    server.wait_serving()
    server.send(signal.SIGSTOP)
    eventually(lambda: is_stopped(server.pid), "it has stopped")
    client = QueryClient(tmp_path / "clockworker" / f"{server.pid}.sock", timeout_s=0.5)
    try:
        with pytest.raises(ControlError, match=r"has not answered for 0\.5 s: it stands still, or is stopped"):
            client.stats()
    finally:
        client.close()
        server.send(signal.SIGCONT)


def test_two_traces_at_once_are_refused(server: Server, tmp_path: Path) -> None:
    def trace(number: int) -> str:
        client = QueryClient(tmp_path / "clockworker" / f"{server.pid}.sock")
        try:
            both.wait()
            return f"{len(client.trace(1))} shards"
        except ControlError as error:
            return str(error)
        finally:
            client.close()

    both = threading.Barrier(2)
    with ThreadPoolExecutor() as pool:
        said = sorted(pool.map(trace, range(2)))
    assert said == ["2 shards", "a trace is being recorded already; wait for its end"]


def test_without_rich_the_live_view_says_what_to_install(quiet: Server, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich.console'] = None\n")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        terminal = Terminal(TOP)
    finally:
        del os.environ["PYTHONPATH"]
    try:
        eventually(lambda: "pip install 'clockworker[top]'" in "".join(terminal.see()), "the advice")
        assert terminal.wait_exit() == 1
    finally:
        terminal.close()


def test_a_full_disk_is_said_in_one_line(quiet: Server) -> None:
    said = "clockworker-top: --trace: /dev/full cannot be written: No space left on device\n"
    assert top("--trace", "0.1", "/dev/full", status=1) == said
    for option in ("--json", "--once"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*TOP, option], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False
            )
        said = "clockworker-top: standard output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_a_shard_that_has_recorded_nothing_is_named(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    resource.prlimit(server.shard_pids()[1], resource.RLIMIT_NOFILE, (0, 0))  # no memory to hand it over in
    done = subprocess.run([*TOP, "--trace", "0.1", str(path)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "steps of 1 shards in" in done.stdout
    assert done.stderr.startswith("clockworker-top: nothing was recorded of shards 1: ")
    assert json.loads(path.read_text())["otherData"].keys() == {"shard 0"}
