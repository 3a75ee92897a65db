"""Every block of code of every page is run by a test: most pages are gone through by a reader, the others have tests of their
own, which know how many blocks there are."""

from __future__ import annotations

import configparser
import doctest
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clockworker.shards.config._arguments import split_command_line
from clockworker.shards.config._file import read_file
from tests.docs.reader import DOCS, FENCED, FILES, ROOT, RUN, SHOWN, Reader, blocks
from tests.shards.servers import DEADLINE

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# What the reader needs beside Clockworker.
READ = {
    "celery.md": ["fastapi"],
    "jobs.md": ["fastapi"],
    "own-loop.md": ["fastapi"],
    "queues.md": ["fastapi"],
    "stalls.md": ["fastapi", "prometheus_client"],
    "tutorial.md": ["fastapi", "prometheus_client"],
}

# Pages whose code is run by tests that do more with it, and of how many blocks they know.
TESTED = {
    "README.md": ("tests/test_readme.py", {"python": 2}),
    "calls.md": ("tests/test_readme.py", {"python": 2}),
    "changing-a-method.md": ("tests/shards/test_turnover.py", {}),
    "configuration.md": ("tests/test_readme.py", {"toml": 1}),
    "deploying/systemd.md": ("tests/docs/test_deploying.py", {"toml": 1}),
    "executor.md": ("tests/test_readme.py", {"python": 1}),
    "from-python.md": ("tests/shards/test_serve.py", {"python": 1}),
    "frameworks.md": ("tests/ecosystem/test_frameworks_guide.py", {"python": 3, "sh": 7, "toml": 1}),
    "http.md": ("tests/http/test_docs.py", {"python": 2, "toml": 1}),
    "preemption.md": ("tests/shards/test_preemption.py", {"python": 2, "toml": 1}),
    "processes.md": ("tests/shards/test_processes.py", {"python": 1}),
    "protocols.md": ("tests/test_readme.py", {"python": 1}),
    "runtimes.md": ("tests/trio/test_docs.py", {"python": 3}),
    "schedulers.md": ("tests/executor/test_schedulers_guide.py", {"python": 4, "toml": 1}),
    "state.md": ("tests/shards/test_state_guide.py", {"python": 7}),
    "testing.md": ("tests/testing/test_docs.py", {"python": 4}),
    "topics.md": ("tests/ecosystem/test_topics_guide.py", {"python": 3, "sh": 3}),
}

# Pages whose blocks of Python are programs, each by itself, that print what the comments behind their `print` say; and what
# they need.
PROGRAMS = {
    "runtimes.md": ["trio", "anyio"],
}

# What needs several machines and a broker: tests/cluster runs that. Here it is read by those who read it there.
PARSED = {"cluster.md": {"python", "toml", "yaml", "ini"}}

PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run(page: Path) -> None:
    kinds = Counter(kind for _, kind, _, _ in FENCED.findall(page.read_text()))
    name = name_of(page)
    if name in READ:
        assert kinds.keys() <= RUN | SHOWN
    elif name in PROGRAMS:
        assert kinds.keys() <= {"python", "text"}
    elif name in PARSED:
        assert kinds.keys() <= PARSED[name] | SHOWN
    elif name in TESTED:
        test, known = TESTED[name]
        assert {kind: count for kind, count in kinds.items() if kind not in SHOWN} == known
        assert (ROOT / test).exists()
    else:
        assert kinds.keys() <= SHOWN, f"{name} has code that no test runs: let it be read, in READ"


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, as the reader does")
def test_a_reader_of(name: str, tmp_path: Path) -> None:
    for module in READ[name]:
        pytest.importorskip(module)
    reader = Reader(tmp_path)
    try:
        reader.read_page(DOCS / name)
    finally:
        reader.clean_up()


def programs() -> list[tuple[str, str]]:
    found = [(name, block) for name in PROGRAMS for block in blocks(DOCS / name) if (DOCS / name).exists()]
    return [(name, block.text) for name, block in found if block.kind == "python"]


@pytest.mark.parametrize(("name", "program"), programs())
def test_programs_print_what_they_say(name: str, program: str, tmp_path: Path) -> None:
    for module in PROGRAMS[name]:
        pytest.importorskip(module)
    said = [comment.strip() for comment in re.findall(r"print\(.*\)  # (.*)$", program, re.MULTILINE)]
    assert said
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.stderr, done.returncode) == ("", 0)
    wanted = "".join(f"{line}\n" for line in said)
    assert doctest.OutputChecker().check_output(wanted, done.stdout, doctest.ELLIPSIS), done.stdout


@pytest.mark.parametrize("name", PARSED)
def test_what_is_for_other_machines_is_understood(name: str, tmp_path: Path) -> None:
    for block in blocks(DOCS / name):
        match block.kind:
            case "python":
                compile(block.text, name, "exec")
            case "toml":
                (tmp_path / "clockworker.toml").write_text(block.text)
                assert read_file(tmp_path / "clockworker.toml")
            case "yaml":
                assert list(pytest.importorskip("yaml").safe_load_all(block.text))
            case "ini":
                parser = configparser.ConfigParser(strict=False, interpolation=None)
                parser.read_string(block.text)


@pytest.mark.parametrize("name", READ)
def test_its_files_have_names(name: str) -> None:
    assert all(block.file for block in blocks(DOCS / name) if block.kind in FILES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_understood(page: Path) -> None:
    """Those of fenced blocks, of indented ones, and within a line."""
    text = page.read_text().replace("\\\n", " ")
    commands = re.findall(r"(?:^    (?:\$ )?|^(?:\$ )?|`)clockworker-serve ([^`\n]*)", text, re.MULTILINE)
    for command in commands:
        words = shlex.split(command.partition(" #")[0])
        if {"--version", "--help"} & {*words} or "..." in command or "…" in command:
            continue
        assert split_command_line(words, "") is not None, command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_and_tables_stand_apart(page: Path) -> None:
    """Of the paragraph before them, or Markdown takes them for a part of it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^(?!- |\d+\. |\||  |$|#).*\n(?:- |\d+\. |\|).*$", text, re.MULTILINE)
    assert found == []
