"""The installation, from a copy of the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", "77")
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    return copy


def build(sources: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOCKWORKER_")} | variables
    return subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True, check=False)


def binaries(sources: Path) -> list[Path]:
    return list((sources / "src").rglob("*.so"))


def fails_on(module: str, directory: Path) -> str:
    """A compiler that compiles all but this: it makes the files that it is asked for, empty."""
    compiler = directory / "cc"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *{module}.c*) exit 1;; esac\n'
        'while [ "$1" != -o ]; do shift; done\nmkdir -p "$(dirname "$2")" && : >"$2"\n'
    )
    compiler.chmod(0o755)
    return str(compiler)


def test_modules_are_compiled_together_or_not_at_all(sources: Path, tmp_path: Path) -> None:
    # The longest comes first, the shortest last: by then the others are there.
    done = build(sources, CC=fails_on("_jobs_cy", tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"modules on {len(os.sched_getaffinity(0))} CPUs" in done.stdout
    assert "installed as pure Python" in done.stderr
    assert binaries(sources) == []
    # And a failure is an error, if that is asked for. (By now all is translated to C, which takes longest.)
    done = build(sources, CC="false", CLOCKWORKER_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert binaries(sources) == []
