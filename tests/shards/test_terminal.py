"""`breakpoint()` in a shard, with a terminal and without."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import DEADLINE, Serve, ask

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

DEBUGGED = """
import asyncio, pdb

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"breakpoint\\n":
                word = "not changed"
                breakpoint()
                writer.write(f"{word}\\n".encode())
            elif line == b"pdb\\n":
                try:
                    pdb.set_trace()
                    writer.write(b"not reached\\n")
                except BaseException as error:
                    writer.write(type(error).__name__.encode() + b"\\n")
            elif line == b"input\\n":
                try:
                    input()
                except EOFError:
                    writer.write(b"EOFError\\n")
            else:
                writer.write(b"%d %s" % (shard.id, line))

    await shard.start_server(handle)
    await shard.wait_stopped()
"""

# --timeout-shard-healthcheck.
LIMIT_S = 3

PROGRAM = f"""
if __name__ == "__main__":
    import clockworker
    clockworker.serve(main, port=0, shards=1, timeout_shard_healthcheck={LIMIT_S})
"""
COMMAND = ("clockworker", "app:main", "--port", "0", "--shards", "1", "--timeout-shard-healthcheck", str(LIMIT_S))


class OnTerminal:
    """A server on a pseudo-terminal. ours: our end of it."""

    def __init__(self, directory: Path, *command: str) -> None:
        (directory / "app.py").write_text(DEBUGGED + PROGRAM)
        self.ours, theirs = pty.openpty()
        self._text = ""
        self.modes = termios.tcgetattr(theirs)
        command = (sys.executable, *command)
        # setsid -c: the terminal is the session's own, as at a login.
        self.process = subprocess.Popen(
            ["setsid", "-c", *command], cwd=directory, stdin=theirs, stdout=theirs, stderr=theirs
        )
        self._theirs = theirs

    def read(self, pattern: str) -> re.Match[str]:
        """Read until the pattern is in what has been read, and forget it up to there."""
        deadline = time.monotonic() + DEADLINE
        while (match := re.search(pattern, self._text)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._text}"
            self.read_on()
        self._text = self._text[match.end() :]
        return match

    def read_on(self) -> str:
        """What is there and has not been looked for; waits a little for more."""
        if select.select([self.ours], [], [], 0.1)[0]:
            self._text += os.read(self.ours, 65536).decode().replace("\r", "")
        return self._text

    def type(self, line: str) -> None:
        os.write(self.ours, line.encode() + b"\n")

    def modes_now(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self._theirs)


@pytest.fixture(params=[("-m", *COMMAND), ("app.py",)], ids=["command", "program"])
def on_terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnTerminal]:
    server = OnTerminal(tmp_path, *request.param)
    yield server
    server.close()


def test_one_shard_on_a_terminal_is_debugged_there_for_as_long_as_it_takes(on_terminal: OnTerminal) -> None:
    port = int(on_terminal.read(r"listening on 127\.0\.0\.1:(\d+)")[1])
    shard = int(on_terminal.read(r"shard 0 ready on .* pid (\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(b"breakpoint\n")
        on_terminal.read(r"app\.py\(\d+\)handle\(\)")
        on_terminal.read(r"\(Pdb\) ")
        on_terminal.read(r"shard 0 is stopped in a debugger: not looked after until it goes on")
        time.sleep(LIMIT_S + 1)  # nothing tells that it has not been killed
        assert "has not come back" not in on_terminal.read_on()
        on_terminal.type("word = 'changed'")
        on_terminal.type("c")
        assert client.recv(100) == b"changed\n"
        assert ask(client, b"hello") == b"0 hello"
        client.sendall(b"breakpoint\n")
        on_terminal.read(r"app\.py\(\d+\)handle\(\)")
        on_terminal.read(r"\(Pdb\) ")
        os.kill(shard, signal.SIGKILL)
        on_terminal.read(r"killed by SIGKILL")
        assert on_terminal.modes_now() == on_terminal.modes  # readline had changed them
    on_terminal.read("shard 0 ready")
    on_terminal.process.send_signal(signal.SIGTERM)
    assert on_terminal.process.wait(DEADLINE) == 0


def test_without_a_terminal_a_breakpoint_is_passed_over_and_that_is_said(serve: Serve) -> None:
    server = serve(DEBUGGED, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as client:
        assert ask(client, b"breakpoint") == b"not changed"
    with server.connect_to(1) as client:
        assert ask(client, b"pdb") == b"BdbQuit"
        assert ask(client, b"input") == b"EOFError"
    why = "this shard has no terminal to read from; start the server on one, with --shards 1"
    assert re.search(rf"\[shard 0 default\] breakpoint\(\) at \S*app\.py:9 was passed over: {why}", server.log)
    assert re.search(rf"\[shard 1 default\] an end of file was read from standard input: {why}", server.log)
    assert server.stop() == 0


def test_a_debugger_of_the_applications_choice_is_left_alone(serve: Serve) -> None:
    server = serve(DEBUGGED, "--shards", "1", environment={"PYTHONBREAKPOINT": "0"})
    server.wait_serving()
    with server.connect_to(0) as client:
        assert ask(client, b"breakpoint") == b"not changed"
    assert "passed over" not in server.log
    assert server.stop() == 0
