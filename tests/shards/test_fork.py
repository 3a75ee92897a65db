"""What a child that is forked from a shard has of it: nothing, whoever dies first."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.shards.servers import Serve, Server, ask, eventually, is_alive

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# A line is a way to fork; the answer is the child's pid, or how it ended.
FORKS = """
import asyncio, gc, multiprocessing, os, signal, socket, subprocess, sys, time
import clockworker as cw

fork = multiprocessing.get_context("fork")

class Echo:
    def __init__(self, shard):
        self.shard = shard

    @cw.remote
    async def fork(self, status: int) -> int:
        if (child := os.fork()) == 0:
            return sys.exit(status) if status else 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @cw.remote
    async def number(self) -> int:
        return self.shard.id

@cw.remote
async def far() -> int:
    return 1

def say(*what):
    print("CHILD", *what, flush=True)
    return 0

def sleep():
    time.sleep(100)

async def run_a_loop():
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    process = await asyncio.create_subprocess_exec("true")
    say("a loop", type(loop).__module__, await process.wait())

async def main(shard):
    echo = await shard.start(Echo)

    async def ways_out(way):
        if way == b"return":
            return
        if way == b"exit":
            sys.exit(3)
        if way == b"raise":
            raise ValueError("in the child")
        if way == b"await":
            await asyncio.sleep(0.01)
        if way == b"future":
            await asyncio.get_event_loop_policy().new_event_loop().create_future()

    async def use(what, writer):
        if what == b"calls":
            for call in (lambda: echo.on(1 - shard.id).number(), lambda: shard.run_blocking(int)):
                try:
                    await call()
                except cw.UsageError as error:
                    say("refused", error)
            try:
                shard.call_threadsafe(1 - shard.id, far).result(5)
            except Exception as error:
                say("refused", error)
        if what == b"loops":
            import uvloop
            asyncio.run(run_a_loop())
            uvloop.run(run_a_loop())
        if what == b"collect":
            writer.transport.abort()
            del writer
            gc.collect()
            asyncio.new_event_loop().close()
        if what == b"grandchild":
            file, pair = os.open(__file__, os.O_RDONLY), socket.socketpair()
            if os.fork() == 0:
                pair[0].send(os.read(file, 1))
                os._exit(0)
            os.wait()
            say("the grandchild has its own", pair[1].recv(1) == b"\\n")
        if what == b"signals":
            say("signals", *[signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGUSR1)],
                signal.set_wakeup_fd(-1), signal.pthread_sigmask(signal.SIG_BLOCK, []))
        os._exit(0)

    def fork_in_a_thread():
        child = os.fork()
        return os.waitpid(child, 0)[1] if child else None

    async def handle(reader, writer):
        while line := await reader.readline():
            way, *what = line.split()
            answer = b""
            if way == b"hello":
                answer = b"%d hello" % shard.id
            elif way == b"os":
                child = os.fork()
                if child == 0:
                    sleep()
                answer = child
            elif way == b"pty":
                child, descriptor = os.forkpty()
                if child == 0:
                    sleep()
                answer = child
            elif way == b"process":
                process = fork.Process(target=sleep, daemon=bool(what))
                process.start()
                answer = process.pid
            elif way == b"terminated":
                ended = []
                for _ in range(20):
                    process = fork.Process(target=sleep)
                    process.start()
                    process.terminate()
                    process.join(60)
                    ended.append(process.exitcode)
                answer = set(ended)
            elif way == b"group":
                process = fork.Process(target=lambda: (os.setpgid(0, 0), sleep()))
                process.start()
                while os.getpgid(process.pid) != process.pid:
                    time.sleep(0.001)
                os.killpg(process.pid, signal.SIGTERM)
                process.join(60)
                answer = process.exitcode
            elif way == b"pool":
                with fork.Pool(2) as pool:
                    answer = sum(pool.map(abs, range(10)))
            elif way == b"out":
                child = os.fork()
                if child == 0:
                    return await ways_out(*what)
                answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            elif way == b"callback":
                ended = asyncio.get_running_loop().create_future()

                def call_back(status):
                    if (child := os.fork()) == 0:
                        return sys.exit(status) if status else None
                    ended.set_result(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

                asyncio.get_running_loop().call_later(float(what[0]), call_back, int(what[1]))
                answer = await ended
            elif way == b"remote":
                answer = await echo.on(int(what[0])).fork(int(what[1]))
            elif way == b"use":
                child = os.fork()
                if child == 0:
                    await use(*what, writer)
                answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            elif way == b"thread":
                answer = os.waitstatus_to_exitcode(await shard.run_blocking(fork_in_a_thread))
            elif way == b"call":
                answer = await echo.on(1 - shard.id).number()
            elif way == b"bye":
                return
            writer.write((answer if isinstance(answer, bytes) else str(answer).encode()) + b"\\n")

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@contextmanager
def child_of(connection: socket.socket, way: bytes) -> Iterator[int]:
    child = int(ask(connection, way))
    try:
        yield child
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def kept(pid: int) -> list[str]:
    """What a process has beside its standard streams, and that is not nothing. An end of what multiprocessing needs for itself
    is a pipe, and libffi keeps its own file open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:  # it is being taken
            continue
        if (
            int(descriptor.name) > 2
            and target != "/dev/null"
            and not target.startswith("pipe:")
            and not os.path.basename(target).startswith("libffi.so")
        ):
            found.append(target)
    return found


def refuses(address: tuple[str, int] | str) -> bool:
    sock = socket.socket(socket.AF_UNIX) if isinstance(address, str) else socket.socket()
    with sock:
        sock.settimeout(60)
        try:
            sock.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
    return False


WAYS_TO_COME: dict[str, tuple[str, ...]] = {
    "kernel": (),
    "fixed": ("--distribution", "fixed"),
    "least-connections": ("--distribution", "least-connections"),
    "limited": ("--max-connections", "10"),
    "any host": ("--host", "0.0.0.0"),
    "unix": ("--uds", "server.sock"),
}


ENDS = ("TERM", "HUP", "kill the shard", "kill the supervisor")


@pytest.mark.parametrize(
    ("way", "end"),
    [*((way, "TERM") for way in WAYS_TO_COME), *(("kernel", end) for end in ENDS[1:]), ("least-connections", "HUP")],
)
def test_children_keep_nothing_whoever_dies_first(serve: Serve, tmp_path: Path, way: str, end: str) -> None:
    options = WAYS_TO_COME[way]
    bound = () if way == "unix" else ("--port", "0")
    server = serve(FORKS, "--shards", "1", *options, bind=bound)
    server.wait_serving()
    if way == "unix":
        address: tuple[str, int] | str = str(tmp_path / "server.sock")
    else:
        found = re.search(r"listening on \S+:(\d+)$", server.log, re.MULTILINE)
        assert found is not None
        address = "127.0.0.1", int(found[1])

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX) if isinstance(address, str) else socket.socket()
        sock.settimeout(60)
        sock.connect(address)
        return sock

    with connect() as client, connect() as other, connect() as third:
        assert ask(other, b"hello") == b"0 hello"
        with (
            child_of(client, b"os") as child,
            child_of(client, b"process daemon") as worker,
            child_of(client, b"pty") as on_pty,
        ):
            for pid in (child, worker, on_pty):
                eventually(lambda pid=pid: not kept(pid), "nothing", shown=lambda pid=pid: f": {kept(pid)}")  # type: ignore[misc]
            third.sendall(b"bye\n")
            assert third.recv(10) == b""  # the shard has closed it, and nobody else has it
            pid = server.shard_pids()[0]
            if end == "TERM":
                assert server.stop() == 0
            elif end == "HUP":
                server.send(signal.SIGHUP)
                server.wait_log(r"shard 0 ready", 2)
                eventually(lambda: not is_alive(pid), "the old shard ends")
            else:
                os.kill(pid if end == "kill the shard" else server.pid, signal.SIGKILL)
                eventually(lambda: not is_alive(pid), "the shard is dead")
            assert other.recv(10) == b""
            if end in ("HUP", "kill the shard"):
                server.wait_log(r"shard 0 ready", 2)
                with connect() as again:
                    assert ask(again, b"hello") == b"0 hello"
            else:
                # A thread of the shard's may be there when its first is a zombie, and ends next.
                eventually(lambda: refuses(address), "nobody listens", deadline=5)
            assert is_alive(child)  # nobody has asked it to end
            eventually(lambda: not is_alive(worker), "multiprocessing's child ends with its shard")
            if end in ("TERM", "kill the supervisor") and not isinstance(address, str):
                successor = serve(FORKS, "--shards", "1", bind=("--port", str(address[1])))
                successor.wait_serving()


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(FORKS, "--shards", "2")
    server.wait_serving()
    return server


def test_signals_to_a_child_are_the_childs(server: Server) -> None:
    with server.connect_to(0) as client:
        assert ask(client, b"terminated") == b"{-15}"
        assert ask(client, b"group") == b"-15"
        assert ask(client, b"pool") == b"45"
        assert ask(client, b"use signals") == b"0"
        assert ask(client, b"use loops") == b"0"
        assert ask(client, b"hello") == b"0 hello"
    assert "CHILD signals True True -1 set()" in server.log
    assert "CHILD a loop asyncio.unix_events 0" in server.log
    assert "CHILD a loop uvloop 0" in server.log
    assert server.log.count("shard 0 ready") == 1
    assert server.stop() == 0


def test_a_child_that_comes_back_is_ended(server: Server) -> None:
    with server.connect_to(0) as client, server.connect_to(0) as other:
        for way in (b"return", b"raise", b"await", b"future"):
            assert ask(client, b"out " + way) == b"70"
        assert ask(client, b"thread") == b"70"
        assert ask(client, b"out exit") == b"3"
        for way in (b"callback 0 0", b"callback 0.01 0", b"remote 0 0", b"remote 1 0"):
            assert ask(client, way) == b"70"
        for way in (b"callback 0 5", b"callback 0.01 5", b"remote 0 5"):
            assert ask(client, way) == b"5"
        assert ask(client, b"remote 1 5") == b"70"  # a method's exception is its call's answer
        for connection in (client, other):
            assert ask(connection, b"hello") == b"0 hello"
    came_back = r"ERROR   \[shard .\] a child, pid \d+, that was forked from shard . came back to the shard's code"
    assert len(re.findall(came_back, server.log)) == 10
    assert server.stop() == 0


def test_what_a_child_does_with_what_it_has_left_is_without_effect_on_the_shard(server: Server) -> None:
    with server.connect_to(0) as client, server.connect_to(1) as peer:
        for _ in range(3):
            assert ask(client, b"use calls") == b"0"
            assert ask(client, b"use collect") == b"0"
            assert ask(client, b"use grandchild") == b"0"
            assert ask(client, b"call") == b"1"
            assert ask(peer, b"call") == b"0"
        assert ask(client, b"hello") == b"0 hello"
    assert server.log.count("CHILD refused this process was forked from a shard, and is none") == 9
    assert server.log.count("CHILD the grandchild has its own True") == 3
    assert server.stop() == 0


AT_IMPORT = FORKS.replace(
    "class Echo:",
    """
child = os.fork()
if child == 0 and os.environ.get("STAYS"):
    sleep_s = 100
    print("CHILD", os.getpid(), flush=True)
    time.sleep(sleep_s)

class Echo:
""",
    1,
)


def test_a_child_that_is_forked_at_import(serve: Serve) -> None:
    server = serve(AT_IMPORT, "--shards", "1", environment={"STAYS": "1"})
    server.wait_serving()
    child = int(server.wait_log(r"CHILD (\d+)")[0][1])
    eventually(lambda: not kept(child), "nothing is kept", shown=lambda: f": {kept(child)}")
    assert server.stop() == 0
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)
    server = serve(AT_IMPORT, "--shards", "1")  # and one that goes on to be a second shard
    server.wait_serving()
    server.wait_log("came back to the shard's code")
    with server.connect_to(0) as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0


CPUS = """
import asyncio, concurrent.futures, functools, multiprocessing, os, subprocess, sys

CODE = "import os; print(sorted(os.sched_getaffinity(0)))"

def mine():
    return sorted(os.sched_getaffinity(0))

async def main(shard):
    async def start(way):
        if way in ("fork", "spawn", "forkserver"):
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(way)) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, mine)
        run = functools.partial(subprocess.run, [sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True, check=True)
        if way == "subprocess":
            return run().stdout.strip()
        if way == "preexec":
            return run(preexec_fn=os.getpid).stdout.strip()
        if way == "thread":
            return (await shard.run_blocking(run)).stdout.strip()
        if way == "spawn a program":
            reader, writer = os.pipe()
            os.set_inheritable(writer, True)
            to_pipe = [(os.POSIX_SPAWN_DUP2, writer, 1)]
            os.posix_spawn(sys.executable, [sys.executable, "-c", CODE], os.environ, file_actions=to_pipe)
            os.close(writer)
            with open(reader) as file:
                return file.read().strip()
        if way == "system":
            os.system(f"{sys.executable} -c '{CODE}' > said")
            with open("said") as file:
                return file.read().strip()
        if way == "asyncio":
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", CODE, stdout=subprocess.PIPE)
            return (await process.communicate())[0].decode().strip()

    async def handle(reader, writer):
        while line := await reader.readline():
            way = line.decode().strip()
            writer.write(f"{shard.id} {await start(way)} {mine()}\\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


POOLS = ("fork", "spawn", "forkserver")
WAYS_TO_START = (*POOLS, "subprocess", "preexec", "thread", "asyncio", "spawn a program", "system")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_what_a_shard_starts_may_use_every_cpu_of_the_server(serve: Serve) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    server = serve(CPUS, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        for way in WAYS_TO_START:
            assert ask(client, way.encode()) == f"0 {cpus} {cpus[:1]}".encode(), way
    assert server.stop() == 0


def test_that_a_shard_was_sent_a_signal_to_stop_is_said(server: Server) -> None:
    pid = server.shard_pids()[0]
    os.kill(pid, signal.SIGTERM)
    server.wait_log(r"shard 0 ready", 2)
    assert f"shard 0 (pid {pid}) was sent SIGTERM: it is replaced" in server.log
    assert server.stop() == 0
    assert server.log.count("was sent SIGTERM") == 1


def test_a_stop_that_waits_for_a_child_says_so(serve: Serve) -> None:
    server = serve(FORKS, "--shards", "1", "--timeout-graceful-shutdown", "5")
    server.wait_serving()
    with server.connect() as client, child_of(client, b"process") as child:
        server.send(signal.SIGTERM)
        server.wait_log(rf"\[shard 0\] the end waits for processes that were started .*: ForkProcess-1 \(pid {child}\)")
        assert server.wait_exit() == 0
        eventually(lambda: not is_alive(child), "and dies with the shard")
