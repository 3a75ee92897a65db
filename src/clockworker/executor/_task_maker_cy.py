# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Making tasks: `asyncio.Task(coroutine, loop=..., name=..., context=...)`, for less.

Half of what a spawn costs is this call. What can be spared is around the constructor:

- One dictionary of keywords for all tasks. Making it would be a tenth of the work, and most tasks are named like the last.
- A name that is at hand. CPython 3.11 makes asyncio's Task-12 for each task, which costs as much as its first step.
- No context made only to be handed over: a Task copies the current one by itself.

While the constructor allocates memory, the collector may run a finalizer, and that may spawn. Then the dictionary is in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._tasks_cy import Membership

if cython.compiled:
    from cython.cimports.clockworker.executor._native import PyContext_Enter, PyContext_Exit, PyObject_Call

# A C global when compiled: an attribute of a module would be looked up at each spawn.
_Task = asyncio.Task


@cython.final
@cython.cclass
class TaskMaker:
    """Makes the tasks of one loop that has no task factory."""

    _loop: asyncio.AbstractEventLoop | None
    _keywords: dict[str, Any]
    _name_in_keywords: str | None
    _constructing: bool  # a task, with these keywords

    def __init__(self) -> None:
        self._loop = None
        self._keywords = {}
        self._name_in_keywords = None
        self._constructing = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on tasks are this loop's."""
        self._loop = loop
        self._keywords = {"loop": loop, "name": None}
        self._name_in_keywords = None

    def detach(self) -> None:
        self._loop = None
        self._keywords = {}

    def make(self, coroutine: Coroutine[Any, Any, Any], name: str | None, membership: Membership) -> asyncio.Task[Any]:
        """A task of the membership. Without a name it has its coroutine's."""
        if name is None:
            name = getattr(coroutine, "__qualname__", None)
        if not cython.compiled or self._constructing:
            return _Task(coroutine, loop=self._loop, name=name, context=membership.context())
        within = membership.context_to_copy()
        self._constructing = True
        if within is not None:
            PyContext_Enter(within)
        try:
            if name is not self._name_in_keywords:
                self._keywords["name"] = self._name_in_keywords = name
            return PyObject_Call(_Task, (coroutine,), self._keywords)  # type: ignore[no-any-return]
        finally:
            if within is not None:
                PyContext_Exit(within)
            self._constructing = False
