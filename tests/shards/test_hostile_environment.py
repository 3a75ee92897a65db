"""Real servers where things are not as they should be: no privileges, strange namespaces, limits, places that cannot be written
to, closed descriptors, and whatever whoever starts the server leaves behind. What needs root, or a namespace that this machine
does not give, is skipped, and says so."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from clockworker.executor._queue import MAX_QUEUES
from clockworker.shards.config._config import MAX_SHARDS
from clockworker.shards.machine._heritage import STRAY, name_of
from clockworker.shards.machine._host import OF_SHARD, OF_SUPERVISOR, descriptors_needed
from clockworker.shards.machine._machine import LARGEST
from clockworker.shards.protocol._pulse import DUMP_SIGNAL
from clockworker.shards.protocol._slots import _Layout
from clockworker.shards.supervisor._wiring import TWIN_CAPACITY
from tests.ports import free_port
from tests.shards.keepers import COUNTS, Journal
from tests.shards.servers import ECHO, Serve, Server, ask, children, eventually, is_alive
from tests.shards.test_behaviour import WORK, Clients, open_request

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

QUEUES = ("--queue", "foreground:8", "--queue", "background:1")

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")

NO_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs") if IS_ROOT else ()
USER_NAMESPACE = ("unshare", "--user", "--map-root-user")
PID_1 = ("unshare", *(() if IS_ROOT else USER_NAMESPACE[1:]), "--pid", "--fork", "--kill-child", "--mount-proc")


def under(*command: str) -> tuple[str, ...]:
    """The command, if it can be had."""
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{command[0]} cannot do this here: {error}")
    return command


def supervisor_of(server: Server) -> int:
    """The process that was started, or, where that only started another one, its child."""
    process = psutil.Process(server.pid)
    [child, *_] = process.children()
    return child.pid if process.name() == "unshare" else process.pid


def shards_of(supervisor: int) -> list[psutil.Process]:
    """And not what else has become a child of it."""
    found = []
    for child in children(supervisor):
        with suppress(psutil.Error):  # an orphan that has ended
            if "shard" in "".join(child.cmdline()[:4]):
                found.append(child)
    return found


# Whoever runs it.


@pytest.mark.parametrize("distribution", ["kernel", "least-connections"])
@pytest.mark.parametrize(
    "place", [NO_CAPABILITIES, USER_NAMESPACE, PID_1], ids=["no capabilities", "namespace", "PID 1"]
)
def test_whoever_it_runs_as_nothing_is_cut(serve: Serve, place: tuple[str, ...], distribution: str) -> None:
    options = ("--shards", "2", *QUEUES, "--distribution", distribution)
    server = serve(WORK, *options, under=under(*place) if place else ())
    server.wait_serving()
    supervisor = supervisor_of(server)
    with Clients(server, b"hello", 2) as clients, open_request(server, b"sleep 1") as open:
        os.kill(supervisor, signal.SIGHUP)
        server.wait_log("shard . ready", 4)
        os.kill(supervisor, signal.SIGTERM)
        assert open.recv(100).endswith(b" sleep 1\n")
        assert server.wait_exit() == 0
    assert clients.answers
    # After the stop nobody listens; before it nobody is turned away, and nobody who was let in is left without an answer.
    assert {type(error) for error in clients.failed} <= {ConnectionRefusedError, TimeoutError}, clients.failed
    assert "Traceback" not in server.log
    assert server.warnings() == []


@pytest.mark.parametrize(
    "place", [NO_CAPABILITIES, USER_NAMESPACE, PID_1], ids=["no capabilities", "namespace", "PID 1"]
)
def test_whoever_it_runs_as_state_is_handed_over(serve: Serve, place: tuple[str, ...]) -> None:
    server = serve(COUNTS, "--shards", "2", under=under(*place) if place else ())
    server.wait_serving()
    with Journal(server) as journal:
        eventually(lambda: len(journal.acknowledged) >= 8, "clients have begun")
        os.kill(supervisor_of(server), signal.SIGHUP)
        server.wait_log(r"shard \d stopped after", 2)
    journal.check()
    assert server.log.count("has handed over its state") == 2
    os.kill(supervisor_of(server), signal.SIGTERM)
    assert server.wait_exit() == 0
    assert " ERROR " not in server.log


@pytest.mark.parametrize("place", [NO_CAPABILITIES, PID_1], ids=["no capabilities", "PID 1"])
def test_a_start_that_fails_has_its_status_whoever_it_runs_as(serve: Serve, place: tuple[str, ...]) -> None:
    source = "async def main(shard):\n    raise RuntimeError('no database')\n"
    server = serve(source, "--shards", "1", under=under(*place) if place else ())
    assert server.wait_exit() == 3
    crashing = serve("import os\nos._exit(7)\n", "--shards", "1", under=place)
    assert crashing.wait_exit() == 1
    assert "Traceback" not in crashing.log


LEAVES_ORPHANS = ECHO.replace(
    "            writer.write",
    "            await (await __import__('asyncio').create_subprocess_shell('sleep 0.05 & exit 0')).wait()\n"
    "            writer.write",
)


def zombies_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if child.status() == psutil.STATUS_ZOMBIE]


def test_what_is_left_to_pid_1_is_collected_and_the_shards_statuses_are_not_lost(serve: Serve) -> None:
    server = serve(LEAVES_ORPHANS, "--shards", "2", under=under(*PID_1))
    server.wait_serving()
    supervisor = supervisor_of(server)
    with server.connect() as client:
        for _ in range(5):
            ask(client, b"hello")
        os.kill(shards_of(supervisor)[-1].pid, signal.SIGKILL)
        server.wait_log("killed by SIGKILL")
        server.wait_log("shard . ready", 3)

    def only_shards() -> bool:
        return len(children(supervisor)) == 2 and not zombies_of(supervisor)

    eventually(only_shards, "no orphans, and no zombies")


def test_children_of_whoever_became_the_server_are_collected(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", under=("sh", "-c", 'sleep 0.01 & sleep 0.3 & exec "$@"', "sh"))
    server.wait_serving()
    eventually(lambda: len(children(server.pid)) == 1, "those that have ended are collected")
    assert server.stop() == 0


# Signals.


@contextmanager
def inherited(mask: set[int], ignored: set[int]) -> Iterator[tuple[str, ...]]:
    """A command that runs the rest of its arguments with these signals blocked and ignored."""
    program = (
        "import os, signal, sys\n"
        f"for number in {sorted(ignored)}: signal.signal(number, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {sorted(mask)})\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    yield (sys.executable, "-c", program)


TELLS_OF_A_CHILD = """
import asyncio, signal

async def main(shard):
    async def handle(reader, writer):
        while await reader.readline():
            child = await asyncio.create_subprocess_exec("grep", "Sig[BI]", "/proc/self/status", stdout=asyncio.subprocess.PIPE)
            out, _ = await child.communicate()
            writer.write(b" ".join(out.split()) + b"\\n")

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_what_is_blocked_or_ignored_by_the_starter_is_neither_here_nor_in_what_the_application_starts(
    serve: Serve,
) -> None:
    settable = {int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP}
    with inherited(settable, settable) as command:
        server = serve(TELLS_OF_A_CHILD, "--shards", "2", under=command)
        server.wait_serving()
        with server.connect() as client:
            assert ask(client, b"?") == b"SigBlk: 0000000000000000 SigIgn: 0000000000000000"
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        server.wait_log(r"shard 1 \(pid \d+\) killed by SIGKILL")
        server.wait_log("shard 1 ready", 2)
        server.send(signal.SIGHUP)
        server.wait_log("shard . ready", 5)
        assert server.stop() == 0


@pytest.mark.parametrize("environment", [{}, {"PYTHONFAULTHANDLER": "1"}], ids=["plain", "faulthandler"])
def test_signals_that_stray_here_end_nothing(serve: Serve, environment: dict[str, str]) -> None:
    """Nor if all are there at once, and their handlers interrupt each other."""
    server = serve(ECHO, "--shards", "1", environment=environment)
    server.wait_serving()
    [shard] = server.shard_pids().values()
    for pid in (server.pid, shard):
        os.kill(pid, signal.SIGSTOP)
        for number in STRAY:
            os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
    server.wait_log(r"\[supervisor\] SIG\S+ ignored")
    for number in STRAY - {DUMP_SIGNAL}:
        server.wait_log(re.escape(f"{name_of(number)} ignored: the application"))
    with server.connect() as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.shard_pids() == {0: shard}
    assert server.stop() == 0


OWN_HANDLER = """
import os, signal

def rang(number, frame):
    os.write(2, b"rang\\n")

signal.signal(signal.SIGALRM, rang)

async def main(shard):
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    await shard.wait_stopped()
"""


def test_an_applications_own_handler_is_called(serve: Serve) -> None:
    server = serve(OWN_HANDLER, "--shards", "1")
    server.wait_log("^rang$|\nrang\n")
    assert server.stop() == 0


# Descriptors.


@pytest.mark.parametrize("closed", [closed for n in (1, 2, 3) for closed in itertools.combinations((0, 1, 2), n)])
def test_standard_descriptors_that_are_closed_are_taken_by_nothing_else(
    serve: Serve, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    (tmp_path / "log.json").write_text(
        '{"handlers": {"file": {"class": "logging.FileHandler", "formatter": "text", "filename": "file.log"}}, '
        '"root": {"level": "INFO", "handlers": ["file"]}}'
    )
    close = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    server = serve(
        ECHO,
        *("--shards", "1", "--log-config", "log.json"),
        bind=("--bind", "unix:socket"),
        under=("sh", "-c", f'exec "$@" {close}', "sh"),
    )
    log = tmp_path / "file.log"
    eventually(lambda: log.exists() and "serving with" in log.read_text(), "it serves", shown=lambda: server.log)
    for pid in (server.pid, *(shard.pid for shard in shards_of(server.pid))):
        for number in closed:
            assert os.readlink(f"/proc/{pid}/fd/{number}") == os.devnull
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_what_a_shard_costs_in_descriptors_is_what_is_reckoned(serve: Serve) -> None:
    counts = []
    for shards in (1, 2, 3):
        options = ("--metrics", "127.0.0.1:0", "--pid-file", f"pid-{shards}", "--spares", "0")
        server = serve(ECHO, "--shards", str(shards), *options)
        server.wait_serving()
        counts.append(eventually(lambda: descriptors(server.pid), "a count"))  # noqa: B023
        others = max(descriptors(shard.pid) for shard in shards_of(server.pid))
        assert others < descriptors_needed(shards, 1)
        assert server.stop() == 0
    assert {after - before for before, after in itertools.pairwise(counts)} == {OF_SHARD + 1}
    assert counts[0] - (OF_SHARD + 1) <= OF_SUPERVISOR


def test_with_as_many_open_files_as_are_asked_for_it_starts_and_recovers(serve: Serve) -> None:
    shards = 4
    needed = descriptors_needed(shards, 1)
    limit = f"--nofile={needed}"
    server = serve(ECHO, "--shards", str(shards), under=(*NO_CAPABILITIES, *under("prlimit", limit)))
    server.wait_serving()
    for pid in server.shard_pids().values():
        os.kill(pid, signal.SIGKILL)
    server.wait_log(r"shard \d ready", 2 * shards)
    server.send(signal.SIGHUP)
    server.wait_log(r"shard \d ready", 3 * shards)
    assert server.stop() == 0
    assert "Too many open files" not in server.log
    too_few = serve(ECHO, "--shards", str(shards), under=("prlimit", f"--nofile={needed - 1}"))
    assert too_few.wait_exit() == 2
    assert f"{shards} shards need {needed} open files, but the limit is {needed - 1}" in too_few.log


@contextmanager
def descriptors_on_their_way() -> Iterator[None]:
    """250 of this user's, which nobody takes: a process of its whose limit is below that is let send none."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        socket.send_fds(one, [b"x"], [one.fileno()] * 250)
        yield


def rings_of(pid: int) -> int:
    links = [os.path.join(f"/proc/{pid}/fd", name) for name in os.listdir(f"/proc/{pid}/fd")]
    return sum("clockworker-ring" in os.readlink(link) for link in links if os.path.lexists(link))


def test_while_the_kernel_lets_no_descriptor_on_its_way_a_successor_waits(serve: Serve) -> None:
    """With no more open files than are asked for."""
    shards = 4
    limit = f"--nofile={descriptors_needed(shards, 1)}"
    server = serve(ECHO, "--shards", str(shards), under=(*NO_CAPABILITIES, *under("prlimit", limit)))
    server.wait_serving()
    with descriptors_on_their_way():
        server.send(signal.SIGHUP)
        eventually(lambda: rings_of(server.pid) > shards, "rings that wait", shown=lambda: f":\n{server.log}")
    server.wait_log(r"shard 0 stopped")  # its successor is ready
    assert server.stop() == 0
    assert "Too many open files" not in server.log


@needs_root
def test_where_there_are_no_processes_a_shard_waits_for_one(serve: Serve) -> None:
    root = Path("/sys/fs/cgroup")
    group = (root / "pids" if (root / "pids").is_dir() else root) / f"clockworker-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("max")
    except OSError as error:
        pytest.skip(f"no pids controller here: {error}")
    try:
        server = serve(
            WORK, "--shards", "2", *QUEUES, under=("sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")
        )
        server.wait_serving()
        with server.connect_to(0) as client:
            (group / "pids.max").write_text("2")
            os.kill(server.shard_pids()[1], signal.SIGKILL)
            server.wait_log("shard 1 cannot be started", 6)
            assert ask(client, b"hello") == b"0 hello"
        (group / "pids.max").write_text("max")
        server.wait_log("shard 1 ready", 2)
        assert server.stop() == 0
    finally:
        serve.clean_up()
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


# Places.


def test_a_log_file_that_cannot_be_opened_anew(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "log.json").write_text(
        '{"handlers": {"file": {"class": "logging.FileHandler", "formatter": "text", "filename": "logs/app.log"}}, '
        '"root": {"level": "INFO", "handlers": ["file"]}}'
    )
    server = serve(ECHO, "--shards", "1", "--log-config", "log.json")
    log = tmp_path / "logs" / "app.log"
    eventually(lambda: log.exists() and "serving with" in log.read_text(), "it serves")
    (tmp_path / "logs").rename(tmp_path / "moved")
    server.send(signal.SIGUSR1)
    log = tmp_path / "moved" / "app.log"
    eventually(lambda: log.read_text().count("cannot be opened anew") == 2, "supervisor and shard say so")
    (tmp_path / "logs").mkdir()
    server.send(signal.SIGUSR1)
    log = tmp_path / "logs" / "app.log"
    eventually(lambda: log.exists() and "log files opened anew" in log.read_text(), "the next time")
    assert server.stop() == 0


@needs_root
def test_files_that_cannot_be_removed_any_more(serve: Serve, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = f'mount -t tmpfs none {place} && exec "$@"'
    server = serve(
        WORK,
        *("--shards", "2", *QUEUES, "--control", f"{place}/control"),
        bind=("--port", "0", "--bind", f"unix:{place}/socket"),
        under=(*under("unshare", "--mount"), "sh", "-c", script, "sh"),
    )
    server.wait_serving()
    inside = ("nsenter", "--mount", "--target", str(server.pid))
    subprocess.run([*inside, "mount", "-o", "remount,ro", str(place)], check=True)
    with open_request(server, b"sleep 0.5") as client:
        server.send(signal.SIGTERM)
        assert client.recv(100).endswith(b" sleep 0.5\n")
    assert server.wait_exit() == 0
    assert "Traceback" not in server.log
    assert server.log.count("Read-only file system") == 2


@needs_root
@pytest.mark.parametrize("check", [(), ("--check-config",)])
def test_a_machine_without_proc(tmp_path: Path, check: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(ECHO)
    command = [sys.executable, "-m", "clockworker.shards._cli", "app:main", "--port", "0", "--shards", "1", *check]
    script = 'mount -t tmpfs none /proc && exec "$@"'
    ended = subprocess.run(
        [*under("unshare", "--mount"), "sh", "-c", script, "sh", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "/proc is needed" in ended.stderr


@pytest.mark.parametrize("check", [(), ("--check-config",)])
def test_files_that_may_not_be_as_large_as_the_memory_that_is_shared(tmp_path: Path, check: tuple[str, ...]) -> None:
    """Else no shard could be started, now or at any later attempt."""
    assert max(_Layout(MAX_QUEUES, MAX_SHARDS).bytes, TWIN_CAPACITY + mmap.PAGESIZE) <= LARGEST
    (tmp_path / "app.py").write_text(ECHO)
    limit = 1 << 20
    ended = subprocess.run(
        [sys.executable, "-m", "clockworker.shards._cli", "app:main", "--port", "0", "--shards", "1", *check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "ulimit -f" in ended.stderr


# The log.


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, kind: str) -> None:
    with ExitStack() as opened:
        if kind == "pipe":
            reader, writer = os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        elif kind == "terminal":
            reader, writer = pty.openpty()
        else:
            ends = socket.socketpair()
            ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            reader, writer = (end.detach() for end in ends)
        opened.callback(os.close, reader)
        (tmp_path / "app.py").write_text(ECHO)
        port = free_port()
        command = [sys.executable, "-m", "clockworker.shards._cli", "app:main", "--shards", "2", "--access-log"]
        command += [] if len(os.sched_getaffinity(0)) > 1 else ["--no-pin"]
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
            start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        try:
            log = b""
            while b"serving with" not in log:
                log += os.read(reader, 4096)
            for _ in range(300):
                with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                    assert ask(client, b"hello")
            os.kill(psutil.Process(server.pid).children()[0].pid, signal.SIGSTOP)  # the supervisor has something to say
            os.kill(psutil.Process(server.pid).children()[0].pid, signal.SIGCONT)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()


# Memory that a shard shares with the supervisor.


def test_a_shard_gone_mad_cannot_take_the_supervisor_along(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "2", "--timeout-shard-healthcheck", "3")
    server.wait_serving()
    pid = server.shard_pids()[1]
    refused, truncated, closed = set(), set(), set()
    for link in (*Path(f"/proc/{pid}/fd").iterdir(), *Path(f"/proc/{pid}/map_files").iterdir()):
        name = os.readlink(link)
        if name.startswith("/memfd:clockworker"):
            kind = name.split()[0].removeprefix("/memfd:clockworker-")
            try:
                descriptor = os.open(link, os.O_RDWR)
            except PermissionError:  # of what is mapped, and has no descriptor any more, where we have no capabilities
                closed.add(kind)
                continue
            try:
                os.ftruncate(descriptor, 0)
                truncated.add(kind)
            except PermissionError:
                refused.add(kind)
            finally:
                os.close(descriptor)
    assert refused | closed == {"pulse", "slots", "ring", "doorbell"}
    assert truncated == {"dump"}
    os.kill(pid, signal.SIGSTOP)  # the dump is read
    server.wait_log("shard 1 ready", 2)
    assert is_alive(server.pid)
    assert server.stop() == 0
