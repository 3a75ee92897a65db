"""Goes through a page of docs/ as a reader does: its files are saved, its commands run, and what they print is what it says.

A page that is written for this has fenced blocks of these kinds:

    python, toml      a file: of the name in `title="..."`, or else the one that the text before has spoken of last
    console           commands behind `$ `, in a shell, and what each prints, with `...` for what differs; a command that starts
                      a server ends the one before
    log               lines of the server's log, likewise
    text              what is shown and not run; files of deploy/ have their own tests

Servers listen at free ports in place of 8000 and 9464. Nothing is installed, unless the reader has an environment of its own
that it may install into (`tests/docs/test_from_the_wheel.py`).
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.shards.servers import DEADLINE, Serve, Server, eventually

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
FENCED = re.compile(r"(.*?)^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = {"python", "toml"}
RUN = {*FILES, "console", "log"}
SHOWN = {"text", "json"}


class Block(msgspec.Struct):
    """kind: what it is marked as. file: where it is saved, if it is a file."""

    kind: str
    file: str | None
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each, and what it prints."""
        for command in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            lines = command.replace("\\\n", "").splitlines(keepends=True)
            yield lines[0].strip(), "".join(lines[1:])


def blocks(page: Path) -> Iterator[Block]:
    file = None
    for text, kind, attributes, block in FENCED.findall(page.read_text()):
        names = re.findall(r"`([\w/]+\.(?:py|toml))`", text)
        file = names[-1] if names else file
        title = re.search(r'title="([^"]+)"', attributes)
        yield Block(kind, title[1] if title else file, block)


class Reader:
    """python: what the reader's commands run with. wheel: what is installed where the page installs Clockworker, and with it
    all that the page names; without it nothing is."""

    def __init__(self, directory: Path, python: str = sys.executable, wheel: Path | None = None) -> None:
        self._directory = directory
        self._python = python
        self._wheel = wheel
        self._serve = Serve(directory)
        self._server: Server | None = None
        self._log_before = ""
        self.servers = 0

    @property
    def server(self) -> Server:
        assert self._server is not None, "the page has started no server yet"
        return self._server

    def read_page(self, page: Path) -> None:
        for block in blocks(page):
            self.read(block)
        self.stop()

    def read(self, block: Block) -> None:
        match block.kind:
            case "python" | "toml":
                assert block.file is not None
                (self._directory / block.file).parent.mkdir(parents=True, exist_ok=True)
                text = block.text.replace("\nmetrics = true\n", '\nmetrics = "127.0.0.1:0"\n')
                (self._directory / block.file).write_text(text)
            case "console":
                for command, printed in block.commands():
                    self.run(command, printed)
            case "log":
                for line in block.text.splitlines():
                    self.wait_log(re.escape(line).replace(r"\.\.\.", ".*"))
            case kind if kind not in SHOWN:
                pytest.fail(f"a block is marked as {kind!r}, which is none of {sorted(RUN | SHOWN)}")

    def run(self, command: str, printed: str) -> None:
        if command.startswith("kill "):
            self._log_before = self.server.log
        match shlex.split(command):
            case ["pip", "install", *names]:
                self.install(names)
            case ["clockworker-serve", *options] if not {"--check-config", "--print-config", "--version"} & {*options}:
                self.stop()
                self._log_before = ""
                app = options.pop(0) if options and not options[0].startswith("-") else None
                options = [word for option in options for word in self.moved(option)]
                bind = () if "--bind" in options else ("--port", "0")
                command_line = [self._python, "-m", "clockworker.shards._cli"]
                self._server = self._serve(None, "--spares", "0", *options, app=app, bind=bind, command=command_line)
                self.server.wait_serving()
                self.servers += 1
            case _:
                # What the supervisor says of the shards is as late as they tell it.
                again = "localhost:9464" in command or command.startswith("clockworker-top")
                eventually(
                    lambda: self.prints(command, printed) or (not again and pytest.fail(f"{command}: {self.printed}")),
                    f"{printed!r} printed by {command}",
                    shown=lambda: f", but {self.printed!r}",
                )

    def wait_log(self, pattern: str) -> None:
        """For one more than those that there were at the last command that was run."""
        before = len(re.findall(pattern, self._log_before))
        self.server.wait_log(pattern, times=before + 1)

    def install(self, names: list[str]) -> None:
        extras = {extra for name in names for extra in re.findall(r"^clockworker\[(.*)\]$", name)}
        assert {one for several in extras for one in several.split(",")} <= EXTRAS
        if self._wheel is not None:
            names = [re.sub(r"^clockworker\b", str(self._wheel), name) for name in names]
            done = subprocess.run([self._python, "-m", "pip", "install", "-q", *names], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    def prints(self, command: str, printed: str) -> bool:
        command = command.replace("curl ", "curl -sS ")
        if "localhost:8000" in command:
            command = command.replace("localhost:8000", "{}:{}".format(*self.server.address))
        if "localhost:9464" in command:
            command = command.replace("localhost:9464", self.server.wait_log(r"metrics on http://([\d.:]+)/")[0][1])
        for program, module in (("serve", "_cli"), ("top", "tools._top")):
            run = f"{shlex.quote(self._python)} -m clockworker.shards.{module}"
            command = re.sub(rf"^clockworker-{program}\b", run, command)
        command = re.sub(r"^python\b", shlex.quote(self._python), command)
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            shell=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.printed = done.stdout + done.stderr
        # curl ends no line that the server has not ended.
        got = self.printed.rstrip("\n") + "\n" if self.printed else ""
        return doctest.OutputChecker().check_output(printed, got, doctest.ELLIPSIS)

    def moved(self, option: str) -> list[str]:
        return ["--metrics", "127.0.0.1:0"] if option == "--metrics" else [option]

    def stop(self) -> None:
        if self._server is not None:
            assert self._server.stop() == 0
            assert "Traceback" not in self._server.log, self._server.log
            self._server = None

    def clean_up(self) -> None:
        self._serve.clean_up()
