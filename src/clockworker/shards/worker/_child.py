"""The process of one shard: `python -m clockworker.shards.worker._child`, started by the supervisor and by nobody else.

In order: tie this process's life to the supervisor's, read what to do (a spare waits for that; a fork server forks spares, and
it is they that go on), import the application, and
only then make loop, executor and mesh, and run `main(shard)` in the first queue. What the supervisor says meanwhile waits in
the channel.

No orphans: the kernel kills this process when the supervisor dies (PR_SET_PDEATHSIG), even in the middle of a step that
never ends; the end of file on the control channel says the same to a process that the first has somehow missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvloop

from clockworker._errors import (
    ApplicationError,
    ConfigurationError,
    ControlError,
    TaskCancelled,
    TaskPanicked,
    UnknownQueue,
)
from clockworker.executor import Executor, JoinHandle, Ok
from clockworker.ipc import Limits, Mesh
from clockworker.shards.config._application import Main, format_traceback
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.logs._logging import reopen, set_up_logging
from clockworker.shards.machine._heritage import STRAY, Handler, do_nothing, name_of
from clockworker.shards.machine._host import set_process_title
from clockworker.shards.machine._terminal import set_up_debugging
from clockworker.shards.protocol._birth import (
    CONTROL_VARIABLE,
    EXIT_ORPHANED,
    FORK_SERVER_VARIABLE,
    SPARE_VARIABLE,
    SUPERVISOR_VARIABLE,
    TERMINAL_SIGNALS,
    be_child,
)
from clockworker.shards.protocol._control_channel import ControlChannel, DescriptorsLost
from clockworker.shards.protocol._health import HealthPolicy
from clockworker.shards.protocol._messages import (
    AcceptFrom,
    Begin,
    CeaseFrom,
    Change,
    Configure,
    Connect,
    Declared,
    Disconnect,
    Drained,
    Failed,
    Fenced,
    Hold,
    Leave,
    ListenersClosed,
    Moved,
    NodesSilent,
    Poisoned,
    Ready,
    Release,
    Reopen,
    Serves,
    Shut,
    StartTrace,
    Stirred,
    Stop,
    TakeAll,
    TakeState,
    Terminated,
    Traced,
    ViewChanged,
    ViewSettled,
)
from clockworker.shards.protocol._pulse import DUMP_SIGNAL, Pulse
from clockworker.shards.protocol._reading import NOTHING_FAR
from clockworker.shards.protocol._slots import SlotWriter
from clockworker.shards.protocol._witness import start_witness
from clockworker.shards.worker._affinity import Starting
from clockworker.shards.worker._current import being
from clockworker.shards.worker._fork import REFUSAL, Legacy, open_descriptors
from clockworker.shards.worker._fork_server import fork_spares
from clockworker.shards.worker._hidden import hide
from clockworker.shards.worker._hogs import HogWatch
from clockworker.shards.worker._loading import Loading, WrongOptions
from clockworker.shards.worker._peer_links import PeerLinks
from clockworker.shards.worker._recorder import Recorder
from clockworker.shards.worker._replaced import Replacement
from clockworker.shards.worker._reserve import FOR_A_MESSAGE, Reserve
from clockworker.shards.worker._servers import Line
from clockworker.shards.worker._shard import Shard
from clockworker.shards.worker._shard_queues import is_of_machine, misspelt, preemptive_of
from clockworker.shards.worker._slow import log_slow_polls
from clockworker.shards.worker._trace import Trace
from clockworker.shards.worker._waiting import be_shard, wait

if TYPE_CHECKING:
    from clockworker.cluster._shard import ShardInCluster

log = logging.getLogger("clockworker.shard")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_START_UP = 3

QUIET_LOOK_S = 0.005
CUT_S = 0.1  # before SIGKILL, so that it can still be said what is cut
_LOOP_STOPPED = "Event loop stopped before Future completed"  # as asyncio and uvloop say it
# Bytes of what is said of a failure: both have to fit into one message.
MESSAGE_LIMIT = 8_000
TRACEBACK_LIMIT = 48_000


def main() -> None:
    be_child(int(os.environ.pop(SUPERVISOR_VARIABLE)), _handlers())
    descriptor = int(os.environ.pop(CONTROL_VARIABLE))
    os.set_inheritable(descriptor, False)
    channel = ControlChannel(socket.socket(fileno=descriptor), trusting=True)
    if (app := os.environ.pop(FORK_SERVER_VARIABLE, None)) is not None:
        channel, imported = fork_spares(channel, app)
        wait(channel, app, imported)
    elif (app := os.environ.pop(SPARE_VARIABLE, None)) is not None:
        wait(channel, app)
    received = channel.receive_first()
    if received is None:
        sys.exit(EXIT_ORPHANED)
    configure, descriptors = received
    if not isinstance(configure, Configure):
        raise ControlError(f"the first message is {type(configure).__name__}, not Configure")
    be_shard(configure.shard)
    role = f"shard {configure.shard}"
    set_process_title(role, configure.config.app)
    try:
        set_up_logging(role, configure.config)
    except ConfigurationError as error:
        channel.send(Failed(str(error)))
        sys.exit(EXIT_START_UP)
    set_up_debugging()
    status = _ShardMain(channel, configure, descriptors).run()
    if waits_for := [f"{each.name} (pid {each.pid})" for each in _children_to_be_joined()]:
        log.warning(
            "the end waits for processes that were started by multiprocessing, and not as daemons: %s",
            ", ".join(waits_for),
        )
    sys.exit(status)


def _handlers() -> dict[int, Handler]:
    """What a terminal sends to the process group is the supervisor's to answer. SIGTERM gets its handler with the loop, which
    asks the supervisor for a successor, and ends the process before."""
    strays: dict[int, Handler] = dict.fromkeys(STRAY - {DUMP_SIGNAL}, _say_stray)
    return strays | dict.fromkeys(TERMINAL_SIGNALS - {signal.SIGTERM}, do_nothing)


def _say_stray(number: int, frame: FrameType | None) -> None:
    """Of a signal that strays here it is said on the loop: this may come in the middle of a log call."""
    with contextlib.suppress(RuntimeError):  # no loop yet
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(log.info, "%s ignored: the application has no handler for it", name_of(number))


def _release_alarm() -> None:
    """Preemptive queues take SIGRTMAX where nobody has a handler for it. The application may; ours is none."""
    if signal.getsignal(signal.SIGRTMAX) is _say_stray:
        signal.signal(signal.SIGRTMAX, signal.SIG_DFL)


def _children_to_be_joined() -> list[Any]:
    """Processes that multiprocessing waits for at the interpreter's exit."""
    multiprocessing = sys.modules.get("multiprocessing")
    return [] if multiprocessing is None else [each for each in multiprocessing.active_children() if not each.daemon]


class _ShardMain:
    def __init__(self, channel: ControlChannel, configure: Configure, descriptors: list[int]) -> None:
        self._channel = channel
        self._configure = configure
        self._config = configure.config
        memory, event, self._slots, pulse, dump, witness, *lines = descriptors
        self._doorbell: tuple[int, ...] = (memory, event)
        self._pulse = Pulse(pulse, dump, HealthPolicy(hung_after=self._config.timeout_shard_healthcheck).pace)
        self._witness = socket.socket(fileno=witness)
        self._lines = [socket.socket(fileno=line) for line in lines]
        for line in self._lines:
            line.setblocking(False)
        # Before the application is imported, which may open what it likes, and fork.
        self._reserve = Reserve(FOR_A_MESSAGE + configure.count - 1)
        self._complaints = Limiter()
        self._legacy = Legacy(f"shard {configure.shard}", configure.served, configure.cpus)
        self._legacy.withhold(lambda: [each.fileno() for each in (channel, self._pulse, self._witness)])
        self._legacy.withhold(lambda: [line.fileno() for line in self._lines])
        self._legacy.withhold(lambda: self._doorbell)
        self._legacy.withhold(self._reserve.descriptors)
        self._legacy.guard()
        self._starting = Starting(configure.cpu, configure.cpus, self._legacy.executing)
        self._starting.wrap_functions()
        self._main: JoinHandle[object] | None = None
        self._may_begin = asyncio.Event()
        self._may_leave = asyncio.Event()
        self._serve_first = False

    def run(self) -> int:
        """Returns the exit status."""
        try:
            return self._run()
        except BaseException as error:
            if self._legacy.forked:
                self._legacy.end(error)
            raise
        finally:
            if self._legacy.forked:
                self._legacy.end()

    def _run(self) -> int:
        if self._config.switch_interval is not None:
            sys.setswitchinterval(self._config.switch_interval)
        of_lines = [line.fileno() for line in self._lines]
        held = [self._channel.fileno(), *self._doorbell, self._slots, self._witness.fileno(), *of_lines]
        loading = Loading(self._configure, held)
        try:
            loaded = loading.load()
        except ConfigurationError as error:
            return self._fail(str(error), of_options=isinstance(error, WrongOptions) or is_of_machine(error))
        except BaseException as error:  # KeyboardInterrupt, SystemExit and the like are of the application, too
            if self._legacy.forked:
                raise
            return self._fail(loading.what, error)
        self._queues, self._ssl = loaded.queues, loaded.ssl
        if self._legacy.forked:
            self._legacy.end()
        self._declare_queues(loaded.application)
        self._before_loop = open_descriptors()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(self._serve(loaded.application, loaded.executor))
            except BaseException as error:
                if self._legacy.forked:
                    self._legacy.end(error)
                if isinstance(error, ConfigurationError) and self._main is None:  # a queue cannot be preemptive here
                    return self._fail(str(error), of_options=True)
                if _LOOP_STOPPED in str(error):
                    return self._fail(
                        "the application has stopped its shard's event loop (loop.stop()); await shard.wait_stopped() "
                        "ends where the server stops"
                    )
                return self._fail('an exception escaped a task of a queue with on_panic = "propagate"', error)

    def _declare_queues(self, application: Main) -> None:
        self._writer = SlotWriter(self._slots, len(self._queues))
        os.close(self._slots)
        self._channel.send(Declared(tuple(queue.name for queue in self._queues)))
        own = self._config.shard_queues.get(self._configure.shard, ())
        common = self._config.queues if self._configure.shard == 0 else ()  # else each shard says the same
        for line in misspelt((*common, *own), application.queues):
            log.warning("%s", line)

    async def _serve(self, application: Main, executor: Executor) -> int:
        self._loop = asyncio.get_running_loop()
        hide(asyncio.current_task())
        self._legacy.take_loop(self._loop, self._before_loop)
        self._starting.wrap_loop(self._loop)
        self._executor = executor
        self._watch = HogWatch(executor.queues())
        log_slow_polls(executor, self._queues, self._config.slow_poll, self._watch)
        self._legacy.take_executor(executor)
        self._assemble(executor)
        with being(self._shard):
            return await self._run_main(application, executor)

    async def _run_main(self, application: Main, executor: Executor) -> int:
        self._loop.set_exception_handler(self._shard._loop_error)
        self._loop.add_signal_handler(signal.SIGTERM, lambda: self._channel.send(Terminated()))
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._recorder.start()
        self._pulse.start(executor, self._rests)
        if preemptive_of(self._queues):
            _release_alarm()
        start_witness(self._witness, executor)
        try:
            async with executor:
                if self._in_cluster is not None:
                    self._in_cluster.start()
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
            self._replacement.stop()
            if self._in_cluster is not None:
                await self._in_cluster.close()
            self._mesh.close()
            self._shard._processes.kill()

    def _assemble(self, executor: Executor) -> None:
        configure = self._configure
        (memory, event), self._doorbell = self._doorbell, ()
        self._mesh = Mesh(
            configure.shard,
            configure.count,
            executor,
            (memory, event),
            place=configure.place,
            idle_poll_us=configure.idle_poll_us,
            limits=Limits(max_message=self._config.max_message, credit=self._config.credit),
            on_poisoned=lambda peer, epoch: self._channel.send(Poisoned(peer, epoch)),
        )
        self._in_cluster: ShardInCluster | None = None
        if self._config.cluster is not None:
            from clockworker.cluster._shard import ShardInCluster

            self._in_cluster = ShardInCluster(self._config.cluster, self._mesh, succeeds=configure.came_by == "roll")
        _ = self._mesh.topics  # before there are peers, so that they are asked for theirs as soon as they are there
        self._shard = Shard(
            configure,
            executor,
            self._mesh,
            announce_ready=lambda serves: self._channel.send(Ready(dict(serves), self._mesh.services())),
            announce_serving=lambda bind, limit: self._channel.send(Serves(bind, limit)),
            announce_worn=lambda reason: self._channel.send(Terminated(reason)),
            lines={
                bind: Line(sock, partial(self._pulse.write_connections, number))
                for number, (bind, sock) in enumerate(zip(self._config.lines, self._lines, strict=True))
            },
            ssl=self._ssl,
            cluster=None if self._in_cluster is None else self._in_cluster.cluster,
        )
        self._peer_links = PeerLinks(
            configure.shard, self._mesh, self._shard._peers, self._channel.send, self._complain
        )
        self._replacement = Replacement(self._mesh, self._channel.send)
        self._legacy.withhold(self._mesh.descriptors)
        self._legacy.at_fork(lambda: self._mesh.refuse_all(REFUSAL))
        self._legacy.at_fork(lambda: self._shard._blocking.forked(self._legacy.end, REFUSAL))
        self._legacy.withhold(self._shard._processes.descriptors)
        self._legacy.at_fork(lambda: self._shard._processes.forked(REFUSAL))
        self._recorder = Recorder(
            self._writer,
            executor,
            self._mesh,
            self._shard._servers.counts,
            self._shard._counters.read,
            self._shard._blocking.counts,
            self._shard._requests.read,
            self._shard._processes.counts,
            self._watch,
            (lambda: NOTHING_FAR) if self._in_cluster is None else self._in_cluster.figures,
        )
        self._shard._servers.when_failed = self._recorder.write_soon

    async def _live(self, main: JoinHandle[object]) -> int:
        """Run `main` to its end, then finish what is open and leave with the others."""
        status = EXIT_OK
        outcome = await main.outcome()
        if not self._shard.stopping:
            match outcome:
                case TaskPanicked((UnknownQueue() | ApplicationError()) as error):
                    # A mistake of the configuration, and where it shows is no matter; or an application's, whose traceback is
                    # the cause's.
                    return self._fail(str(error), error.__cause__)
                case TaskPanicked(exception):
                    return self._fail("main() raised", exception)
                case Ok():
                    return self._fail(
                        "main() returned without being told to stop; end it with `await shard.wait_stopped()`"
                    )
                case TaskCancelled():
                    return self._fail("main() was cancelled by the application")
        if isinstance(outcome, TaskPanicked):
            # One whose start has failed is told to stop where another shard's has, too, which has said why.
            if self._shard.is_ready or not isinstance(outcome.exception, UnknownQueue | ApplicationError):
                log.error("main() raised while stopping\n%s", format_traceback(outcome.exception))
            status = EXIT_FAILED
        await self._shard._drain()
        self._channel.send(Drained())
        await self._may_leave.wait()
        while self._serve_first and not self._mesh.is_quiet():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(QUIET_LOOK_S)
        self._shard._blocking.close()
        await self._shard._processes.close()
        return status

    def _fail(self, message: str, error: BaseException | None = None, *, of_options: bool = False) -> int:
        # A text of the application's may have what UTF-8 has not: lone surrogates, of names of files.
        said = message.encode(errors="backslashreplace")[:MESSAGE_LIMIT]
        trace = format_traceback(error).encode(errors="backslashreplace")[-TRACEBACK_LIMIT:] if error else b""
        self._channel.send(Failed(said.decode(errors="ignore"), trace.decode(errors="ignore"), of_options))
        if self._channel.backlogged:  # it is not there any more
            log.critical("%s", message)
        return EXIT_START_UP

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                with self._reserve:
                    self._read_one()
                    self._reserve.size = FOR_A_MESSAGE + self._peer_links.missing()

    def _read_one(self) -> None:
        try:
            received = self._channel.receive()
        except DescriptorsLost as lost:  # another thread took what was given up
            self._complain(lost)
            match lost.message:
                case Connect():
                    self._peer_links.connect_later(lost.message)
                case Stop():
                    self._handle(lost.message, [])
            return
        if received is None:
            os._exit(EXIT_ORPHANED)  # the supervisor is gone: nobody is left to finish anything for
        try:
            self._handle(*received)
        except OSError as error:  # of a log file, or a trace: a shortage of the machine's
            self._complain(OSError(f"{type(received[0]).__name__} cannot be carried out: {error}"))

    def _complain(self, error: Exception) -> None:
        if (unsaid := self._complaints.may_say(self._loop.time())) is not None:
            log.error("%s%s", error, more(unsaid))

    def _handle(self, message: object, descriptors: list[int]) -> None:
        match message:
            case Connect():
                self._peer_links.connect(message, descriptors)
            case Disconnect():
                self._peer_links.disconnect(message)
            case Change():
                self._peer_links.change(message)
            case Fenced() | ViewChanged() | ViewSettled() | NodesSilent():
                if self._in_cluster is not None:
                    self._in_cluster.handle(message, descriptors)
            case Hold(shard, again):
                self._replacement.hold(shard, again)
            case Shut():
                self._replacement.shut()
            case TakeState(services, seconds):
                self._replacement.take(services, seconds)
            case Release(shard):
                self._replacement.release(shard)
            case Moved():
                self._replacement.moved()
            case StartTrace(seconds):
                trace = Trace(self._configure.shard, self._executor, self._traced)
                self._loop.call_later(seconds, trace.end)
            case Reopen():
                reopen()
                self._shard._processes.reopen_logs()
            case TakeAll():
                self._shard._servers.lift_limit()
            case Begin():
                self._may_begin.set()
            case AcceptFrom(shard, bind):
                self._shard._accept_from(bind, shard, [socket.socket(fileno=descriptor) for descriptor in descriptors])
            case CeaseFrom(shard, bind):
                self._shard._cease_from(bind, shard)
            case Stop(for_good, grace, binds):
                # Of a message whose descriptors were lost there are none.
                orphaned = [(bind, socket.socket(fileno=descriptor)) for bind, descriptor in zip(binds, descriptors)]  # noqa: B905
                self._stop(for_good, orphaned)
                if grace is not None:
                    self._loop.call_later(grace - CUT_S, self._shard._log_cut)
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

    def _stop(self, for_good: bool, orphaned: Sequence[tuple[str, socket.socket]]) -> None:
        if self._main is not None and not self._shard.is_ready:
            self._main.abort()  # still starting: there is nothing to finish
        if not for_good and self._in_cluster is not None:
            self._in_cluster.leave()
        self._shard._stop(for_good, orphaned)
        if for_good and self._shard._stopping is not None:  # perhaps it had been told before
            self._shard._stopping.add_done_callback(lambda _: self._channel.send(ListenersClosed()))
        self._may_begin.set()


if __name__ == "__main__":
    main()
