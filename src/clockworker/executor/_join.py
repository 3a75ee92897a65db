"""`JoinHandle` for type checkers: a compiled class cannot be generic, and this one must know the value's type."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Hashable
    from typing import Any, Generic, TypeVar

    from clockworker._errors import TaskCancelled, TaskPanicked
    from clockworker.executor._outcome import Ok

    T = TypeVar("T")

    class JoinHandle(Generic[T]):
        task: asyncio.Task[T]
        group: Hashable
        service_ns: int

        def __await__(self) -> Generator[Any, None, T]: ...
        async def outcome(self) -> Ok[T] | TaskPanicked | TaskCancelled: ...
        def abort(self) -> bool: ...
        def done(self) -> bool: ...

else:
    from clockworker.executor._tasks_cy import JoinHandle

__all__ = ["JoinHandle"]
