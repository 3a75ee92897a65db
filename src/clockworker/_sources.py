"""`CLOCKWORKER_PURE=1`: compiled modules are left alone, and their sources, which lie beside them, run instead.

What is installed stays as it is. Processes that inherit the environment, as a server's shards do, decide the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType


class SourcesFirst:
    """A finder for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Where this package's module is, if the others would find it compiled."""
        if not name.startswith("clockworker."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
            return None
        directory = os.path.dirname(spec.loader.path)
        source = os.path.join(directory, f"{name.rpartition('.')[2]}.py")
        if not os.path.exists(source):
            raise ImportError(f"CLOCKWORKER_PURE is set, and {source} is not there", name=name, path=source)
        return spec_from_file_location(name, source)


def come_first() -> None:
    """From here on compiled modules of this package are not loaded."""
    sys.meta_path.insert(0, SourcesFirst)
