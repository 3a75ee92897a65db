"""Source distributions of others, fetched for a run and gone with it: nothing of theirs is copied into the project."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
from pathlib import Path


class NotFetched(Exception):
    """Its message says what was asked for, and what pip said."""


def installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise NotFetched(f"{name} is not installed, so there is no version to compare with") from None


def fetch_sdist(name: str, directory: Path) -> Path:
    """Unpack the sdist of the installed version into `directory`, by pip as it is configured here. Returns its folder."""
    version = installed_version(name)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", name, "--dest", str(directory), f"{name}=={version}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = sorted(directory.glob(f"{name}-*.tar.gz"))
    if ended.returncode or not found:
        raise NotFetched(f"pip could not fetch the sdist of {name} {version}:\n{ended.stdout}{ended.stderr}")
    with tarfile.open(found[0]) as archive:
        archive.extractall(directory, filter="data")
    return directory / found[0].name.removesuffix(".tar.gz")
