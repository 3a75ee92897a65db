"""The outcome of a task that returned; the others are errors: TaskPanicked and TaskCancelled."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Ok(msgspec.Struct, Generic[T], frozen=True):
    """The task returned `value`."""

    value: T
