"""`python -m bench._pure NAME [options]`: a benchmark as `python -m bench` runs it, with clockworker's compiled modules hidden.

Their sources lie beside them and are imported instead, here and in the processes that multiprocessing spawns from here, which
import this module too. What it measures is what is installed where no compiler is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType


class _SourcesOnly:
    """Of clockworker's modules. A finder for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith("clockworker."):
            return None
        for directory in path:
            spec = FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        return None


sys.meta_path.insert(0, _SourcesOnly)

if __name__ == "__main__":
    from bench.__main__ import main  # not before: it imports clockworker

    sys.exit(main())
