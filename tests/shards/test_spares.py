from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from clockworker.shards.machine._host import OF_FORK_SERVER, OF_SPARE
from clockworker.shards.supervisor import _forking, _spares
from clockworker.shards.supervisor._spares import Spares
from clockworker.shards.supervisor._spawn import Process
from clockworker.shards.supervisor._watch import is_stopped
from tests.shards.servers import ECHO, Serve, Server, ask, children, eventually, fork_servers, gone, is_alive
from tests.shards.test_roll import write

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

DEBUG = ("--log-level", "debug")

# A shard that says what its process was told.
TELLING = ECHO.replace(
    "            writer.write",
    """
            if line == b"told\\n":
                import os, sys
                told = os.environ["CLOCKWORKER_SHARD_ID"], sorted(os.sched_getaffinity(0)), VERSION, os.environ.get("SITE")
                line = b"%r\\n" % (told,)
            writer.write""",
)

# As `sitecustomize`, which Python imports before anything of ours. It opens a file in what would fork spares, which is not done
# then: each is started, and imports for as long as it is told.
IMPORTING = """
import os, pathlib, time
if "CLOCKWORKER_FORK_SERVER_OF" in os.environ:
    opened = open(os.devnull)
if "CLOCKWORKER_SPARE_SHARD_OF" in os.environ:
    while pathlib.Path("hold").exists():
        time.sleep(0.01)
"""


def waiting_spare(server: Server, other_than: int = 0) -> int:
    """Its pid, when it has imported everything."""

    def look() -> int:
        for child in children(server.pid, spare=True):
            if child.pid != other_than and "clockworker spare [app:main]" in " ".join(child.cmdline()):
                return child.pid
        return 0

    return eventually(look, "a spare process waits", shown=lambda: f":\n{server.log}")


def starting_spare(server: Server, other_than: int = 0) -> int:
    def look() -> int:
        return next((each.pid for each in children(server.pid, spare=True) if each.pid != other_than), 0)

    return eventually(look, "a spare process", shown=lambda: f":\n{server.log}")


def new_pid(server: Server, shard: int, times: int) -> int:
    return int(server.wait_log(rf"shard {shard} ready on .*, pid (\d+)", times)[-1][1])


def test_a_spare_takes_the_place_of_a_killed_shard_and_then_of_one_that_is_replaced(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("VERSION = 'old'\n" + TELLING, "--shards", "2", "--cpus", cpus(), *DEBUG)
    server.wait_serving()
    spare = waiting_spare(server)
    # What the application is it learns only when it is wanted.
    write(tmp_path, "VERSION = 'mended'\n" + TELLING)
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    assert new_pid(server, 1, 2) == spare
    [cpu] = re.findall(rf"shard 1 ready on CPU (\d+), pid {spare} ", server.log)
    with server.connect_to(1) as client:
        assert ask(client, b"told") == f"1 ('1', [{cpu}], 'mended', None)".encode()
    process = psutil.Process(spare)
    assert process.environ()["CLOCKWORKER_SHARD_ID"] == "1"
    assert "PATH" in process.environ(), "what comes after it"
    assert "clockworker shard 1 [app:main]" in " ".join(process.cmdline())
    next_one = waiting_spare(server)
    assert len(children(server.pid)) == 2
    write(tmp_path, "VERSION = 'new'\n" + TELLING)
    server.send(signal.SIGHUP)
    assert new_pid(server, 0, 2) == next_one
    new_pid(server, 1, 3)
    for shard in (0, 1):
        with server.connect_to(shard) as client:
            assert ask(client, b"told").endswith(b"'new', None)")
    waiting_spare(server)
    eventually(lambda: len(server.members()) == 5, "with the supervisor, a spare process, and who has forked it")
    members = server.members()
    assert server.stop() == 0
    assert not server.members()
    assert gone([each.pid for each in members])
    assert "Traceback" not in server.log


HELD = """
import pathlib, time
while pathlib.Path("slow").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("forked", [True, False])
def test_the_second_of_two_deaths_finds_a_spare_that_was_made_at_the_first(
    serve: Serve, tmp_path: Path, forked: bool
) -> None:
    environment = {}
    if not forked:
        (tmp_path / "sitecustomize.py").write_text(IMPORTING)
        environment["PYTHONPATH"] = str(tmp_path)
    server = serve(HELD + ECHO, "--shards", "2", *DEBUG, environment=environment)
    server.wait_serving()
    first = waiting_spare(server)
    (tmp_path / "slow").touch()
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    # One that is forked is the supervisor's once it has been told of it, which may be a moment after it is there.
    second = waiting_spare(server, first) if forked else starting_spare(server, first)
    assert server.log.count("shard 0 ready") == 1, "its successor still imports the application"
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 is restarted")
    (tmp_path / "slow").unlink()
    assert new_pid(server, 0, 2) == first
    assert new_pid(server, 1, 2) == second
    waiting_spare(server)
    assert len(children(server.pid, spare=True)) == 1
    assert len(fork_servers(server.pid)) == forked
    assert server.stop() == 0


def count_open(process: psutil.Process) -> int:
    """Its descriptors, but for that of libffi, which keeps its own file open."""
    targets = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    return len([target for target in targets if "/libffi.so" not in target])


def test_spares_are_forked_by_a_process_that_has_one_thread_and_nothing_open(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", "--spares", "3", *DEBUG)
    server.wait_serving()
    descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
    [forks] = eventually(lambda: fork_servers(server.pid), "what forks them")
    eventually(lambda: len(children(server.pid, spare=True)) == 3, "three of them")
    spares = children(server.pid, spare=True)
    assert {spare.ppid() for spare in spares} == {server.pid}, "not of who has forked them"
    assert forks.num_threads() == 1
    assert count_open(forks) == 4
    for spare in spares:
        assert count_open(spare) == 4, "and nothing of who has forked it"
        assert spare.environ()["CLOCKWORKER_SPARE_SHARD_OF"] == "app:main"
        assert os.getpgid(spare.pid) == server.pid
    assert not forks.children()
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors + OF_FORK_SERVER + 3 * OF_SPARE
    # Its end is no end of theirs, and there is another one when one is wanted.
    forks.kill()
    server.wait_log("the process that forks spares killed by SIGKILL")
    assert all(is_alive(spare.pid) for spare in spares)
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    assert new_pid(server, 0, 2) in {spare.pid for spare in spares}
    eventually(lambda: len(children(server.pid, spare=True)) == 3, "three again")
    assert len(fork_servers(server.pid)) == 1
    assert server.stop() == 0
    assert not server.members()


def test_shards_that_are_forked_end_with_the_supervisor_and_have_numbers_of_their_own(serve: Serve) -> None:
    drawing = ECHO.replace(
        "            writer.write",
        """
            import random, uuid
            line = f"{random.random()} {uuid.uuid4()}\\n".encode()
            writer.write""",
    )
    server = serve(drawing, "--shards", "2", "--spares", "2")
    server.wait_serving()
    eventually(lambda: len(children(server.pid, spare=True)) == 2, "two of them")
    for pid in server.shard_pids().values():
        os.kill(pid, signal.SIGKILL)
    pids = {new_pid(server, shard, 2) for shard in (0, 1)}
    drawn = set()
    for shard in (0, 1):
        with server.connect_to(shard) as client:
            ours = ask(client, b"draw").split()
            drawn |= {ours[1], ours[2]}
            assert ask(client, b"again").split()[1] not in drawn, shard
    assert len(drawn) == 4
    server.send(signal.SIGKILL)
    eventually(lambda: gone(list(pids)), "they are gone")


def test_an_orphan_of_the_application_s_is_collected(serve: Serve) -> None:
    """While the supervisor waits for a fork it takes in what others leave behind, too: here always, for what forks stands
    still."""
    leaving = """
import os, time
def leave():
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.2)
        os._exit(0)
    os.wait()
""" + ECHO.replace(
        "            writer.write",
        "            if line == b'leave\\n':\n                leave()\n            writer.write",
    )
    server = serve(leaving, "--shards", "1")
    server.wait_serving()
    spare = waiting_spare(server)
    [forks] = fork_servers(server.pid)
    forks.suspend()
    os.kill(spare, signal.SIGKILL)
    eventually(lambda: not children(server.pid, spare=True), "it is asked for another one")
    time.sleep(_spares.DELAY_S)
    with server.connect() as client:
        for _ in range(5):
            ask(client, b"leave")
    eventually(lambda: len(psutil.Process(server.pid).children()) == 2, "the shard, and what forks")
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    new_pid(server, 0, 2)
    forks.resume()
    waiting_spare(server)
    with server.connect() as client:
        assert ask(client, b"still") == b"0 still"
    assert server.stop() == 0
    assert not server.members()


def cpus() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))


def test_a_spare_that_ends_is_collected_and_there_is_another_one_later(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IMPORTING)
    server = serve(ECHO, "--shards", "1", *DEBUG, environment={"PYTHONPATH": str(tmp_path)})
    server.wait_serving()
    descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
    waiting = waiting_spare(server)
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors + OF_SPARE
    (tmp_path / "hold").touch()
    os.kill(waiting, signal.SIGTERM)
    server.wait_log(rf"a spare process \(pid {waiting}\) killed by SIGTERM")
    importing = starting_spare(server, waiting)
    os.kill(importing, signal.SIGKILL)
    server.wait_log(rf"a spare process \(pid {importing}\) killed by SIGKILL")
    importing = starting_spare(server, importing)
    # One that still imports has a lead.
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    server.wait_log("shard 0 is restarted")
    (tmp_path / "hold").unlink()
    assert new_pid(server, 0, 2) == importing
    waiting_spare(server)
    assert server.stop() == 0
    assert server.log.count(" ERROR ") == 1  # the shard's
    assert not server.members()


def test_one_that_somebody_has_stopped_is_not_taken(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", "--spares", "2")
    server.wait_serving()
    stopped = waiting_spare(server)
    other = waiting_spare(server, stopped)
    os.kill(stopped, signal.SIGSTOP)
    eventually(lambda: is_stopped(stopped), "it has stopped")
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    assert new_pid(server, 0, 2) == other
    assert server.stop() == 0
    assert not server.members()


def test_one_that_dies_together_with_a_shard_is_not_taken(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", *DEBUG)
    server.wait_serving()
    spare = waiting_spare(server)
    server.send(signal.SIGSTOP)  # it sees both ends at once
    eventually(lambda: is_stopped(server.pid), "it has stopped")
    for pid in (server.shard_pids()[0], spare):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(spare) and not is_alive(server.shard_pids()[0]), "both have ended")
    server.send(signal.SIGCONT)
    assert new_pid(server, 0, 2) != spare
    server.wait_log(rf"a spare process \(pid {spare}\) killed by SIGKILL")
    assert server.log.count(" ERROR ") == 1
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_waits_for_no_spare(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    """This one imports, for ever."""
    (tmp_path / "sitecustomize.py").write_text(IMPORTING)
    (tmp_path / "hold").touch()
    server = serve(ECHO, "--shards", "1", *DEBUG, environment={"PYTHONPATH": str(tmp_path)})
    server.wait_serving()
    starting_spare(server)
    server.wait_log("a spare process cannot be forked: it has opened /dev/null")
    os.killpg(server.pid, number) if number == signal.SIGINT else server.send(number)
    assert server.wait_exit() == 0
    assert not server.members()


def test_a_spare_ends_with_its_supervisor(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1")
    server.wait_serving()
    spare = waiting_spare(server)
    server.send(signal.SIGKILL)
    eventually(lambda: gone([spare]), "it is gone")


def test_a_spare_whose_imports_have_changed_begins_anew(serve: Serve, tmp_path: Path) -> None:
    site = tmp_path / "sitecustomize.py"
    site.write_text("import os\nos.environ['SITE'] = 'old'\n")
    server = serve("VERSION = 1\n" + TELLING, "--shards", "1", environment={"PYTHONPATH": str(tmp_path)})
    server.wait_serving()
    spare = waiting_spare(server)
    (tmp_path / "new").write_text("import os\nos.environ['SITE'] = 'upgraded'\n")
    os.replace(tmp_path / "new", site)
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    assert new_pid(server, 0, 2) == spare
    with server.connect_to(0) as client:
        assert ask(client, b"told").endswith(b"'upgraded')")
    process = psutil.Process(spare)
    assert process.environ()["CLOCKWORKER_SHARD_ID"] == "0"
    # Who has forked it has begun anew, too, before it has forked the next one.
    [forks] = fork_servers(server.pid)
    next_one = waiting_spare(server, spare)
    os.kill(spare, signal.SIGKILL)
    assert new_pid(server, 0, 3) == next_one
    with server.connect_to(0) as client:
        assert ask(client, b"told").endswith(b"'upgraded')")
    assert [each.pid for each in fork_servers(server.pid)] == [forks.pid]
    assert server.stop() == 0


def test_a_version_that_crashes_waits_as_ever_and_takes_one_spare_at_a_time(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "1", *DEBUG)
    server.wait_serving()
    spare = waiting_spare(server)
    write(tmp_path, "import os\nos._exit(7)\n")
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    server.wait_log(rf"shard 0 \(pid {spare}\) exited with status 7")
    server.wait_log("shard 0 is restarted in 0.2 s")
    assert "shard 0 is restarted in 0.1 s" in server.log
    assert len(children(server.pid, spare=True)) <= 1
    write(tmp_path, ECHO)
    new_pid(server, 0, 2)
    waiting_spare(server)
    assert server.stop() == 0


@pytest.mark.parametrize("options", [("--spares", "0"), ("--no-respawn",)])
def test_there_is_none_where_none_is_wanted(serve: Serve, options: tuple[str, ...]) -> None:
    server = serve(ECHO, "--shards", "1", *options)
    server.wait_serving()
    since = time.monotonic()
    eventually(lambda: time.monotonic() - since > _spares.FIRST_S + 0.2, "time enough to start one")
    assert not children(server.pid, spare=True)
    assert server.stop() == 0


class Short:
    """A system that has no process for the first few attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
        self.failures = failures
        self.tried: list[float] = []
        start = _forking.start_fork_server

        def begin(app: str) -> Process:
            self.tried.append(asyncio.get_running_loop().time())
            if len(self.tried) <= self.failures:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return start(app)

        monkeypatch.setattr(_forking, "start_fork_server", begin)


def test_where_there_is_no_process_to_be_had_there_is_none_and_it_is_tried_less_and_less(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_spares, "DELAY_S", 0.05)
    short = Short(monkeypatch, failures=3)

    async def body() -> None:
        spares = Spares("app:main", 1, lambda: True)
        spares.fill()
        while not spares._waiting:
            await asyncio.sleep(0.01)
        spares.stop()
        await spares.wait_gone()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(body())
    first, second, third, last = short.tried
    assert second - first >= 0.05
    assert third - second >= 0.1
    assert last - third >= 0.2
    lines = [record for record in caplog.records if "no spare process" in record.message]
    assert [record.levelno for record in lines] == [logging.DEBUG] * 3
    assert "temporarily unavailable" in lines[0].message


def test_what_is_left_of_a_limit_on_processes_is_the_application_s(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = Short(monkeypatch, failures=0)

    async def body(used: int, limit: int) -> int:
        monkeypatch.setattr(_spares, "read_process_limit", lambda: (used, limit))
        spares = Spares("app:main", 1, lambda: True)
        spares.fill()
        found = spares._there_are()
        spares.stop()
        await spares.wait_gone()
        return found

    with caplog.at_level(logging.DEBUG):
        assert asyncio.run(body(9, 10)) == 0
        assert asyncio.run(body(90, 100)) == 0
        assert not short.tried
        assert asyncio.run(body(89, 100)) == 1
    assert "of 10 processes and threads that are allowed (pids.max) there are 9" in caplog.text
