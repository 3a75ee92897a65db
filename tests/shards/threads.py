"""Threads that do their work while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Threads:
    """One for each function. `over` says that the block has ended: a function that repeats itself looks at it."""

    def __init__(self, *functions: Callable[[], object]) -> None:
        self.over = threading.Event()
        self._threads = [threading.Thread(target=function) for function in functions]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()
