# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Tasks and their states, by identity: looked up at every wake-up.

Compiled it is a table of pointers in the order of memory (`_page_table.pxd`). A dict costs four times as much; it takes the
table's place where tasks are too small for that (`_cpython_cy`, "spacing").

The table holds each state, and a state its task and the step that waits to run: nothing that is in it goes away. To the
collector of cycles all that is reachable from here is reachable from outside, so it need not look into states, their tasks
and steps while they are in the table, and does not. With many tasks that come and go its full runs were a third of all time.
Nor does it look into one that is done and was waited for, until who waited has gone on: mostly that was the last to know it.
The price: a loop that is dropped without being closed keeps its pending tasks, and `gc.get_objects()` does not name them
(`asyncio.all_tasks()` does).
"""

from __future__ import annotations

import asyncio
import operator
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._cpython_cy import holds
from clockworker.executor._tasks_cy import JoinHandle

if cython.compiled:
    from cython.cimports.clockworker.executor._native import Py_DECREF, Py_INCREF
    from cython.cimports.clockworker.executor._page_table import (
        ENTRIES,
        table_close,
        table_get,
        table_open,
        table_put,
        table_remove,
    )
    from cython.cimports.clockworker.executor._seam_cy import task_address, task_of
else:
    from clockworker.executor._pure import task_of


_SPACED = holds("spacing")
_KEEPS_HIDDEN = holds("refcount") and holds("gc")  # a C global when compiled
_ARRIVAL = operator.attrgetter("arrival", "tie")


@cython.final
@cython.cclass
class TaskTable:
    """Each task's JoinHandle."""

    _table: Any  # compiled: a PageTable, empty if there are
    _states: dict[int, JoinHandle] | None  # by the task's address

    def __init__(self) -> None:
        self._states = None if cython.compiled and _SPACED else {}
        if cython.compiled:
            table_open(cython.address(self._table), 6)

    def __dealloc__(self) -> None:  # of compiled classes only
        table_close(cython.address(self._table))

    def get(self, task: asyncio.Task[Any]) -> JoinHandle | None:
        """What is kept of the task; None: it is none of ours."""
        if cython.compiled:
            found = table_get(cython.address(self._table), cython.cast(cython.p_void, task))
            if found != cython.NULL:
                return cython.cast(JoinHandle, found)  # type: ignore[no-any-return]
        return None if self._states is None else self._states.get(id(task))

    def find(self, callback: Any, argument: Any) -> JoinHandle | None:
        """That of the task whose step (then `argument` is None) or wake-up this is."""
        if cython.compiled:
            found = table_get(cython.address(self._table), cython.cast(cython.p_void, task_address(callback, argument)))
            if found != cython.NULL:
                return cython.cast(JoinHandle, found)  # type: ignore[no-any-return]
        return None if self._states is None else self._states.get(id(task_of(callback, argument)))

    def put(self, state: JoinHandle) -> None:
        """A new one. Its task must not be here yet."""
        if self._states is not None:
            self._states[id(state.task)] = state
        elif cython.compiled:
            table_put(
                cython.address(self._table),
                cython.cast(cython.p_void, state.task),
                cython.cast(cython.p_void, state),
            )
            Py_INCREF(state)
        state.hide()

    def remove(self, state: JoinHandle, keep_hidden: bool) -> None:
        """One that is here. Who keeps it hidden from the collector has to show it in the end."""
        if self._states is not None:
            was_here = self._states.pop(id(state.task), None) is not None
        else:
            was_here = table_remove(cython.address(self._table), cython.cast(cython.p_void, state.task))
        if was_here:
            if keep_hidden and _KEEPS_HIDDEN:
                state.hidden = True
            else:
                state.show()
            if cython.compiled and self._states is None:
                Py_DECREF(state)

    def states(self) -> list[JoinHandle]:
        """All, the oldest first."""
        if self._states is not None:
            return list(self._states.values())
        found = [
            cython.cast(JoinHandle, self._table.slots[at].entries[entry])
            for at in range(self._table.mask + 1)
            if self._table.slots[at] != cython.NULL
            for entry in range(ENTRIES)
            if self._table.slots[at].entries[entry] != cython.NULL
        ]
        found.sort(key=_ARRIVAL)
        return found

    def clear(self) -> None:
        """Let all tasks go; they stay what they are."""
        for state in self.states():
            self.remove(state, False)
