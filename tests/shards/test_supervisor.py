"""A supervisor and its shards, as real processes: start, death, stop, signals. What an operator may rely on first of all
is in test_behaviour."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import DEADLINE, ECHO, Serve, Server, ask, children, gone, shared_memory

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# `sleep S` answers after S seconds, `die` kills the shard, `block` never gives the loop back; else as ECHO.
WORK = """
import asyncio, os, signal, time

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            match line.split():
                case [b"sleep", seconds]:
                    await asyncio.sleep(float(seconds))
                case [b"die"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                case [b"block"]:
                    time.sleep(3600)
            writer.write(b"%d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_leaves_nothing_and_exits_0(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    before = shared_memory()
    server = serve(ECHO, "--shards", "2", "--bind", f"unix:{tmp_path}/s", "--pid-file", "pid")
    server.wait_serving()
    assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
    members = [process.pid for process in server.members()]
    assert len(children(server.pid)) == 2
    assert server.stop(number) == 0
    assert gone(members)
    assert shared_memory() <= before
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "pid").exists()
    # A summary a shard.
    for shard in (0, 1):
        assert re.search(rf"shard {shard} (stopped|killed by SIGKILL) after .* connections", server.log)


def test_start_up_says_what_runs_where(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "2")
    server.wait_serving()
    lines = server.log.splitlines()
    assert re.search(r"\[supervisor\] clockworker \S+.*(compiled|pure Python).*CPython.*uvloop", lines[0])
    assert re.search(r"\[supervisor\] listening on 127\.0\.0\.1:\d+$", lines[1])
    allowed = os.sched_getaffinity(0)
    for shard, pid in server.shard_pids().items():
        match = re.search(rf"shard {shard} ready on CPU (\d+), pid {pid} ", server.log)
        assert match is not None
        assert os.sched_getaffinity(pid) == {int(match[1])} <= allowed
        assert psutil.Process(pid).environ()["CLOCKWORKER_SHARD_ID"] == str(shard)


def test_no_pin_leaves_the_affinity_alone(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", "--no-pin")
    server.wait_serving()
    server.wait_log("shard 0 ready on any CPU")
    assert os.sched_getaffinity(server.shard_pids()[0]) == os.sched_getaffinity(0)


def test_both_shards_serve_one_port_and_one_unix_socket(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "2", "--bind", f"unix:{tmp_path}/s")
    for shard in (0, 1):
        server.connect_to(shard).close()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(f"{tmp_path}/s")
        assert ask(client, b"hello") in (b"0 hello", b"1 hello")


def test_an_inherited_socket_is_served(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        server = serve(ECHO, "--shards", "1", bind=("--fd", str(inherited.fileno())), fds=[inherited.fileno()])
        with socket.create_connection(inherited.getsockname(), timeout=60) as client:
            assert ask(client, b"hello") == b"0 hello"
        assert server.stop() == 0


# Applications that cannot be started.


def test_an_exception_on_import_is_shown_once_and_exits_3(serve: Serve) -> None:
    server = serve("def boom():\n    1 / 0\n\nboom()\n", "--shards", "3")
    assert server.wait_exit() == 3
    assert server.log.count("Traceback") == 1
    assert server.log.count("app:main cannot be imported") == 1
    assert re.search(r"Traceback.*\n  File .*app.py", server.log), "the first frame is the application's"


def test_a_missing_dependency_of_the_application_keeps_its_traceback(serve: Serve) -> None:
    server = serve("import no_such_dependency\n", "--shards", "1")
    assert server.wait_exit() == 3
    assert "Traceback" in server.log
    assert "No module named 'no_such_dependency'" in server.log


def test_an_exception_in_main_before_ready_is_shown_once_and_exits_3(serve: Serve) -> None:
    server = serve("async def main(shard):\n    raise RuntimeError('no database')\n", "--shards", "2")
    assert server.wait_exit() == 3
    assert server.log.count("RuntimeError: no database") == 1
    assert "main() raised" in server.log


def test_a_main_that_returns_is_told_what_to_do(serve: Serve) -> None:
    server = serve("async def main(shard):\n    pass\n", "--shards", "1")
    assert server.wait_exit() == 3
    assert "await shard.wait_stopped()" in server.log
    assert "Traceback" not in server.log


def test_stop_while_starting(serve: Serve) -> None:
    source = "import asyncio\nasync def main(shard):\n    print('main', flush=True)\n    await asyncio.sleep(3600)\n"
    server = serve(source, "--shards", "2")
    server.wait_log("main", 2)
    assert server.stop() == 0


def test_stop_while_importing(serve: Serve) -> None:
    """A shard that imports reads no message, and has nothing to finish."""
    server = serve("import time\nprint('import', flush=True)\ntime.sleep(3600)\n", "--shards", "2")
    server.wait_log("import\n", 2)
    assert server.stop() == 0
    assert "still had work" not in server.log


NEW = ECHO.replace("%d %s", "%d new %s")

# Its import waits for a file.
GATED = """
import os, time
print("import", flush=True)
while not os.path.exists("gate"):
    time.sleep(0.01)
"""


def test_hup_replaces_shards_that_are_about_to_start_with_the_old_source(serve: Serve, tmp_path: Path) -> None:
    server = serve(GATED + ECHO, "--shards", "2")
    server.wait_log("import\n", 2)
    (tmp_path / "app.py").write_text(NEW)
    server.send(signal.SIGHUP)
    server.wait_log("SIGHUP: replacing")
    (tmp_path / "gate").touch()
    server.wait_log("shard . stopped after", 2)
    for shard in (0, 1):
        with server.connect_to(shard) as client:
            assert ask(client, b"hello") == b"%d new hello" % shard
    assert server.stop() == 0


def test_hup_waits_for_no_shard_that_starts_and_replaces_it_when_it_is_ready(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    server = serve(GATED + ECHO, "--shards", "2")
    server.wait_serving()
    (tmp_path / "gate").unlink()
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("import\n", 3)
    (tmp_path / "app.py").write_text(NEW)
    server.send(signal.SIGHUP)
    server.wait_log("shard 0 stopped after")
    (tmp_path / "gate").touch()
    server.wait_log("shard 1 stopped after")
    assert re.findall(r"shard (\d) (stopped|ready)", server.log)[2:] == [
        ("0", "ready"),
        ("0", "stopped"),
        ("1", "ready"),
        ("1", "ready"),
        ("1", "stopped"),
    ]
    assert server.stop() == 0


# Death and restart.


def test_a_killed_shard_is_back_and_pinned_and_the_others_never_notice(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "2")
    server.wait_serving()
    before = server.shard_pids()
    cpu = os.sched_getaffinity(before[1])
    with server.connect_to(0) as witness:
        os.kill(before[1], signal.SIGKILL)
        killed = time.monotonic()
        while server.shard_pids()[1] == before[1]:
            assert ask(witness, b"still there") == b"0 still there"
            assert time.monotonic() - killed < DEADLINE
        print(f"ready again after {time.monotonic() - killed:.3f} s")
    after = server.shard_pids()
    assert after[0] == before[0]
    assert os.sched_getaffinity(after[1]) == cpu
    server.connect_to(1).close()
    assert re.search(rf"shard 1 \(pid {before[1]}\) killed by SIGKILL after .* connections", server.log)
    assert gone([before[1]])


def test_a_shard_told_to_terminate_drains_and_is_replaced(serve: Serve) -> None:
    server = serve(WORK, "--shards", "1")
    server.wait_serving()  # the shard answers a moment before the supervisor has heard, and logged, that it is ready
    with server.connect() as client:
        ask(client, b"hello")
        client.sendall(b"sleep 0.5\n")
        os.kill(server.shard_pids()[0], signal.SIGTERM)
        assert client.recv(100) == b"0 sleep 0.5\n"
    server.wait_log("shard 0 ready", 2)
    server.connect_to(0).close()


def test_no_respawn_stops_with_1(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "2", "--no-respawn")
    server.wait_serving()
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    assert server.wait_exit() == 1
    assert "shard 0 is not restarted (--no-respawn)" in server.log


# What a program started by the application is left with: its descriptors (3 is the directory it reads), signal masks.
PROGRAM = """
import os
masks = "".join(line for line in open("/proc/self/status") if line.startswith("SigBlk"))
print(f"started with {sorted(os.listdir('/proc/self/fd'))}\\n{masks}")
"""


def test_programs_that_the_application_starts_inherit_nothing(serve: Serve) -> None:
    source = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {PROGRAM!r}])\n" + ECHO
    server = serve(source, "--shards", "2")
    server.wait_serving()
    assert {match[1] for match in server.wait_log(r"started with (.*)", 2)} == {"['0', '1', '2', '3']"}
    assert {match[1] for match in server.wait_log(r"SigBlk:\t(\S+)", 2)} == {"0" * 16}


# Stopping with open work.


def open_request(server: Server, line: bytes) -> socket.socket:
    """A connection whose request has reached its handler."""
    client = server.connect()
    ask(client, b"hello")
    client.sendall(line + b"\n")
    return client


def test_idle_connections_do_not_hold_up_the_stop(serve: Serve) -> None:
    server = serve(WORK, "--shards", "2", "--timeout-graceful-shutdown", "60")
    server.wait_serving()
    with server.connect() as one, server.connect() as two:
        ask(one, b"hello")
        ask(two, b"hello")
        assert server.stop() == 0
        assert one.recv(100) == two.recv(100) == b""
    assert "killed" not in server.log


def test_a_blocked_shard_is_killed_at_the_grace(serve: Serve) -> None:
    server = serve(WORK, "--shards", "2", "--timeout-graceful-shutdown", "3")
    server.wait_serving()
    with open_request(server, b"block"):
        assert server.stop() == 0
    assert server.log.count("still had work 3 s after it was told to stop: killed") == 1
    assert re.search(r"shard \d stopped", server.log), "the other one was let go, not killed"


HELD = """
import os, time

async def main(shard):
    async def handle(reader, writer):
        line = await reader.readline()
        if line == b"hold\\n":
            while not os.path.exists("go-on"):
                time.sleep(0.001)
        writer.write(line)

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@pytest.mark.parametrize("distribution", ["kernel", "least-connections"])
def test_what_waits_to_be_accepted_at_the_stop_is_served(serve: Serve, tmp_path: Path, distribution: str) -> None:
    """However many have come while the loop was held up, and after the handshakes have long been over."""
    server = serve(HELD, "--shards", "1", "--distribution", distribution)
    server.wait_serving()
    with ExitStack() as opened:
        holding = opened.enter_context(server.connect())
        holding.sendall(b"hold\n")
        clients = [opened.enter_context(server.connect()) for _ in range(40)]
        for client in clients:
            client.sendall(b"hello\n")
        server.send(signal.SIGTERM)
        server.wait_log("SIGTERM: stopping")
        (tmp_path / "go-on").touch()
        for client in [holding, *clients]:
            assert client.recv(100) in (b"hold\n", b"hello\n")
    assert server.wait_exit() == 0


@pytest.mark.parametrize("limit", [(), ("--max-connections", "1000")])
def test_what_waits_for_a_shard_that_starts_is_served_by_another_at_the_stop(
    serve: Serve, tmp_path: Path, limit: tuple[str, ...]
) -> None:
    """Half of them, by the kernel's hash."""
    server = serve("import os, time\nwhile os.path.exists('wait'): time.sleep(0.01)\n" + ECHO, "--shards", "2", *limit)
    server.wait_serving()
    (tmp_path / "wait").touch()
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 is restarted")
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(40)]
        for client in clients:
            client.sendall(b"hello\n")
        server.send(signal.SIGTERM)
        server.wait_log("SIGTERM: stopping")
        for client in clients:
            assert client.recv(100) == b"0 hello\n"
        (tmp_path / "wait").unlink()
        assert server.wait_exit() == 0


def test_one_signal_that_comes_twice_counts_once(serve: Serve) -> None:
    """A wrapper passes on what the terminal has sent to the whole process group."""
    server = serve(WORK, "--shards", "2")
    server.wait_serving()
    with open_request(server, b"sleep 0.5") as client:
        os.killpg(server.pid, signal.SIGINT)
        os.killpg(server.pid, signal.SIGINT)
        assert client.recv(100).endswith(b" sleep 0.5\n")
        assert server.wait_exit() == 0
    assert "again" not in server.log


def test_a_shard_still_answers_its_peers_while_they_finish(serve: Serve) -> None:
    """Shard 0 has nothing to do and is drained at once; it must not leave before shard 1 is."""
    server = serve(WORK, "--shards", "2")
    server.wait_serving()
    with server.connect_to(1) as client:
        client.sendall(b"sleep 1\n")
        server.send(signal.SIGTERM)
        assert client.recv(100) == b"1 sleep 1\n"
        assert server.wait_exit() == 0
    ends = [float(m[1]) for m in re.finditer(r"shard \d stopped after (\S+) s", server.log)]
    assert len(ends) == 2
    assert min(ends) > 0.5  # on any machine: the request takes a second, of which some had passed before the signal


def test_after_stopping_main_may_finish(serve: Serve) -> None:
    server = serve(ECHO + "    print(f'hook {shard.id}', flush=True)\n", "--shards", "2")
    server.wait_serving()
    assert server.stop() == 0
    assert sorted(re.findall(r"hook (\d)", server.log)) == ["0", "1"]


def test_an_exception_in_main_while_stopping_is_logged(serve: Serve) -> None:
    server = serve(ECHO + "    raise RuntimeError('too late')\n", "--shards", "1")
    server.wait_serving()
    assert server.stop() == 0
    assert "[shard 0] main() raised while stopping" in server.log
    assert "RuntimeError: too late" in server.log


# The other signals.


@pytest.mark.parametrize("name", ["USR1", "USR2", "TTIN", "TTOU"])
def test_signals_without_a_meaning_are_ignored_with_a_line(serve: Serve, name: str) -> None:
    server = serve(ECHO, "--shards", "1")
    server.wait_serving()
    os.killpg(server.pid, getattr(signal, f"SIG{name}"))
    server.wait_log(f"SIG{name}(: the log goes to standard error| ignored)")
    server.connect_to(0).close()
    assert server.stop() == 0


@pytest.mark.parametrize(
    "raised",
    [
        "KeyboardInterrupt",
        "SystemExit(0)",
        "GeneratorExit",
        "__import__('asyncio').CancelledError",
        "type('Odd', (BaseException,), {'__str__': lambda self: 1 / 0})",
        "ValueError('\\udc80' * 40_000)",
        "BaseExceptionGroup('several', [KeyboardInterrupt(), ValueError()])",
    ],
)
@pytest.mark.parametrize("where", ["raise {}\n", "async def main(shard):\n    raise {}\n"], ids=["import", "main"])
def test_whatever_an_application_raises_at_its_start_is_said_once(serve: Serve, raised: str, where: str) -> None:
    server = serve(where.format(raised), "--shards", "1")
    assert server.wait_exit() == 3
    assert server.log.count("shard 0: ") == 1
    assert server.log.count("Traceback") <= 1
    assert "crashes" not in server.log


def test_a_broken_invariant_stops_the_server_in_order(serve: Serve, tmp_path: Path) -> None:
    """A fault of the program in one callback, and again in what stops the server."""
    program = (
        "import sys\n"
        "from clockworker.shards import _cli\n"
        "from clockworker.shards.supervisor._supervisor import Supervisor\n"
        "reported = []\n"
        "def fail(*_): raise AssertionError('no such state')\n"
        "def fail_once(self, stall):\n"
        "    if 'sleep(2)' in str(stall) and not reported:\n"
        "        reported.append(stall)\n"
        "        fail()\n"
        "Supervisor._report_stall = fail_once\n"
        "if 'twice' in sys.argv: Supervisor._drain_all = fail\n"
        "_cli.main([word for word in sys.argv[1:] if word != 'twice'])\n"
    )
    (tmp_path / "broken.py").write_text(program)
    write = "            writer.write("
    block = ECHO.replace(write, f"            line == b'block\\n' and __import__('time').sleep(2)\n{write}")
    for more in ((), ("twice",)):
        server = serve(block, "--shards", "1", *more, command=[sys.executable, str(tmp_path / "broken.py")])
        server.wait_serving()
        with server.connect() as client:
            client.sendall(b"block\n")
            if not more:
                assert client.recv(100) == b"0 block\n", "what is open is finished"
        assert server.wait_exit() == 1
        assert "no such state" in server.log
        assert not server.members()


@pytest.mark.parametrize("first", [3, 0])
def test_an_application_that_closes_what_is_not_its_own_when_it_is_imported(serve: Serve, first: int) -> None:
    """As libraries do that make daemons. From 3 on nobody can be told but the log's reader; from 0 on nobody."""
    server = serve(f"import os\nos.closerange({first}, 1024)\n{ECHO}", "--shards", "1")
    assert server.wait_exit() == 1
    assert "Traceback" not in server.log
    said = (
        "[shard 0] app:main has closed descriptors of its shard's while it was imported; close none that you have not"
    )
    assert server.log.count(said) == (5 if first else 0)
    assert server.log.count("exited with status 3") == 5


def test_an_application_that_closes_what_one_cannot_do_without_but_the_channel(serve: Serve) -> None:
    closing = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        if "event" in os.readlink(f"/proc/self/fd/{name}"):
            os.close(int(name))
    except OSError:
        pass
"""
    server = serve(closing + ECHO, "--shards", "1")
    assert server.wait_exit() == 3
    assert server.log.count("shard 0: app:main has closed descriptors of its shard's") == 1


def test_an_application_that_stops_the_loop_is_told_so(serve: Serve) -> None:
    stopping = ECHO.replace(
        "            writer.write",
        "            import asyncio; asyncio.get_running_loop().stop()\n            writer.write",
    )
    server = serve(stopping, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        client.sendall(b"stop\n")
        server.wait_log("shard 0: the application has stopped its shard's event loop")
        server.wait_log("shard 0 ready", 2)
    assert "Traceback" not in server.log
    assert server.stop() == 0
