"""What shards say, and whom it concerns."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

import msgspec

from clockworker._errors import ControlError
from clockworker.shards.protocol._control_channel import DescriptorsLost
from clockworker.shards.protocol._messages import (
    Declared,
    Drained,
    Failed,
    Held,
    IsShut,
    ListenersClosed,
    NoRoom,
    NotTaken,
    Poisoned,
    Quiet,
    Ready,
    Running,
    Serves,
    Stirred,
    Taken,
    Terminated,
    Traced,
    Unconnected,
)
from clockworker.shards.supervisor._drain import Drain
from clockworker.shards.supervisor._member import Member
from clockworker.shards.supervisor._process import ShardProcess
from clockworker.shards.supervisor._roll import Roll
from clockworker.shards.supervisor._shutdown import Shutdown
from clockworker.shards.supervisor._tracing import Tracing
from clockworker.shards.supervisor._watch import Watch
from clockworker.shards.supervisor._wiring import Wiring

log = logging.getLogger("clockworker.supervisor")


class Reports(msgspec.Struct, frozen=True):
    """What the supervisor hears itself. ready: a shard has started. serves: it has a server for this bind, of so many
    connections. worn: it asks for a successor, for this reason. refused: the system has not enough of something for it.
    failed: it cannot start."""

    ready: Callable[[Member, ShardProcess, Ready], None]
    serves: Callable[[Member, ShardProcess, str, int | None], None]
    worn: Callable[[Member, str], None]
    refused: Callable[[Member, str], None]
    failed: Callable[[Member, Failed], None]


class Hearing:
    """Of all shards. A shard that sends nonsense is killed."""

    def __init__(
        self,
        tracing: Tracing,
        watch: Watch,
        wiring: Wiring,
        drain: Drain,
        roll: Roll,
        shutdown: Shutdown,
        reports: Reports,
    ) -> None:
        self._tracing = tracing
        self._watch = watch
        self._wiring = wiring
        self._drain = drain
        self._roll = roll
        self._shutdown = shutdown
        self._reports = reports

    def read(self, member: Member, process: ShardProcess) -> None:
        """All that waits in the channel."""
        try:
            while True:
                try:
                    received = process.channel.receive()
                except DescriptorsLost as lost:
                    log.error("%s: %s", member, lost)
                    self._tracing.ended(process)
                    continue
                if received is None:  # its end shows at the pidfd
                    asyncio.get_running_loop().remove_reader(process.channel.fileno())
                    return
                self._handle(member, process, *received)
        except BlockingIOError:
            pass
        except OSError as error:  # no memory: what waits is read at the next turn
            log.error("what %s says cannot be read yet: %s", member, error.strerror)
        except ControlError as error:
            log.error("%s sent nonsense: %s: killed", member, error)
            asyncio.get_running_loop().remove_reader(process.channel.fileno())
            process.kill()

    def _handle(self, member: Member, process: ShardProcess, message: object, descriptors: list[int]) -> None:
        match message, descriptors:
            case Traced(), [recording]:
                self._tracing.arrived(process, recording)
                return
            case Traced(), []:  # lost on its way for want of descriptors
                self._tracing.ended(process)
                return
        for descriptor in descriptors:  # nobody has asked for these
            os.close(descriptor)
        match message:
            case Declared(queues):
                process.slots.declare(queues)
            case Ready():
                self._reports.ready(member, process, message)
            case Serves(bind, limit):
                self._reports.serves(member, process, bind, limit)
            case Stirred():
                self._watch.stirred()
            case Terminated(reason):
                self._reports.worn(member, reason or "was sent SIGTERM")
            case ListenersClosed():
                self._shutdown.no_longer_accepts(process)
            case Drained() if self._drain.together:
                self._drain.drained(member)
            case Drained():
                self._roll.drained(member)
            case Quiet(peer):
                self._roll.quiet(process, peer)
            case Held():
                self._roll.held(process)
            case IsShut():
                self._roll.is_shut(process)
            case Running(methods):
                self._roll.running(process, methods)
            case Taken(size):
                self._roll.taken(process, size)
            case NotTaken(problem, traceback):
                self._roll.not_taken(process, "\n".join(filter(None, (problem, traceback))))
            case Failed():
                self._reports.failed(member, message)
            case Unconnected(peer, epoch):
                self._wiring.unconnected(member, process, peer, epoch)
            case NoRoom(reason):
                self._reports.refused(member, reason)
            case Poisoned(peer, epoch):
                self._wiring.poisoned(member, process, peer, epoch)
            case _:
                raise ControlError(f"{type(message).__name__} is for shards")
