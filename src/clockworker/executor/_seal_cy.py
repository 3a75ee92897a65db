# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""Compiled types whose instances come complete or not at all.

C reads fields without asking. An instance that no `__init__` has finished, made by `X.__new__(X)`, by copy or pickle, or by
a subclass whose own `__init__` forgets ours, would be read all the same: a segmentation fault, out of plain Python. So a
compiled type loses its `__new__` and cannot have subclasses. A call of the type still makes one, and its `__init__` has the
last word and may refuse. Our own C code makes some without `__init__`, and fills in all fields. That costs nothing where
they are made.

The others are named, where they are sealed: those that are there to be subclassed bear to be half made.

Rejected: asking each field for None (Cython's `nonecheck`), which every step would pay for dozens of times. Not compiled,
nothing can crash, and nothing is done.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._cpython_cy import holds


def compiled_types(package: str) -> list[type]:
    """Those that the compiled modules of a package define. Not compiled: the classes of the same modules."""
    return [
        found
        for name, module in sorted(sys.modules.items())
        if name.startswith(f"{package}.") and name.endswith("_cy")
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == name
    ]


def seal_package(package: str, but: Collection[type]) -> None:
    """Seal all compiled types of the package but those that are open."""
    if cython.compiled and holds("seal"):
        for found in compiled_types(package):
            if found not in but:
                seal(found)  # type: ignore[name-defined]  # noqa: F821
