"""The supervisor: starts the shards, replaces those that die, stops them all. It reads from top to bottom.

It never imports the application and never looks into a ring, so that nothing an application does can break it. All that
happens to it arrives on one asyncio loop: a signal (`_signals`), a message from a shard, the end of a shard's process (its
pidfd becomes readable), or a timer. What is worth a module has one: `_wiring` connects the shards, `_watch` looks after
their loops, `_drain` has them finish, `_renewal` replaces them all in good order, `_reload` sees that their sources change,
`_systemd` tells who started us. What is left here is a shard's way through its states, and the server's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from clockworker._errors import ControlError
from clockworker.shards._config import ServeConfig
from clockworker.shards._control import (
    Configure,
    Drained,
    Failed,
    Held,
    Poisoned,
    Ready,
    Stirred,
    Traced,
)
from clockworker.shards._dispatch import Dispatcher
from clockworker.shards._drain import Drain
from clockworker.shards._health import HealthPolicy
from clockworker.shards._host import raise_descriptor_limit, set_process_title
from clockworker.shards._lifecycle import State
from clockworker.shards._limiter import more
from clockworker.shards._member import Member
from clockworker.shards._observe import Observer
from clockworker.shards._placement import Placement
from clockworker.shards._process import ShardProcess
from clockworker.shards._reload import Reloader, check_reload
from clockworker.shards._renewal import Renewal
from clockworker.shards._roll import Roll
from clockworker.shards._signals import Signals, Wishes
from clockworker.shards._sockets import HANDSHAKE_S, Listeners
from clockworker.shards._systemd import Notifier
from clockworker.shards._tracing import Tracing
from clockworker.shards._watch import Stall, Watch, process_state
from clockworker.shards._wiring import Wiring

log = logging.getLogger("clockworker.supervisor")

EXIT_OK = 0
EXIT_CRASHED = 1
EXIT_START_UP = 3


class Supervisor:
    """`run()` serves until told to stop and returns the exit status."""

    def __init__(self, config: ServeConfig, placement: Placement, listeners: Listeners) -> None:
        self._config = config
        self._idle_poll_us = placement.idle_poll_us if config.idle_poll_us is None else config.idle_poll_us
        self._health = HealthPolicy(hung_after=config.timeout_shard_healthcheck)
        self._listeners = listeners
        self._members = [Member(id, cpu) for id, cpu in enumerate(placement.cpus)]
        self._tracing = Tracing(self._members)
        self._observer = Observer(config, self._members, listeners.names, self._serves, self._tracing.record)
        self._watch = Watch(self._members, self._health.pace, self._report_stall, self._hung)
        self._wiring = Wiring(self._members)
        self._drain = Drain(self._members, config.timeout_graceful_shutdown)
        self._roll = Roll(self._members, self._drain.begin, self._renewed)
        self._notifier = Notifier(os.environ)
        self._renewal = Renewal(config, self._members, self._roll, self._notifier, self._start, self._renewed)
        self._reloader: Reloader | None = None
        self._dispatcher: Dispatcher | None = None
        self._serving = False  # every shard has been ready once
        self._exit_status = EXIT_OK

    def run(self) -> int:
        """Raises `ConfigurationError` if the limit on open files is too low for so many shards, or a library is missing."""
        if self._config.reload:
            check_reload()
        set_process_title("supervisor", self._config.app)
        raise_descriptor_limit(len(self._members), len(self._listeners.of(0)))
        self._observer.open()
        return asyncio.run(self._supervise())

    async def _supervise(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        Signals(
            self._members,
            Wishes(
                grace=self._config.timeout_graceful_shutdown,
                stopping=lambda: self._stopping,
                stop=lambda: self._stop(EXIT_OK),
                stop_at_once=self._kill_all,
                replace_all=self._renewal.begin,
            ),
        )
        self._loop.set_exception_handler(self._broken)
        self._watch.start()
        await self._observer.start()
        if self._listeners.own:
            self._dispatcher = Dispatcher(
                self._listeners.own, self._members, self._config.max_connections, self._watch.stalled
            )
        for member in self._members:
            if not self._stopping:
                self._start(member)
        self._wiring.begin()
        if self._notifier.watchdog_interval is not None:
            self._show_life(self._notifier.watchdog_interval)
        if self._config.reload:
            self._reloader = Reloader(self._config.reload_dirs or (self._config.app_dir,), self._renewal.begin)
        await self._finished.wait()
        if self._reloader is not None:
            await self._reloader.stop()
        await self._observer.stop()
        return self._exit_status

    @property
    def _stopping(self) -> bool:
        return self._drain.together

    def _serves(self) -> bool:
        return self._serving and not self._stopping

    def _show_life(self, interval: float) -> None:
        self._notifier.alive()
        self._loop.call_later(interval, self._show_life, interval)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours raised. Whatever state that left behind, nothing is served under it."""
        loop.default_exception_handler(context)
        self._stop(EXIT_CRASHED)
        self._exit_status = EXIT_CRASHED
        self._kill_all()

    # Starting.

    def _start(self, member: Member) -> None:
        member.timer = None
        member.drained = member.broken = False
        member.lifecycle.to(State.STARTING)
        member.restarts.started(self._loop.time())
        try:
            process = ShardProcess(
                member.id,
                len(self._members),
                member.cpu,
                self._config.queue_names(member.id),
                self._health,
            )
        except OSError as error:
            log.error("%s cannot be started: %s", member, error)
            self._died(member)
            return
        member.process = process
        self._observer.started(member)
        self._loop.add_reader(process.pidfd, self._exited, member, process)
        self._loop.add_reader(process.channel.fileno(), self._read, member, process)
        self._watch.add(member, process)
        configure = Configure(
            member.id, len(self._members), member.cpu, self._idle_poll_us, self._config.of_shard(member.id)
        )
        process.configure(configure, [sock.fileno() for sock in self._listeners.of(member.id)])
        self._wiring.add(member.id, process)
        self._roll.started(process)
        member.timer = self._loop.call_later(self._config.timeout_startup, self._start_up_overdue, member)

    def _start_up_overdue(self, member: Member) -> None:
        log.error("%s was not ready within %g s (--timeout-startup): killed", member, self._config.timeout_startup)
        assert member.process is not None
        member.process.kill()
        self._start_failed(member)

    def _start_failed(self, member: Member) -> None:
        """Before all have been ready once this is the end, unless somebody is about to mend the source."""
        if not self._serving and not self._config.reload:
            self._stop(EXIT_START_UP)
        member.broken = self._config.reload

    # What shards say.

    def _read(self, member: Member, process: ShardProcess) -> None:
        try:
            while True:
                received = process.channel.receive()
                if received is None:
                    self._loop.remove_reader(process.channel.fileno())  # its end shows at the pidfd
                    return
                self._handle(member, process, *received)
        except BlockingIOError:
            pass
        except ControlError as error:
            log.error("%s sent nonsense: %s: killed", member, error)
            self._loop.remove_reader(process.channel.fileno())
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
            case Ready():
                if member.state is State.STARTING:  # else it had been told to stop meanwhile
                    self._became_ready(member, process)
            case Stirred():
                self._watch.stirred()
            case Drained() if self._stopping:
                self._drain.drained(member)
            case Drained():
                self._roll.drained(member)
            case Held(peer):
                self._roll.held(process, peer)
            case Failed():
                self._failed(member, message)
            case Poisoned(peer, epoch):
                self._wiring.poisoned(member, process, peer, epoch)
            case _:
                raise ControlError(f"{type(message).__name__} is for shards")

    def _became_ready(self, member: Member, process: ShardProcess) -> None:
        member.cancel_timer()
        member.lifecycle.to(State.READY)
        member.restarts.became_ready(self._loop.time())
        where = "any CPU" if member.cpu is None else f"CPU {member.cpu}"
        log.info("%s ready on %s, pid %d (%.3f s)", member, where, process.pid, process.age)
        if not self._serving and all(member.state is State.READY for member in self._members):
            self._serving = True
            log.info("serving with %s", self._how_many())
            self._notifier.ready(f"serving with {self._how_many()}")
        if self._dispatcher is not None:
            self._dispatcher.go_on()
        self._roll.ready(member)

    def _renewed(self) -> None:
        if self._serving:
            self._notifier.ready(f"serving with {self._how_many()}")

    def _how_many(self) -> str:
        return f"{len(self._members)} shard{'s' if len(self._members) > 1 else ''}"

    def _failed(self, member: Member, failed: Failed) -> None:
        """Reported once where it is the end: the others fail in the same way."""
        if self._stopping:
            return
        log.error("%s: %s", member, "\n".join(filter(None, (failed.message, failed.traceback))))
        self._start_failed(member)

    # Health.

    def _report_stall(self, stall: Stall) -> None:
        member = self._members[stall.shard]
        if member.process is None:
            return
        again = not self._observer.stalled(member, member.process)
        # That one stall goes on is said at growing intervals anyway.
        unsaid = 0 if again else member.stalls.may_say(self._loop.time())
        if unsaid is not None:
            log.warning("%s%s", stall, more(unsaid))

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
        self._read(member, process)  # its last words may still be unread
        self._loop.remove_reader(process.channel.fileno())
        self._loop.remove_reader(process.pidfd)
        self._watch.remove(process)
        end, age, last = process.reap(), process.age, process.slots.read()
        self._observer.died(member, last)
        self._tracing.ended(process)
        self._roll.ended(process)
        member.process = None
        if self._dispatcher is not None:
            self._dispatcher.take_back(process)
        process.close()
        member.cancel_timer()
        self._wiring.remove(member.id)
        did = f": {last.summary()}" if last.written_ns else ""
        if process.slots.nonsense:
            did += f", and then statistics that make no sense ({process.slots.nonsense})"
        if member.state is State.DRAINING:
            # Of a start that has failed all has been said.
            level = logging.DEBUG if self._exit_status == EXIT_START_UP else logging.INFO
            log.log(level, "%s %s after %.1f s%s", member, end, age, did)
            member.lifecycle.to(State.STOPPED)
            self._stopped(member)
        else:
            log.error("%s (pid %d) %s after %.1f s%s", member, process.pid, end, age, did)
            self._died(member)

    def _died(self, member: Member) -> None:
        member.lifecycle.to(State.DEAD)
        if self._stopping:
            member.lifecycle.to(State.STOPPED)
            self._stopped(member)
            return
        may_return = self._config.respawn and not member.broken
        delay = member.restarts.died(self._loop.time()) if may_return else None
        if delay is not None:
            log.info("%s is restarted%s", member, f" in {delay:g} s" if delay else "")
            member.lifecycle.to(State.BACKOFF)
            member.timer = self._loop.call_later(delay, self._start, member)
            return
        member.lifecycle.to(State.STOPPED)
        if self._config.reload:
            log.error("%s waits for a change of the source", member)
            return
        if self._config.respawn:
            log.error("%s crashes again and again (5 starts within 10 s): giving up", member)
        else:
            log.error("%s is not restarted (--no-respawn): stopping", member)
        self._stop(EXIT_CRASHED)

    def _stopped(self, member: Member) -> None:
        if not self._stopping:  # replaced
            member.restarts.forget()
            self._start(member)
            return
        self._drain.let_go()
        self._finish_if_all_stopped()

    # Stopping.

    def _stop(self, exit_status: int) -> None:
        if self._stopping:
            return
        self._drain.together = True
        self._exit_status = exit_status
        self._notifier.stopping(f"stopping {self._how_many()}")
        self._listeners.refuse_new()
        self._renewal.abandon()
        for member in self._members:
            if member.state is State.BACKOFF:
                member.cancel_timer()
                member.lifecycle.to(State.STOPPED)
        if self._dispatcher is None:
            self._drain_all()
        else:  # the shards get what comes until then, and are told only after it
            self._loop.call_later(HANDSHAKE_S, self._hand_over_all, self._dispatcher, self._loop.time())
        self._finish_if_all_stopped()

    def _hand_over_all(self, dispatcher: Dispatcher, began: float) -> None:
        def finished() -> None:
            self._drain.spent = self._loop.time() - began
            self._drain_all()

        dispatcher.finish(self._config.timeout_graceful_shutdown, finished)

    def _drain_all(self) -> None:
        if accepting := [member for member in self._members if member.state is State.READY]:
            orphaned = self._listeners.orphaned([member.id for member in accepting])
            self._drain.begin(accepting[0], [sock.fileno() for sock in orphaned])
        self._listeners.close()
        for member in self._members:
            self._drain.begin(member)
        self._drain.let_go()

    def _kill_all(self) -> None:
        self._stop(EXIT_OK)
        for member in self._members:
            if member.process is not None:
                member.process.kill()

    def _finish_if_all_stopped(self) -> None:
        if all(member.state is State.STOPPED for member in self._members):
            self._finished.set()
