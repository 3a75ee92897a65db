"""What the core works with and knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from clockworker.executor._tasks_cy import JoinHandle, QueueState


class WorkSource(Protocol):
    """Work that comes from beside the loop, such as the rings of other shards."""

    def poll(self) -> bool:
        """Take in what has come and send off what is waiting. True if there was anything to take in."""

    def prepare_sleep(self) -> bool:
        """Called before the core leaves the thread to the loop with nothing runnable. From here on news must come through
        the loop. False if there is news already."""


class Tracer(Protocol):
    """Told of all that the pump does, while there is one. Times are the core's clock's, in ns."""

    def step(self, queue: QueueState, state: JoinHandle, started: int, ended: int) -> None:
        """One step of a task of the queue."""

    def turn(self, started: int, ended: int) -> None:
        """One turn on the loop."""
