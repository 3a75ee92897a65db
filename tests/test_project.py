"""What a project has beside its code: workflows, metadata, typing as users see it, and an import that is cheap."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import clockworker
from tests.docs.test_deploying import check_schema

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release", "wheels"]
    actionlint = shutil.which("actionlint") or shutil.which("actionlint", path=str(Path(sys.executable).parent))
    if actionlint is None:
        pytest.skip("actionlint is not installed")
    done = run(actionlint, *map(str, WORKFLOWS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_schemas_of_workflows_and_of_the_hooks() -> None:
    check_schema("vendor.github-workflows", *WORKFLOWS)


def test_wheels_are_of_the_versions_that_ci_runs() -> None:
    named = {
        f"cp{version.replace('.', '')}-*"
        for version in re.findall(r":: (3\.\d+)'", str(PROJECT["project"]["classifiers"]))
    }
    assert set(PROJECT["tool"]["cibuildwheel"]["build"].split()) == named
    assert PROJECT["project"]["urls"].keys() >= {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}


def test_the_changelog_is_by_release() -> None:
    """Under Added, Changed and Fixed, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert releases[0] in (clockworker.__version__, "Unreleased")
    assert clockworker.__version__ in releases
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (\w+)$", release, re.MULTILINE)
        assert kinds == [kind for kind in ("Added", "Changed", "Fixed") if kind in kinds]
        assert kinds
        assert not re.search(r"^- ", release.partition("### ")[0], re.MULTILINE)


# What `import clockworker` brings beside uvloop's own, and why. Each takes time of everybody's start; one more wants a reason.
IMPORTED = {
    "clockworker",
    "msgspec",  # the wire, and configuration
    "typing_extensions",  # msgspec's, where it is installed
}

# Of the standard library, what takes longest: none of these before it is used.
LATE = {
    "argparse",
    "email",
    "http.client",
    "importlib.metadata",
    "json",
    "multiprocessing",
    "psutil",
    "tomllib",
    "unittest",
    "urllib.request",
}


def modules_of(code: str) -> set[str]:
    done = run(sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps([*sys.modules]))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_import_brings_little() -> None:
    """In modules, and not in time, which depends on the machine."""
    new = modules_of("import clockworker; clockworker.Shard") - modules_of("import uvloop, asyncio")
    from_elsewhere = {name.split(".")[0] for name in new} - {*sys.stdlib_module_names}
    assert {name for name in from_elsewhere if not name.startswith("_")} <= IMPORTED
    assert new & LATE == set()


@pytest.mark.slow
def test_mypy_and_pyright_agree() -> None:
    """On what users write: what does not fit is refused by both, since an unused `type: ignore` is an error to both."""
    pyright = Path(sys.executable).with_name("pyright")
    if not pyright.exists():
        pytest.skip("pyright is not installed")
    done = run(str(pyright), "--outputjson")
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] >= 1
    assert [
        f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in said["generalDiagnostics"]
        if each["severity"] == "error"
    ] == []
