"""A process in which a package is as if it were not installed."""

from __future__ import annotations

import importlib.util
import sys


def hide(package: str) -> None:
    """From now on an import of the package fails, and `importlib.util.find_spec` does not find it."""
    sys.modules[package] = None  # type: ignore[assignment]  # documented: such an import raises ModuleNotFoundError
    if importlib.util.find_spec(package) is not None:
        raise RuntimeError(f"{package} is still found")
