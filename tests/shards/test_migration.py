"""The options that docs/migration.md puts side by side are there: ours, and those of the servers that are installed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clockworker.shards.config._arguments import split_command_line
from clockworker.shards.config._options import OPTIONS
from clockworker.shards.config._other_names import nearest_option

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
HEAD, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Options")[2].splitlines()
    if line.startswith("|") and not line.startswith("|---")
]
OURS = {flag for option in OPTIONS for flag in option.flags}


def options_of(text: str) -> set[str]:
    return set(re.findall(r"`(--?[\w-]+)", text))


def test_every_row_is_whole() -> None:
    assert HEAD == ["", "ours", "uvicorn", "gunicorn", "granian", "hypercorn"]
    assert len(ROWS) > 50
    assert all(len(row) == len(HEAD) for row in ROWS)


def test_ours_are_there() -> None:
    named = set().union(*(options_of(row[1]) for row in ROWS))
    assert len(named) > 50
    assert named <= OURS


@pytest.mark.slow
@pytest.mark.parametrize("peer", HEAD[2:])
def test_theirs_are_there(peer: str) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    done = subprocess.run([sys.executable, "-m", peer, "--help"], capture_output=True, text=True, timeout=300)
    there = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout))
    column = HEAD.index(peer)
    assert {option for row in ROWS for option in options_of(row[column])} <= there
    named = {option for row in ROWS for option in options_of(row[1])}
    assert {option.flags[0] for option in OPTIONS} & there <= named  # which have the same name
    commands = [command for command in re.findall(r"`([^`]+)`", PAGE) if command.startswith(f"{peer} ")]
    assert commands
    assert {word for command in commands for word in command.split() if word.startswith("-")} <= there


def test_who_gives_theirs_is_told_ours() -> None:
    known = {flag.lstrip("-") for flag in OURS if flag.startswith("--")}
    for row in ROWS:
        ours = options_of(row[1])
        for theirs in set().union(*map(options_of, row[2:])) - OURS if ours else ():
            if theirs != "--worker-class":  # which is several things
                assert f"--{nearest_option(theirs.lstrip('-'), known)}" in ours, f"{theirs}, of {row[0]}"


def test_commands_are_understood() -> None:
    commands = re.findall(r"`clockworker-serve ([^`]+)`", PAGE)
    assert len(commands) == 5
    for command in commands:
        assert split_command_line(shlex.split(command), "")["app"]
