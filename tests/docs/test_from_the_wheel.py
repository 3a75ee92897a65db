"""The tutorial from the first word on, as by somebody who has nothing yet: an empty folder, a new environment, `pip install`
of the wheel, and then all that it says, up to the deployed, rolled and measured server.

`TESTS_WHEEL` names a wheel; without it one is built from the sources, pure, since compiling has tests of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.docs.reader import DOCS, ROOT, Reader

pytestmark = [pytest.mark.slow, pytest.mark.once]

SECONDS = 900


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    if given := os.environ.get("TESTS_WHEEL"):
        return Path(given).resolve()
    pytest.importorskip("setuptools", "77")
    pytest.importorskip("Cython")
    sources = directory / "sources"  # a build leaves files behind
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info", "build", ".git", "site", ".venv*")
    sources.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "src", sources / "src", ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(directory),
        str(sources),
    ]
    environment = os.environ | {"CLOCKWORKER_PURE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("*.whl")
    return built


def test_a_wheel_has_what_is_no_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    sources = ROOT / "src"
    others = [path for path in sources.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg", ".typed", ".pxd")]
    assert len(others) > 20
    assert {str(path.relative_to(sources)) for path in others} <= names


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, as the tutorial's reader does")
def test_the_tutorial_from_pip_install_on(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    if subprocess.run([python, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "msgspec"]).returncode:
        pytest.skip("there is no package index to be had")
    folder = tmp_path / "empty"
    folder.mkdir()
    reader = Reader(folder, python, wheel)
    try:
        reader.read_page(DOCS / "tutorial.md")
    finally:
        reader.clean_up()
    assert reader.servers == 5
