"""The tutorial is gone through as a reader does: its files are saved, its commands run, and what they print is what it says.

Servers listen at free ports in place of 8000 and 9464, and nothing is installed.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.servers import DEADLINE, Serve, Server, eventually

pytest.importorskip("fastapi")

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
KINDS = {"python", "console", "log"}


class Block:
    """kind: what it is marked as. file: the name that the text before it has spoken of last."""

    def __init__(self, kind: str, file: str | None, text: str) -> None:
        self.kind = kind
        self.file = file
        self.text = text

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each, and what it prints."""
        for command in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            lines = command.replace("\\\n", "").splitlines(keepends=True)
            yield lines[0].strip(), "".join(lines[1:])


def blocks() -> Iterator[Block]:
    file = None
    for text, kind, block in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE):
        names = re.findall(r"`(\w+\.py)`", text)
        file = names[-1] if names else file
        yield Block(kind, file, block)


class Reader:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._serve = Serve(directory)
        self._server: Server | None = None
        self.servers = 0

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    def read(self, block: Block) -> None:
        match block.kind:
            case "python":
                assert block.file is not None
                (self._directory / block.file).write_text(block.text)
            case "console":
                for command, printed in block.commands():
                    self.run(command, printed)
            case "log":
                for line in block.text.splitlines():
                    self.server.wait_log(re.escape(line).replace(r"\.\.\.", ".*"))
            case kind:
                pytest.fail(f"a block is marked as {kind!r}, and not as one of {KINDS}")

    def run(self, command: str, printed: str) -> None:
        match shlex.split(command):
            case ["pip", "install", *names]:
                extras = {extra for name in names for extra in re.findall(r"^clockworker\[(.*)\]$", name)}
                assert extras <= EXTRAS
            case ["clockworker-serve", app, *options]:
                self.stop()
                options = [word for option in options for word in self.moved(option)]
                self._server = self._serve(None, "--spares", "0", *options, app=app)
                self.server.wait_serving()
                self.servers += 1
            case _:
                # What the supervisor says of the shards is as late as they tell it.
                again = "localhost:9464" in command
                eventually(
                    lambda: self.prints(command, printed) or (not again and pytest.fail(f"{command}: {self.printed}")),
                    f"{printed!r} printed by {command}",
                    shown=lambda: f", but {self.printed!r}",
                )

    def prints(self, command: str, printed: str) -> bool:
        host, port = self.server.address
        command = command.replace("localhost:8000", f"{host}:{port}").replace("curl ", "curl -sS ")
        if "localhost:9464" in command:
            command = command.replace("localhost:9464", self.server.wait_log(r"metrics on http://([\d.:]+)/")[0][1])
        command = re.sub("^python ", f"{shlex.quote(sys.executable)} ", command)
        done = subprocess.run(
            command, cwd=self._directory, shell=True, capture_output=True, text=True, timeout=DEADLINE
        )
        self.printed = done.stdout + done.stderr
        # curl ends no line that the server has not ended.
        got = self.printed.rstrip("\n") + "\n"
        return doctest.OutputChecker().check_output(printed, got, doctest.ELLIPSIS)

    def moved(self, option: str) -> list[str]:
        return ["--metrics", "127.0.0.1:0"] if option == "--metrics" else [option]

    def stop(self) -> None:
        if self._server is not None:
            assert self._server.stop() == 0
            assert "Traceback" not in self._server.log
            self._server = None

    def clean_up(self) -> None:
        self._serve.clean_up()


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, as the tutorial's reader does")
def test_the_tutorial(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks():
            reader.read(block)
        reader.stop()
        assert reader.servers == 4
    finally:
        reader.clean_up()
