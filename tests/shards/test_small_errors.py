"""Each call of the supervisor into the system made to fail once (`failing`): shards that serve go on serving, nothing is cut,
and TERM ends the server in good order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clockworker._errors import ControlError
from clockworker.shards.observe._query_client import QueryClient
from tests.ports import free_port
from tests.shards.failing import ARMED
from tests.shards.servers import Serve, ask, eventually
from tests.shards.test_behaviour import WORK, Clients

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

FAILING = str(Path(__file__).with_name("failing.py"))
ROOT = Path(__file__).parents[2]

QUEUES = ("--queue", "foreground:8", "--queue", "background:1")

# Each address is turned away from by itself, and each may fail in a place of its own.
ADDRESSES = ("127.0.0.1:0",) * 6

ROUNDS = 5

LOG_CONFIG = """
[handlers.file]
class = "logging.FileHandler"
formatter = "text"
filename = "file.log"
[handlers.console]
class = "logging.StreamHandler"
formatter = "text"
[root]
level = "INFO"
handlers = ["file", "console"]
"""


class Day:
    """A server's life with everything in it that a supervisor does, while these calls fail. `failed` is which really did,
    `reached` which calls were made since they might."""

    def __init__(self, serve: Serve, directory: Path, plan: list[str], *options: str, replaces: bool = True) -> None:
        directory.mkdir()
        self._directory = directory
        self._metrics = free_port()
        (directory / "plan").write_text("".join(f"{site}\n" for site in plan))
        (directory / "log.toml").write_text(LOG_CONFIG)
        (directory / "failed").touch()
        arguments = [
            *("--shards", "2", *QUEUES, "--metrics", f"127.0.0.1:{self._metrics}", "--control", f"{directory}/control"),
            *("--pid-file", f"{directory}/pid", "--log-config", f"{directory}/log.toml", *options),
        ]
        bind = [word for address in (*ADDRESSES, f"unix:{directory}/socket") for word in ("--bind", address)]
        self.server = serve(
            WORK,
            *arguments,
            bind=tuple(bind),
            environment={"PYTHONPATH": str(ROOT)},
            command=[sys.executable, FAILING, str(directory)],
        )
        self.server.wait_serving()
        (directory / "armed").touch()
        with Clients(self.server, b"hello", 1) as clients:
            self._let_one_stand_still()
            self.server.send(signal.SIGUSR1)
            self.server.send(signal.SIGALRM)
            self._ask_for(self._page("metrics"))
            self._ask_for(self._page("ready"))
            self._ask_for(self._control)
            if replaces:
                self._replace_all()
        assert clients.answers
        assert clients.failed == [], self
        self._kill_one()
        self._stop()
        self.failed = (directory / "failed").read_text().splitlines()
        _, _, reached = (directory / "reached").read_text().partition(ARMED + "\n")
        self.reached = reached.splitlines()

    def __repr__(self) -> str:
        return f"made to fail: {(self._directory / 'failed').read_text()}\n{self.server.log}"

    def _ready(self, shard: int) -> int:
        return len(re.findall(rf"shard {shard} ready", self.server.log))

    def _kill_one(self) -> None:
        before = self._ready(1)
        os.kill(self.server.shard_pids()[1], signal.SIGKILL)
        eventually(lambda: self._ready(1) > before, "shard 1 is there again", 60, self.__repr__)

    def _let_one_stand_still(self) -> None:
        """Long enough for a dump to be asked for."""
        pid = self.server.shard_pids()[0]
        os.kill(pid, signal.SIGSTOP)
        self.server.wait_log(r"shard 0 .* the process is ")
        os.kill(pid, signal.SIGCONT)

    def _page(self, path: str) -> Callable[[], bool]:
        def get() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/{path}", timeout=60) as page:
                return bool(page.status == 200)

        return get

    def _control(self) -> bool:
        try:
            with closing(QueryClient(self._directory / "control")) as client:
                return bool(client.stats() and client.rings() and client.trace(0.05))
        except ControlError:
            return False

    def _ask_for(self, asked: Callable[[], bool]) -> None:
        def answered() -> bool:
            try:
                return asked()
            except OSError:
                return False

        eventually(answered, "tools are answered", shown=self.__repr__)

    def _replace_all(self) -> None:
        """A rehearsal that cannot be started leaves the old shards serving; then somebody tries again."""
        before = [self._ready(shard) for shard in range(2)]
        refused = -1

        def replaced() -> bool:
            nonlocal refused
            if (now := self.server.log.count("are not replaced")) > refused:
                refused = now
                self.server.send(signal.SIGHUP)
            return all(self._ready(shard) > before[shard] for shard in range(2))

        eventually(replaced, "all are replaced", 60, self.__repr__)

    def _stop(self) -> None:
        with self.server.connect() as client:
            ask(client, b"hello")
            client.sendall(b"sleep 0.2\n")
            with self.server.connect_to(0), self.server.connect_to(1):
                pass
            self.server.send(signal.SIGTERM)
            assert client.recv(100).endswith(b" sleep 0.2\n"), self
        assert self.server.wait_exit() == 0, self
        assert "Traceback" not in self.server.log, self


@pytest.mark.slow
def test_no_call_that_fails_once_ends_the_server_or_cuts_anything(serve: Serve, tmp_path: Path) -> None:
    left = Day(serve, tmp_path / "well", []).reached
    assert len(left) > 40, left
    rounds, failed = [left[start::ROUNDS] for start in range(ROUNDS)], set[str]()
    for number in range(3 * ROUNDS):
        plan = rounds.pop(0) if rounds else left[:]
        day = Day(serve, tmp_path / f"{number}", plan, replaces=number % 3 == 0)
        failed.update(day.failed)
        left = [site for site in left if site not in failed]
        if not left:
            return
        # What failed first has kept others from being made: they come again, until nothing of what is left is.
        if not rounds and not day.failed:
            pytest.fail(f"never made again: {left}")
    pytest.fail(f"not made to fail: {left}")


@pytest.mark.slow
def test_connections_that_the_supervisor_hands_over(serve: Serve, tmp_path: Path) -> None:
    options = ("--distribution", "least-connections")
    reached = Day(serve, tmp_path / "well", [], *options).reached
    left = [site for site in reached if site.startswith(("_dispatch", "_handover"))]
    assert left
    assert set(Day(serve, tmp_path / "failing", left, *options).failed) == set(left)


@pytest.mark.slow
def test_a_start_that_is_refused_something_serves_or_says_it_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text(LOG_CONFIG)
    command = [
        *(sys.executable, FAILING, "--starts", str(tmp_path), "missing:main", "--shards", "1", "--port", "0"),
        *("--bind", f"unix:{tmp_path}/socket", "--pid-file", f"{tmp_path}/pid", "--control", f"{tmp_path}/control"),
        *("--metrics", "127.0.0.1:0", "--log-config", f"{tmp_path}/log.toml", "--app-dir", str(tmp_path)),
    ]
    started = time.monotonic()
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    starts = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(starts) > 40, ended.stderr
    print(f"{len(starts)} starts in {time.monotonic() - started:.1f} s")
    for site, status, log in starts:
        # 3: the application is not there, which is what a start that is not refused anything ends with.
        assert status in (1, 2, 3), (site, status, log)
        if not site.startswith("selector_events.py:"):  # asyncio's loop cannot be taken down that was never complete
            assert "Traceback" not in log.replace("missing:main cannot be imported\nTraceback", ""), (site, log)
