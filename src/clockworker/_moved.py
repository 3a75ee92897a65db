"""Private modules under the names that they had in 0.1, when packages had no rooms: `clockworker.ipc._frames` is
`clockworker.ipc.calls._frames`. Private names are nobody's to rely on, and some did, to look inside: reproducers of faults,
debuggers. They get the module itself and a DeprecationWarning; 0.3 does without.

The finder is asked last, for what is in no other place, so imports pay nothing for it.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class MovedIntoRooms:
    """A finder for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if not package.startswith("clockworker.") or not module.startswith("_"):
            return None
        for directory in path or ():
            for room in sorted(os.listdir(directory)):
                if os.path.exists(os.path.join(directory, room, f"{module}.py")):
                    return ModuleSpec(name, _Alias(f"{package}.{room}.{module}"))  # type: ignore[arg-type]
        return None


class _Alias:
    """A loader that gives the module of that name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved: it is {self._name}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has replaced


def come_last() -> None:
    """Be asked, once all other finders have found nothing."""
    sys.meta_path.append(MovedIntoRooms)
