"""The process of one shard: `python -m clockworker.shards._child`, started by the supervisor and by nobody else.

In order: tie this process's life to the supervisor's, read what to do, import the application, and only then make loop,
executor and mesh, and run `main(shard)` in the first queue. What the supervisor says meanwhile waits in the channel.

No orphans: the kernel kills this process when the supervisor dies (PR_SET_PDEATHSIG), even in the middle of a step that
never ends; the end of file on the control channel says the same to a process that the first has somehow missed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvloop

from clockworker._errors import (
    ApplicationError,
    ConfigurationError,
    ControlError,
    TaskCancelled,
    TaskPanicked,
    UnknownQueue,
)
from clockworker.executor import Executor, JoinHandle, Ok, Queue
from clockworker.ipc import Limits, Mesh
from clockworker.shards._application import Main, format_traceback, load_application
from clockworker.shards._birth import CONTROL_VARIABLE, SUPERVISOR_VARIABLE, TERMINAL_SIGNALS
from clockworker.shards._control import (
    Begin,
    Channel,
    Configure,
    Connect,
    Disconnect,
    Drained,
    Failed,
    Held,
    Hold,
    Leave,
    Poisoned,
    Ready,
    Release,
    Reopen,
    StartTrace,
    Stirred,
    Stop,
    TakeAll,
    Traced,
)
from clockworker.shards._health import HealthPolicy
from clockworker.shards._host import die_with_parent, set_process_title
from clockworker.shards._logging import reopen, set_up_logging
from clockworker.shards._pulse import Pulse
from clockworker.shards._recorder import Recorder
from clockworker.shards._shard import Handover, Shard
from clockworker.shards._slots import SlotWriter
from clockworker.shards._slow import log_slow_polls
from clockworker.shards._trace import Trace
from clockworker.shards._witness import start_witness

log = logging.getLogger("clockworker.shard")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_ORPHANED = 1
EXIT_START_UP = 3

QUIET_LOOK_S = 0.005
TRACEBACK_LIMIT = 15_000  # characters, of up to 4 bytes each: has to fit into a message


def main() -> None:
    if not die_with_parent(int(os.environ.pop(SUPERVISOR_VARIABLE))):
        sys.exit(EXIT_ORPHANED)
    _take_signals()
    descriptor = int(os.environ.pop(CONTROL_VARIABLE))
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    received = channel.receive_first()
    if received is None:
        sys.exit(EXIT_ORPHANED)
    configure, descriptors = received
    if not isinstance(configure, Configure):
        raise ControlError(f"the first message is {type(configure).__name__}, not Configure")
    role = "rehearsal" if configure.rehearsal else f"shard {configure.shard}"
    set_process_title(role, configure.config.app)
    try:
        set_up_logging(role, configure.config)
    except ConfigurationError as error:
        channel.send(Failed(str(error)))
        sys.exit(EXIT_START_UP)
    sys.exit(_ShardMain(channel, configure, descriptors).run())


def _take_signals() -> None:
    """What a terminal sends to the process group is the supervisor's to answer. (A handler that does nothing, because
    SIG_IGN would be inherited by what the application starts.) SIGTERM gets its handler with the loop, and ends the
    process before."""

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    for number in TERMINAL_SIGNALS - {signal.SIGTERM}:
        signal.signal(number, ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)


class _ShardMain:
    def __init__(self, channel: Channel, configure: Configure, descriptors: list[int]) -> None:
        self._channel = channel
        self._configure = configure
        self._config = configure.config
        memory, event, slots, pulse, witness, handover, *listening = descriptors
        self._doorbell = (memory, event)
        self._slots = SlotWriter(slots)
        os.close(slots)
        self._pulse = Pulse(pulse, HealthPolicy(hung_after=self._config.timeout_shard_healthcheck).pace)
        self._witness = socket.socket(fileno=witness)
        self._handover = socket.socket(fileno=handover)
        self._handover.setblocking(False)
        self._listening = [socket.socket(fileno=descriptor) for descriptor in listening]
        self._main: JoinHandle[object] | None = None
        self._may_begin = asyncio.Event()
        self._may_leave = asyncio.Event()
        self._serve_first = False

    def run(self) -> int:
        """Returns the exit status."""
        what = self._config.app
        try:
            application = load_application(self._config.app, self._config.app_dir, factory=self._config.factory)
            what = "a queue's scheduler"
            queues = [queue.declare(self._config.app_dir) for queue in self._config.queues]
        except ApplicationError as error:
            return self._fail(str(error))
        except (Exception, SystemExit) as error:
            return self._fail(f"{what} cannot be imported", error)
        if self._configure.rehearsal:
            self._channel.send(Ready())
            return EXIT_OK
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(self._serve(application, queues))
            except Exception as error:
                return self._fail('an exception escaped a task of a queue with on_panic = "propagate"', error)

    async def _serve(self, application: Main, queues: list[Queue]) -> int:
        self._loop = asyncio.get_running_loop()
        executor = self._executor = Executor(queues, on_panic="catch")
        log_slow_polls(executor, self._config, self._configure.shard)
        self._assemble(executor)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._recorder.start()
        self._pulse.start(executor, self._rests)
        start_witness(self._witness, executor)
        try:
            async with executor:
                await self._may_begin.wait()
                self._main = executor.queues()[0].spawn(application(self._shard), name="main")
                if self._shard.stopping:
                    self._main.abort()
                return await self._live(self._main)
        finally:
            # After the executor, which polls the mesh until its last task is gone. And nothing may reach the mesh later.
            self._loop.remove_reader(self._channel.fileno())
            self._recorder.stop()
            self._pulse.stop()
            self._mesh.close()

    def _assemble(self, executor: Executor) -> None:
        configure = self._configure
        self._mesh = Mesh(
            configure.shard,
            configure.count,
            executor,
            self._doorbell,
            idle_poll_us=configure.idle_poll_us,
            limits=Limits(max_message=self._config.max_message, credit=self._config.credit),
            on_poisoned=lambda peer, epoch: self._channel.send(Poisoned(peer, epoch)),
        )
        self._shard = Shard(
            configure.shard,
            configure.count,
            configure.cpu,
            executor,
            self._mesh,
            self._listening,
            announce_ready=lambda: self._channel.send(Ready()),
            blocking_threads=self._config.blocking_threads,
            backlog=self._config.backlog,
            access_log=self._config.access_log,
            handover=Handover(self._handover, self._pulse.write_connections) if self._is_handed() else None,
            max_connections=self._config.max_connections,
        )
        self._recorder = Recorder(
            self._slots, executor, self._mesh, self._shard._connections, self._shard._counters.read
        )

    def _is_handed(self) -> bool:
        return self._config.distribution == "least-connections"

    async def _live(self, main: JoinHandle[object]) -> int:
        """Run `main` to its end, then finish what is open and leave with the others."""
        status = EXIT_OK
        outcome = await main.outcome()
        if not self._shard.stopping:
            match outcome:
                case TaskPanicked(UnknownQueue() as error):
                    return self._fail(str(error))  # a mistake of the configuration: where it shows is no matter
                case TaskPanicked(exception):
                    return self._fail("main() raised", exception)
                case Ok():
                    return self._fail(
                        "main() returned without being told to stop; end it with `await shard.wait_stopped()`"
                    )
                case TaskCancelled():
                    return self._fail("main() was cancelled by the application")
        if isinstance(outcome, TaskPanicked):
            log.error("main() raised while stopping\n%s", format_traceback(outcome.exception))
            status = EXIT_FAILED
        await self._shard._drain()
        self._channel.send(Drained())
        await self._may_leave.wait()
        while self._serve_first and not self._mesh.is_quiet():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(QUIET_LOOK_S)
        return status

    def _fail(self, message: str, error: BaseException | None = None) -> int:
        self._channel.send(Failed(message, format_traceback(error)[-TRACEBACK_LIMIT:] if error else ""))
        return EXIT_START_UP

    def _read(self) -> None:
        try:
            while True:
                received = self._channel.receive()
                if received is None:
                    os._exit(EXIT_ORPHANED)  # the supervisor is gone: nobody is left to finish anything for
                self._handle(*received)
        except BlockingIOError:
            pass

    def _handle(self, message: object, descriptors: list[int]) -> None:
        match message:
            case Connect(peer, epoch):
                incoming, outgoing, memory, event = descriptors
                self._mesh.connect(peer, epoch, incoming=incoming, outgoing=outgoing, doorbell=(memory, event))
            case Disconnect(peer):
                self._mesh.disconnect(peer)
            case Hold(peer):
                self._mesh.hold(peer, when_quiet=lambda: self._channel.send(Held(peer)))
            case Release(peer):
                self._mesh.release(peer)
            case StartTrace(seconds):
                trace = Trace(self._configure.shard, self._executor, self._traced)
                self._loop.call_later(seconds, trace.end)
            case Reopen():
                reopen()
            case TakeAll():
                self._shard._lift_limit()
            case Begin():
                self._may_begin.set()
            case Stop(for_good):
                self._stop(for_good, [socket.socket(fileno=descriptor) for descriptor in descriptors])
            case Leave(serve_first):
                self._serve_first = serve_first
                self._may_leave.set()
            case _:
                raise ControlError(f"{type(message).__name__} was not expected")

    def _rests(self, resting: bool) -> None:
        self._recorder.rest(resting)
        if not resting:
            self._channel.send(Stirred())

    def _traced(self, recording: int | None) -> None:
        self._channel.send(Traced(), [] if recording is None else [recording])
        if recording is not None:
            os.close(recording)

    def _stop(self, for_good: bool = False, orphaned: Sequence[socket.socket] = ()) -> None:
        if self._main is not None and not self._shard.is_ready:
            self._main.abort()  # still starting: there is nothing to finish
        self._shard._stop(for_good, orphaned)
        self._may_begin.set()


if __name__ == "__main__":
    main()
