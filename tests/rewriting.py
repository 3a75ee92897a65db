"""pytest rewrites the assertions of each test module once, and keeps what comes of it beside the module. In a fresh clone all
workers collect the same modules at the same time, and each would rewrite each: half of what it does before its first test. So
each first does a part of them, and finds the others' done."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


def share_rewriting(config: pytest.Config) -> None:
    """In a worker: its part of the modules below the directories that are to be tested."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    hook = next((each for each in sys.meta_path if type(each).__name__ == "AssertionRewritingHook"), None)
    if worker is None or hook is None or sys.dont_write_bytecode:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
    found = sorted(path for argument in config.args for path in _modules(Path(argument)))
    for path in found[number::count]:
        _rewrite(hook, path)


def _modules(directory: Path) -> Iterable[Path]:
    return directory.rglob("test_*.py") if directory.is_dir() else ()


def _rewrite(hook: Any, path: Path) -> None:
    """By the loader that imports test modules: it rewrites the file, keeps that, and runs it. It is no import yet, and without
    builtins nothing can be run."""
    module = types.ModuleType(f"rewriting {path}")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, hook, origin=str(path))
    module.__dict__["__builtins__"] = {}
    with contextlib.suppress(Exception):
        hook.exec_module(module)
