"""The package's own source with a piece of it changed, to see what notices."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

import clockworker as cw


class Mutation(msgspec.Struct, frozen=True):
    """module: where it is in the package, without `.py`."""

    module: str
    before: str
    after: str


def copy_package(directory: Path) -> Path:
    """The package's sources without their compiled modules, to import from `directory`."""
    copied = directory / "clockworker"
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(Path(cw.__file__).parent, copied, ignore=ignored)
    return copied


def mutate(package: Path, mutation: Mutation) -> None:
    """Raises AssertionError unless there is exactly one place for it."""
    file = package / f"{mutation.module}.py"
    text = file.read_text()
    if (places := text.count(mutation.before)) != 1:
        raise AssertionError(f"{mutation.module} has {places} places for the mutation {mutation.before!r}, not one")
    file.write_text(text.replace(mutation.before, mutation.after))
