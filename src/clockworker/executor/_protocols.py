"""What the core works with and knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from clockworker.executor._tasks_cy import JoinHandle, QueueState


class Tracer(Protocol):
    """Told of all that the pump does, while there is one. Times are the core's clock's, in ns."""

    def step(self, queue: QueueState, state: JoinHandle, started: int, ended: int) -> None:
        """One step of a task of the queue."""

    def turn(self, started: int, ended: int) -> None:
        """One turn on the loop."""


class CutTracer(Tracer, Protocol):
    """One that is told apart of the slices of a step that end with a cut: by `cut_step` alone. The last slice is a step."""

    def cut_step(self, queue: QueueState, state: JoinHandle, started: int, ended: int, stolen: int) -> None:
        """One slice of a step, which goes on later. Others had `stolen` of its time."""


class StealTracer(Tracer, Protocol):
    """One that is told, too, what others had of a step's time: those steps are told of by `stolen_step` alone."""

    def stolen_step(self, queue: QueueState, state: JoinHandle, started: int, ended: int, stolen: int) -> None:
        """One step, of whose time others had `stolen`. The rest was charged."""
