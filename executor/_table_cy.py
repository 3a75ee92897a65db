# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Tasks and their states, by identity: looked up at every wake-up.

Compiled it is a table of pointers in the order of memory (`_page_table.pxd`). A dict costs four times as much.

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
    from cython.cimports.clockworker.executor._seam_cy import task_address


_ARRIVAL = operator.attrgetter("arrival", "tie")


@cython.final
@cython.cclass
class TaskTable:
    """Each task's JoinHandle."""

    _table: Any  # compiled: a PageTable

    def __init__(self) -> None:
        if cython.compiled:
            table_open(cython.address(self._table), 6)
        else:
            self._states: dict[asyncio.Task[Any], JoinHandle] = {}

    def __dealloc__(self) -> None:  # of compiled classes only
        table_close(cython.address(self._table))

    def get(self, task: asyncio.Task[Any]) -> JoinHandle | None:
        if not cython.compiled:
            return self._states.get(task)
        found = table_get(cython.address(self._table), cython.cast(cython.p_void, task))
        return None if found == cython.NULL else cython.cast(JoinHandle, found)

    def find(self, callback: Any, argument: Any) -> JoinHandle | None:
        """That of the task whose step (then `argument` is None) or wake-up this is."""
        if not cython.compiled:
            return self._states.get(callback.__self__)
        found = table_get(cython.address(self._table), cython.cast(cython.p_void, task_address(callback, argument)))
        return None if found == cython.NULL else cython.cast(JoinHandle, found)

    def put(self, state: JoinHandle) -> None:
        """A new one. Its task must not be here yet."""
        if cython.compiled:
            table_put(
                cython.address(self._table),
                cython.cast(cython.p_void, state.task),
                cython.cast(cython.p_void, state),
            )
            Py_INCREF(state)
            state.hide()
        else:
            self._states[state.task] = state

    def remove(self, state: JoinHandle, keep_hidden: bool) -> None:
        """One that is here. Who keeps it hidden from the collector has to show it in the end."""
        if cython.compiled:
            if table_remove(cython.address(self._table), cython.cast(cython.p_void, state.task)):
                if keep_hidden:
                    state.hidden = True
                else:
                    state.show()
                Py_DECREF(state)
        else:
            self._states.pop(state.task, None)

    def states(self) -> list[JoinHandle]:
        """All, the oldest first."""
        if not cython.compiled:
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
        for state in self.states():
            self.remove(state, False)
