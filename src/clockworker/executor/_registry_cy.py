# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""asyncio's set of all tasks, and how tasks get into it.

A Task's constructor calls `add` of a WeakSet, from which `asyncio.all_tasks()` reads: a function in Python, which makes a weak
reference, which calls another when the task goes. Together they are a third of what a spawn costs. While an executor is
attached,

- a task that is made in a queue, by `spawn` or by whatever library, is left out: it is in the executor's own table until it is
  done. The set is of a subclass that, when asked, names those as well.
- `add` does the same as ever to all others, in C when compiled.

With the last executor everything is as it was before the first. Where the set is not what we assume (`_cpython_cy`) it is left
alone, and no task is left out: CPython 3.14 has a list in C instead, which costs next to nothing.

Rejected: replacing `asyncio.all_tasks`, of which other modules have their own references.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._cpython_cy import find_registry, holds


class _Entry(Protocol):
    @property
    def task(self) -> asyncio.Task[Any]: ...


class Owner(Protocol):
    """Who keeps tasks that were left out."""

    def tasks(self) -> Sequence[_Entry]: ...


_owners: list[Owner] = []
_registry: Any = None  # the set, while it is ours
_left_out = 0  # the task's id, when not compiled


class _TasksOfAll(weakref.WeakSet[asyncio.Task[Any]]):
    """What the set is while executors are attached."""

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        yield from weakref.WeakSet.__iter__(self)
        yield from _owned()

    def __len__(self) -> int:
        return weakref.WeakSet.__len__(self) + len(_owned())

    def __contains__(self, task: object) -> bool:
        return weakref.WeakSet.__contains__(self, task) or task in _owned()


def attach(owner: Owner) -> None:
    """From now on the owner may leave out tasks."""
    global _registry
    _owners.append(owner)
    if _registry is not None:
        return
    found = find_registry() if holds("registry") else None
    if found is not None:
        found.add = _new_add(found)
        found.__class__ = _TasksOfAll
        _registry = found


def detach(owner: Owner) -> None:
    """The owner's tasks are asyncio's again."""
    global _registry
    _owners.remove(owner)
    if _registry is not None:
        for entry in owner.tasks():
            weakref.WeakSet.add(_registry, entry.task)
        if not _owners:
            del _registry.add
            _registry.__class__ = weakref.WeakSet
            _registry = None


def leave_out(task: asyncio.Task[Any]) -> None:
    """The task, which is under construction, has an owner. `add` is about to be called with it."""
    if cython.compiled:
        set_left_out(task)  # type: ignore[name-defined]  # noqa: F821
    else:
        global _left_out
        _left_out = id(task)


def leave_out_if_new(task: asyncio.Task[Any]) -> None:
    """`leave_out`, if the task is under construction, as most are whose first step an owner sees. One that is in the set has a
    weak reference. If `add` is not called for it after all, it has been left out already."""
    if cython.compiled:
        if not has_weak_references(task):  # type: ignore[name-defined]  # noqa: F821
            set_left_out(task)  # type: ignore[name-defined]  # noqa: F821
    elif weakref.getweakrefcount(task) == 0:
        leave_out(task)


def _owned() -> list[asyncio.Task[Any]]:
    return [entry.task for owner in list(_owners) for entry in owner.tasks()]


def _new_add(registry: Any) -> Any:
    if cython.compiled:
        data, iterating, pending = registry.data, registry._iterating, registry._pending_removals
        discard = new_registry_method(1, (data, iterating, pending))  # type: ignore[name-defined]  # noqa: F821
        return new_registry_method(0, (data, iterating, pending, discard, registry._commit_removals))  # type: ignore[name-defined]  # noqa: F821

    def add(task: asyncio.Task[Any]) -> None:
        global _left_out
        left_out, _left_out = _left_out, 0
        if id(task) != left_out:
            weakref.WeakSet.add(registry, task)

    return add
