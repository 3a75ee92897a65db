"""The supervisor: starts the shards, replaces those that die, stops them all. It reads from top to bottom.

It never imports the application and never looks into a ring, so that nothing an application does can break it. All that
happens to it arrives on one asyncio loop: a signal (`_signals`), a message from a shard, the end of a shard's process (its
pidfd becomes readable), or a timer. What is worth a module has one: `_wiring` connects the shards, `_watch` looks after
their loops, `_lending` says who accepts connections, `_drain` has shards finish, `_roll` replaces them in good order,
`_starter` makes their processes, `_spares` has some in stock, `_turnover` sees that they grow old, `_shutdown` stops all,
`_reload` sees that their sources change, `_hearing` reads what they say, `_clustering` makes us a node among others, `_systemd`
tells who started us. What is left here is a shard's way through its states, and the server's own.

An error of the system (no process or descriptor left, a file system that has become read-only, a log that cannot be written)
is the environment's, and no reason for shards that serve to stop: whoever makes the call catches the `OSError`, says it in one
line and goes on, or tries again later. What reaches the loop's exception handler nevertheless is a fault of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import traceback
from typing import Any

from clockworker import _errors
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.logs._log_limit import more
from clockworker.shards.machine._host import (
    OF_FORK_SERVER,
    OF_SPARE,
    TOOLS,
    raise_descriptor_limit,
    set_process_title,
)
from clockworker.shards.machine._placement import Placement
from clockworker.shards.machine._sockets import Listeners
from clockworker.shards.machine._systemd import Notifier
from clockworker.shards.observe._view import ClusterStanding
from clockworker.shards.protocol._health import HealthPolicy
from clockworker.shards.protocol._messages import Failed, Ready
from clockworker.shards.supervisor import _silence
from clockworker.shards.supervisor._clustering import Clustering, check_cluster_needs
from clockworker.shards.supervisor._dispatch import Dispatcher
from clockworker.shards.supervisor._drain import Drain
from clockworker.shards.supervisor._hearing import Hearing, Reports
from clockworker.shards.supervisor._lending import Lending
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._observe import Observer
from clockworker.shards.supervisor._process import ShardProcess
from clockworker.shards.supervisor._reload import Reloader, check_reload
from clockworker.shards.supervisor._roll import Roll, Steps
from clockworker.shards.supervisor._shutdown import Shutdown
from clockworker.shards.supervisor._signals import Signals, Wishes
from clockworker.shards.supervisor._spares import Spares
from clockworker.shards.supervisor._starter import Starter
from clockworker.shards.supervisor._tracing import Tracing
from clockworker.shards.supervisor._turnover import Turnover
from clockworker.shards.supervisor._watch import Stall, Watch, process_state
from clockworker.shards.supervisor._wiring import Wiring

log = logging.getLogger("clockworker.supervisor")

# How long a supervisor that has failed waits for the ends of its shards.
LAST_S = 5.0

EXIT_OK = 0
EXIT_CRASHED = 1
EXIT_USAGE = 2
EXIT_START_UP = 3


class Supervisor:
    """`run()` serves until told to stop and returns the exit status."""

    def __init__(self, config: ServeConfig, placement: Placement, listeners: Listeners) -> None:
        self._config = config
        self._placement = placement
        self._health = HealthPolicy(hung_after=config.timeout_shard_healthcheck)
        self._listeners = listeners
        self._members = Members(Member(id, cpu) for id, cpu in enumerate(placement.cpus))
        self._tracing = Tracing(self._members)
        self._observer = Observer(
            config, self._members, listeners.names, self._serves, self._tracing.record, self._standing
        )
        self._lending = Lending(self._members, listeners, to_all=config.max_connections is not None)
        self._watch = Watch(self._members, self._health.pace, self._report_stall, self._hung, self._stands_still)
        self._wiring = Wiring(self._members)
        self._drain = Drain(self._members, config.timeout_graceful_shutdown)
        self._roll = Roll(
            self._members,
            Steps(self._start, self._changed, self._rolled),
            config.timeout_hand_over,
        )
        self._notifier = Notifier(os.environ)
        self._reloader: Reloader | None = None
        self._dispatchers: list[Dispatcher] = []
        self._shutdown = Shutdown(
            self._members, listeners, self._lending, self._drain, config.timeout_graceful_shutdown
        )
        self._hearing = Hearing(
            self._tracing,
            self._watch,
            self._wiring,
            self._drain,
            self._roll,
            self._shutdown,
            Reports(
                ready=self._became_ready,
                serves=self._serves_now,
                worn=self._worn,
                refused=self._refused,
                failed=self._failed,
            ),
        )
        self._clustering: Clustering | None = None
        self._leaving: asyncio.Task[None] | None = None  # the cluster
        self._is_broken = False
        self._serving = False  # every shard has been ready once
        self._exit_status = EXIT_OK

    def run(self) -> int:
        """Raises `ConfigurationError` if the limit on open files is too low for so many shards, or a library is missing."""
        if self._config.reload:
            check_reload()
        if self._config.cluster is not None:
            check_cluster_needs(self._config.cluster)
            self._clustering = Clustering(self._config.cluster, self._members, self._not_in_cluster)
        set_process_title("supervisor", self._config.app)
        addresses = len(self._listeners.of(0) or self._listeners.own)
        left = raise_descriptor_limit(len(self._members), addresses, len(self._config.lines))
        wanted = self._config.spares if self._config.respawn else 0
        spares = max(0, min(wanted, (left - TOOLS - OF_FORK_SERVER) // OF_SPARE))
        self._spares = Spares(self._config.app, spares, self._is_calm)
        self._starter = Starter(
            self._config,
            self._placement,
            self._listeners,
            self._members,
            self._health,
            self._watch,
            self._wiring,
            self._spares,
            self._clustering,
        )
        self._observer.open(left - spares * OF_SPARE - (OF_FORK_SERVER if spares else 0))
        return asyncio.run(self._supervise())

    async def _supervise(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._finished = asyncio.Event()
        Signals(
            self._members,
            Wishes(
                grace=self._config.timeout_graceful_shutdown,
                stopping=lambda: self._stopping,
                stop=lambda: self._stop(EXIT_OK),
                stop_at_once=self._kill_all,
                replace_all=self._replace_all,
            ),
        )
        self._loop.set_exception_handler(self._broken)
        self._watch.start()
        await self._observer.start()
        if self._clustering is not None:
            self._clustering.start()
        for bind in self._config.lines:
            listening = self._listeners.own_of(bind)
            limit = self._config.max_connections
            self._dispatchers.append(Dispatcher(bind, listening, self._members, limit, self._watch.stalled))
        for member in self._members:
            if not self._stopping:
                self._start(member)
        self._wiring.begin()
        if self._notifier.watchdog_interval is not None:
            self._show_life(self._notifier.watchdog_interval)
        Turnover(self._config, self._members, self._worn).start()
        if self._config.reload:
            self._reloader = Reloader(self._config, self._replace_all)
        await self._finished.wait()
        if self._reloader is not None:
            await self._reloader.stop()
        if self._clustering is not None:
            await self._clustering.stop()
        self._spares.stop()
        with contextlib.suppress(TimeoutError):  # a killed process that waits for a device
            await asyncio.wait_for(self._spares.wait_gone(), LAST_S)
        await self._observer.stop()
        return self._exit_status

    @property
    def _stopping(self) -> bool:
        return self._drain.together

    def _serves(self) -> bool:
        in_cluster = self._clustering is None or self._clustering.is_in_view()
        return self._serving and not self._stopping and in_cluster

    def _standing(self) -> ClusterStanding | None:
        return None if self._clustering is None else self._clustering.standing()

    def _show_life(self, interval: float) -> None:
        self._notifier.alive()
        self._loop.call_later(interval, self._show_life, interval)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised. If it is one of ours its state may be wrong, and the server stops: in good order, since the
        shards know nothing of it; at once if that fails, too."""
        if _is_of_asyncio(error := context.get("exception")):
            log.error("%s: %s", context["message"], error)
            return
        loop.default_exception_handler(context)
        at_once, self._is_broken = self._is_broken or self._stopping, True
        if not at_once:
            try:
                self._stop(EXIT_CRASHED)
            except Exception:
                log.exception("the server cannot be stopped in good order")
                at_once = True
        if at_once:
            self._kill_all()
        # Whatever else is wrong: an end of the supervisor is one of the shards, too.
        grace = 0.0 if at_once else self._config.timeout_graceful_shutdown
        self._loop.call_later(grace + LAST_S, self._finished.set)
        self._exit_status = EXIT_CRASHED

    # Starting.

    def _start(self, member: Member) -> None:
        member.timer = None
        member.drained = member.broken = member.refused = False
        member.serves.clear()
        member.services = {}
        member.incarnation = self._members.next_incarnation(member.id)
        member.lifecycle.to(State.STARTING)
        if member is not self._members.beside:
            member.restarts.started(self._loop.time())
        try:
            process = self._starter.make(member, self._exited)
        except OSError as error:
            self._refused(member, str(error))
            self._died(member, "cannot be started")
            return
        member.process = process
        if member is not self._members.beside:
            self._observer.started(member)
        member.timer = self._loop.call_later(self._config.timeout_startup, self._start_up_overdue, member)
        try:
            self._starter.configure(member, process, self._hearing.read)
        except OSError as error:
            self._refused(member, str(error))
            process.kill()

    def _refused(self, member: Member, reason: str) -> None:
        """The system is too short of something for a start. That passes, and says nothing of the application."""
        member.refused = True
        if member is self._members.beside:
            self._roll.has_problem(f"the successor of {member} cannot be started: {reason}")
        else:
            log.error("%s cannot be started: %s", member, reason)

    def _start_up_overdue(self, member: Member) -> None:
        problem = f"was not ready within {self._config.timeout_startup:g} s (--timeout-startup)"
        assert member.process is not None
        member.process.kill()
        if member is self._members.beside:
            self._roll.has_problem(f"the successor of {member} {problem}")
        else:
            log.error("%s %s: killed", member, problem)
            self._start_failed(member)

    def _start_failed(self, member: Member, exit_status: int = EXIT_START_UP) -> None:
        """Before all have been ready once this is the end, unless somebody is about to mend the source."""
        if not self._serving and not self._config.reload:
            self._stop(exit_status)
        member.broken = self._config.reload

    # Being ready.

    def _became_ready(self, member: Member, process: ShardProcess, said: Ready) -> None:
        if member.state is not State.STARTING:  # it had been told to stop meanwhile
            return
        member.services = said.services
        member.cancel_timer()
        member.lifecycle.to(State.READY)
        for bind, limit in said.serves.items():
            _has_server(member, process, bind, limit)
        if member is not self._members.beside:
            self._takes_place(member, process)
        self._roll.ready(member)
        self._spares.fill()

    def _is_calm(self) -> bool:
        """Nothing starts, or is to start."""
        return (
            self._serving
            and not self._stopping
            and self._members.beside is None
            and all(member.state is State.READY for member in self._members)
        )

    def _takes_place(self, member: Member, process: ShardProcess) -> None:
        """It is ready, and has its place."""
        member.restarts.became_ready(self._loop.time())
        where = "any CPU" if member.cpu is None else f"CPU {member.cpu}"
        log.info("%s ready on %s, pid %d (%.3f s)", member, where, process.pid, process.age)
        if not self._serving and all(member.state is State.READY for member in self._members):
            self._serving = True
            log.info("serving with %s", self._how_many())
            if self._clustering is not None:
                self._clustering.ready()
            self._spares.begin()
            self._notifier.ready(f"serving with {self._how_many()}")
        _silence.look(member, process, self._listeners.binds)
        self._connections_may_go_on()

    def _serves_now(self, member: Member, process: ShardProcess, bind: str, limit: int | None) -> None:
        _has_server(member, process, bind, limit)
        self._connections_may_go_on()

    def _connections_may_go_on(self) -> None:
        self._lending.update()
        for dispatcher in self._dispatchers:
            dispatcher.go_on()

    # Replacing.

    def _replace_all(self) -> None:
        if not self._stopping:
            self._notifier.reloading("replacing the shards, one at a time")
            self._roll.replace(self._members)

    def _worn(self, member: Member, reason: str) -> None:
        if member.process is not None and not self._stopping and member.state is not State.DRAINING:
            log.info("%s (pid %d) %s: it is replaced", member, member.process.pid, reason)
            self._roll.replace_one(member)

    def _changed(self, successor: Member, old: Member) -> None:
        now = self._loop.time()
        successor.restarts.forget()
        successor.restarts.started(now)
        self._observer.started(successor)
        if successor.state is State.READY and successor.process is not None:
            self._takes_place(successor, successor.process)
        self._drain.begin(old)

    def _rolled(self) -> None:
        if self._serving:
            self._notifier.ready(f"serving with {self._how_many()}")

    def _how_many(self) -> str:
        return f"{len(self._members)} shard{'s' if len(self._members) > 1 else ''}"

    def _failed(self, member: Member, failed: Failed) -> None:
        """Reported once where it is the end: the others fail in the same way."""
        if self._stopping:
            return
        problem = "\n".join(filter(None, (failed.message, failed.traceback)))
        if member is self._members.beside:
            self._roll.has_problem(problem)
        else:
            log.error("%s: %s", member, problem)
            self._start_failed(member, EXIT_USAGE if failed.of_options else EXIT_START_UP)

    # Health.

    def _report_stall(self, stall: Stall) -> None:
        for member in self._members.everyone():
            if member.process is not None and member.process.pid == stall.pid:
                break
        else:
            return
        again = not self._observer.stalled(member, member.process, str(stall))
        # That one stall goes on is said at growing intervals anyway.
        unsaid = 0 if again else member.stalls.may_say(self._loop.time())
        if unsaid is not None:
            log.warning("%s%s", stall, more(unsaid))

    def _stands_still(self, process: ShardProcess, still: bool) -> None:
        self._lending.stands_still(process, still)
        if still:
            for dispatcher in self._dispatchers:
                dispatcher.stands_still(process)

    def _hung(self, member: Member, age: float) -> None:
        if member.state is State.READY and member.process is not None:
            log.error(
                "%s (pid %d) has not come back to its loop for %.1f s (--timeout-shard-healthcheck %g) and is %s: killed",
                member,
                member.process.pid,
                age,
                self._config.timeout_shard_healthcheck,
                process_state(member.process.pid),
            )
            member.process.kill()

    # The end of a process.

    def _exited(self, member: Member, process: ShardProcess) -> None:
        self._hearing.read(member, process)  # its last words may still be unread
        self._loop.remove_reader(process.channel.fileno())
        self._loop.remove_reader(process.pidfd)
        self._watch.remove(process)
        end, age, last = process.reap(), process.age, process.slots.read()
        self._observer.died(member, last)
        self._tracing.ended(process)
        self._shutdown.no_longer_accepts(process)
        member.process = None
        was_beside = member is self._members.beside
        self._roll.ended(member, process)
        self._lending.ended(process)
        self._lending.update()
        for dispatcher in self._dispatchers:
            dispatcher.take_back(process)
        process.close()
        member.cancel_timer()
        self._wiring.remove(member, process)
        did = f": {last.summary()}" if last.written_ns else ""
        if process.slots.nonsense:
            did += f", and then statistics that make no sense ({process.slots.nonsense})"
        if member.state is State.DRAINING:
            # Of a start that has failed all has been said.
            level = logging.DEBUG if self._exit_status in (EXIT_USAGE, EXIT_START_UP) else logging.INFO
            log.log(level, "%s %s after %.1f s%s", member, end, age, did)
            member.lifecycle.to(State.STOPPED)
            self._stopped(member, end)
        else:
            if not was_beside:  # of a successor the roll tells
                log.error("%s (pid %d) %s after %.1f s%s", member, process.pid, end, age, did)
            self._died(member, end)

    def _died(self, member: Member, end: str) -> None:
        if member.state is State.READY or member.came_by == "roll":
            member.came_by = "crash"
        member.lifecycle.to(State.DEAD)
        if self._stopping or member is self._members.beside:
            member.lifecycle.to(State.STOPPED)
            self._stopped(member, end)
            return
        may_return = self._config.respawn and not member.broken
        delay: float | None = None
        if member.refused:
            delay = member.restarts.refused()
            if not self._serving and self._loop.time() + delay > self._began + self._config.timeout_startup:
                log.error(
                    "not all shards could be started within %g s (--timeout-startup)", self._config.timeout_startup
                )
                member.lifecycle.to(State.STOPPED)
                self._stop(EXIT_START_UP)
                return
        elif may_return:
            delay = member.restarts.died(self._loop.time(), give_up=not self._others_serve_on(), timed=self._serving)
        if delay is not None:
            lost = f"; what {', '.join(member.keeps)} had is lost" if member.keeps else ""
            log.info("%s is restarted%s%s", member, f" in {delay:g} s" if delay else "", lost)
            member.lifecycle.to(State.BACKOFF)
            member.timer = self._loop.call_later(delay, self._start, member)
            return
        member.lifecycle.to(State.STOPPED)
        if self._config.reload:
            log.error("%s waits for a change of the source", member)
            return
        if self._config.respawn:
            within = " within 10 s" if self._serving else ""
            log.error("%s crashes again and again (5 starts%s): giving up", member, within)
        else:
            log.error("%s is not restarted (--no-respawn): stopping", member)
        self._stop(EXIT_CRASHED)

    def _others_serve_on(self) -> bool:
        """What would be started now is known to be broken, and was not what the others run."""
        return self._roll.failed and any(
            member.takes_connections if self._listeners.binds else member.state is State.READY
            for member in self._members
        )

    def _stopped(self, member: Member, end: str) -> None:
        if not self._stopping:
            self._roll.gone(member, end)
            self._spares.fill()
            return
        self._drain.let_go()
        self._finish_if_all_stopped()

    # Stopping.

    def _stop(self, exit_status: int, *, at_once: bool = False) -> None:
        if self._stopping:
            return
        self._drain.together = True
        self._exit_status = exit_status
        self._notifier.stopping(f"stopping {self._how_many()}")
        self._listeners.refuse_new()
        self._roll.abandon()
        self._spares.stop()
        for member in self._members:
            if member.state is State.BACKOFF:
                member.cancel_timer()
                member.lifecycle.to(State.STOPPED)
        if self._clustering is not None and self._clustering.is_in_view() and not at_once:
            self._leaving = self._loop.create_task(self._leave_cluster(self._clustering), name="leave the cluster")
            return
        self._shutdown.begin(self._dispatchers)
        self._finish_if_all_stopped()

    async def _leave_cluster(self, clustering: Clustering) -> None:
        """First: what is ours has a new owner while we drain."""
        await clustering.leave()
        if not self._finished.is_set():
            self._shutdown.begin(self._dispatchers)
            self._finish_if_all_stopped()

    def _not_in_cluster(self, reason: str) -> None:
        log.error("%s", reason)
        self._stop(EXIT_USAGE)

    def _kill_all(self) -> None:
        for member in self._members.everyone():
            if member.process is not None:
                member.process.kill()
        self._stop(EXIT_OK, at_once=True)

    def _finish_if_all_stopped(self) -> None:
        if all(member.state is State.STOPPED for member in self._members.everyone()):
            self._finished.set()


def _has_server(member: Member, process: ShardProcess, bind: str, limit: int | None) -> None:
    member.serves.add(bind)
    if bind in process.lines:
        process.lines[bind].limit = limit


def _is_of_asyncio(error: object) -> bool:
    """Whether this is an error of the system in a callback of asyncio's own: it concerns one connection of a tool, which
    asyncio has given up."""
    if not isinstance(error, OSError):
        return False
    ours = os.path.dirname(_errors.__file__) + os.sep
    return not any(frame.f_code.co_filename.startswith(ours) for frame, _ in traceback.walk_tb(error.__traceback__))
