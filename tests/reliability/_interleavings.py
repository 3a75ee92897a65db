"""All interleavings of two processes on memory with store buffers (x86-TSO), of the code itself.

A process is a function that reaches shared memory only through `Memory`. It is deterministic but for what it loads, so its
state is the list of its loads' results: it is run again from the start with these until it wants the next operation, which
is remembered for the list. Thus whole states (both lists, memory, both buffers, bells) can be compared, and each is
explored once. A store goes into its process's buffer and is drained, oldest first, at any later moment; a fence waits for the
buffer to be empty; a load sees the own buffer first. The eventfds are the kernel's: what is added to them is there at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Operation = tuple[str, int, int]  # what, where, value
Words = tuple[tuple[int, int], ...]  # sorted; those that are not zero


class _Pause(BaseException):
    """The process wants something that it has no result of yet."""


class _Run:
    def __init__(self, results: tuple[int, ...]) -> None:
        self.results = iter(results)
        self.wanted: Operation | None = None

    def do(self, what: str, where: int = 0, value: int = 0) -> int:
        for result in self.results:
            return result
        self.wanted = (what, where, value)
        raise _Pause


_running = _Run(())  # the process that is run again


class Memory:
    """What a module under test takes for a SharedMemory. Its words begin at descriptor * 1 MiB."""

    def __init__(self, descriptor: int, size: int = 1 << 16) -> None:
        self.size = size
        self._base = descriptor << 20

    def close(self) -> None:
        pass

    def load(self, offset: int) -> int:
        return _running.do("load", self._base + offset)

    def store(self, offset: int, value: int) -> None:
        _running.do("store", self._base + offset, value)

    def fence(self) -> None:
        _running.do("fence")

    def read(self, offset: int, length: int) -> bytes:
        words = (self.load(offset + at).to_bytes(8, "little") for at in range(0, length, 8))
        return b"".join(words)[:length]

    def read_into(self, target: bytearray, at: int, offset: int, length: int) -> None:
        target[at : at + length] = self.read(offset, length)

    def write(self, offset: int, data: bytes, start: int, length: int) -> None:
        for at in range(0, length, 8):
            piece = data[start + at : start + min(at + 8, length)]
            self.store(offset + at, int.from_bytes(piece, "little"))


class EventFd:
    """In place of `os` in the doorbell's module."""

    @staticmethod
    def close(eventfd: int) -> None:
        pass

    @staticmethod
    def sched_getaffinity(process: int) -> set[int]:
        return {0}

    @staticmethod
    def eventfd_read(eventfd: int) -> int:
        value = _running.do("read", eventfd)
        if value == 0:
            raise BlockingIOError
        return value

    @staticmethod
    def eventfd_write(eventfd: int, value: int) -> None:
        _running.do("ring", eventfd, value)


def wait_for(eventfd: int) -> None:
    """Sleep until it can be read. Of the process that is run."""
    _running.do("wait", eventfd)


def explore(
    processes: tuple[Callable[[], Any], Callable[[], Any]],
    memory: dict[int, int],
    judge: Callable[[Any, Any, dict[int, int]], None],
) -> int:
    """Run both in every interleaving. `judge` is given what they returned, None if they wait for ever, and what is in each
    eventfd, and raises.

    The number of states.
    """
    next_operations: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})

    def look(process: int, results: tuple[int, ...]) -> tuple[Operation | None, Any]:
        known = next_operations[process].get(results)
        if known is None:
            global _running
            _running = run = _Run(results)
            try:
                known = (None, processes[process]())
            except _Pause:
                known = (run.wanted, None)
            next_operations[process][results] = known
        return known  # type: ignore[no-any-return]

    start: Any = (((), ()), tuple(sorted(memory.items())), ((), ()), ())
    seen: set[Any] = {start}
    todo: list[Any] = [start]
    while todo:
        results, words, buffers, bells = todo.pop()
        successors = []
        outcomes: list[Any] = []
        for process in (0, 1):
            own = buffers[process]
            if own:
                where, value = own[0]
                drained = tuple(sorted({**dict(words), where: value}.items()))
                successors.append((results, drained, _put(buffers, process, own[1:]), bells))
            wanted, outcome = look(process, results[process])
            if wanted is None:
                outcomes.append(outcome)
                continue
            what, where, value = wanted
            result, after, rung = 0, buffers, bells
            if what == "load":
                stored = [stored for at, stored in own if at == where]
                result = stored[-1] if stored else dict(words).get(where, 0)
            elif what == "store":
                after = _put(buffers, process, (*own, (where, value)))
            elif what == "ring":
                rung = _add(bells, where, value)
            elif what == "read":
                result = dict(bells).get(where, 0)
                rung = _add(bells, where, -result)
            elif what == "wait":
                if not dict(bells).get(where):
                    outcomes.append(None)
                    continue
            elif own:  # a fence
                continue
            successors.append((_put(results, process, (*results[process], result)), words, after, rung))
        if len(outcomes) == 2 and not buffers[0] and not buffers[1]:
            judge(outcomes[0], outcomes[1], dict(bells))
        for successor in successors:
            if successor not in seen:
                seen.add(successor)
                todo.append(successor)
    return len(seen)


def _add(bells: tuple[tuple[int, int], ...], eventfd: int, value: int) -> tuple[tuple[int, int], ...]:
    counts = dict(bells)
    counts[eventfd] = counts.get(eventfd, 0) + value
    return tuple(sorted((bell, count) for bell, count in counts.items() if count))


def _put(pair: tuple[Any, Any], index: int, value: Any) -> tuple[Any, Any]:
    return (value, pair[1]) if index == 0 else (pair[0], value)
