"""The supervisor: starts the shards, replaces those that die, stops them all. It reads from top to bottom.

It never imports the application and never looks into a ring, so that nothing an application does can break it. All that
happens to it arrives on one asyncio loop: a signal (`handle_<name>`), a message from a shard, the end of a shard's
process (its pidfd becomes readable), or a timer. Each shard has one timer at a time, whose meaning goes with its
state: the start-up limit while starting, the grace while draining, the delay while backing off.

Peers and death. Each ordered pair of shards shares a ring, and every ring belongs to one pair of incarnations: when a
shard's end has been reaped, its peers get `Disconnect`; when its successor has been spawned, both get `Connect` with
fresh rings and a new epoch. Calls to a starting shard wait in its ring.

Stopping has two steps. `Stop` goes to all; each finishes its open work and reports `Drained`, but still answers its
peers, whose open work may need it. When all have, `Leave` lets them go. The grace covers both; then comes SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections import deque
from typing import Any

from clockworker import ipc
from clockworker._errors import ControlError
from clockworker.shards._config import ServeConfig
from clockworker.shards._control import (
    Begin,
    Configure,
    Connect,
    Disconnect,
    Drained,
    Failed,
    Leave,
    Poisoned,
    Ready,
    Stop,
)
from clockworker.shards._host import raise_descriptor_limit
from clockworker.shards._lifecycle import Lifecycle, RestartPolicy, Restarts, State
from clockworker.shards._placement import Placement
from clockworker.shards._process import ShardProcess
from clockworker.shards._sockets import Listeners

log = logging.getLogger("clockworker.supervisor")

EXIT_OK = 0
EXIT_CRASHED = 1
EXIT_START_UP = 3

# Wrappers (timeout, npm, make) pass a signal on that the terminal or they themselves sent to the whole group: the same
# wish arrives twice. Nobody's second thoughts come this soon.
ECHO_S = 0.1

# How long a drained shard may take to end once the last of the others has.
LEAVE_S = 1.0

RING_CAPACITY = 1 << 21  # bytes; untouched pages of a ring take no memory, and a ring whose reader keeps up touches few


class _Shard:
    """What is known of one shard over all its incarnations. `process` is None while there is none."""

    def __init__(self, id: int, cpu: int | None) -> None:
        self.id = id
        self.cpu = cpu
        self.lifecycle = Lifecycle()
        self.restarts = Restarts(RestartPolicy())
        self.process: ShardProcess | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.drained = False

    @property
    def state(self) -> State:
        return self.lifecycle.state

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def __str__(self) -> str:
        return f"shard {self.id}"


class Supervisor:
    """`run()` serves until told to stop and returns the exit status."""

    def __init__(self, config: ServeConfig, placement: Placement, listeners: Listeners) -> None:
        self._config = config
        self._idle_poll_us = placement.idle_poll_us if config.idle_poll_us is None else config.idle_poll_us
        self._listeners = listeners
        self._shards = [_Shard(id, cpu) for id, cpu in enumerate(placement.cpus)]
        self._epoch = 0
        self._pair_epochs: dict[tuple[int, int], int] = {}
        self._wired = False  # every shard has been spawned and connected once
        self._serving = False  # every shard has been ready once
        self._stopping = False
        self._stop_asked = -math.inf  # the loop's time of the signal that asked for it
        self._exit_status = EXIT_OK
        self._to_roll: deque[_Shard] = deque()
        self._rolling: _Shard | None = None

    def run(self) -> int:
        """Raises `ConfigurationError` if the limit on open files is too low for so many shards."""
        raise_descriptor_limit(len(self._shards), len(self._listeners.of(0)))
        return asyncio.run(self._supervise())

    async def _supervise(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        for name in ("int", "term", "quit", "hup", "usr1", "usr2", "ttin", "ttou"):
            self._loop.add_signal_handler(getattr(signal, f"SIG{name.upper()}"), getattr(self, f"handle_{name}"))
        self._loop.set_exception_handler(self._broken)
        for shard in self._shards:
            if not self._stopping:
                self._start(shard)
        self._wired = True
        for shard in self._shards:
            if shard.process is not None:
                shard.process.channel.send(Begin())
        await self._finished.wait()
        return self._exit_status

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours raised. Whatever state that left behind, nothing is served under it."""
        loop.default_exception_handler(context)
        self._stop(EXIT_CRASHED)
        self._exit_status = EXIT_CRASHED
        self._kill_all()

    # Signals.

    def handle_int(self) -> None:
        self._stop_or_kill("SIGINT")

    def handle_term(self) -> None:
        self._stop_or_kill("SIGTERM")

    def handle_quit(self) -> None:
        log.info("SIGQUIT: stopping at once")
        self._kill_all()

    def handle_hup(self) -> None:
        if self._stopping:
            return
        log.info("SIGHUP: replacing the shards, one at a time")
        self._to_roll = deque(self._shards)
        self._roll_next()

    def handle_usr1(self) -> None:
        log.info("SIGUSR1 ignored: the log goes to standard error, there is no file to reopen")

    def handle_usr2(self) -> None:
        log.info("SIGUSR2 ignored")

    def handle_ttin(self) -> None:
        log.info("SIGTTIN ignored: the number of shards is fixed")

    def handle_ttou(self) -> None:
        log.info("SIGTTOU ignored: the number of shards is fixed")

    def _stop_or_kill(self, name: str) -> None:
        if self._stopping:
            if self._loop.time() - self._stop_asked < ECHO_S:
                return
            log.info("%s again: stopping at once", name)
            self._kill_all()
        else:
            self._stop_asked = self._loop.time()
            log.info("%s: stopping, open requests have %g s", name, self._config.timeout_graceful_shutdown)
            self._stop(EXIT_OK)

    # Starting.

    def _start(self, shard: _Shard) -> None:
        shard.timer = None
        shard.drained = False
        shard.lifecycle.to(State.STARTING)
        shard.restarts.started(self._loop.time())
        try:
            process = ShardProcess(shard.id, len(self._shards), shard.cpu)
        except OSError as error:
            log.error("%s cannot be started: %s", shard, error)
            self._died(shard)
            return
        shard.process = process
        self._loop.add_reader(process.pidfd, self._exited, shard, process)
        self._loop.add_reader(process.channel.fileno(), self._read, shard, process)
        configure = Configure(shard.id, len(self._shards), shard.cpu, self._idle_poll_us, self._config)
        listening = [sock.fileno() for sock in self._listeners.of(shard.id)]
        process.channel.send(configure, [*process.doorbell, process.counters_descriptor, *listening])
        for peer in self._shards:
            if peer is not shard and peer.process is not None:
                self._connect(shard.id, process, peer.id, peer.process)
        if self._wired:
            process.channel.send(Begin())
        shard.timer = self._loop.call_later(self._config.timeout_startup, self._start_up_overdue, shard)

    def _connect(self, a: int, process_a: ShardProcess, b: int, process_b: ShardProcess) -> None:
        self._epoch += 1
        self._pair_epochs[min(a, b), max(a, b)] = self._epoch
        a_to_b = ipc.create_ring(RING_CAPACITY)
        b_to_a = ipc.create_ring(RING_CAPACITY)
        process_a.channel.send(Connect(b, self._epoch), [b_to_a, a_to_b, *process_b.doorbell])
        process_b.channel.send(Connect(a, self._epoch), [a_to_b, b_to_a, *process_a.doorbell])
        os.close(a_to_b)
        os.close(b_to_a)
        self._flush_when_writable(process_a)
        self._flush_when_writable(process_b)

    def _start_up_overdue(self, shard: _Shard) -> None:
        log.error("%s was not ready within %g s (--timeout-startup): killed", shard, self._config.timeout_startup)
        assert shard.process is not None
        shard.process.kill()
        if not self._serving:
            self._stop(EXIT_START_UP)

    # What shards say.

    def _read(self, shard: _Shard, process: ShardProcess) -> None:
        try:
            while True:
                received = process.channel.receive()
                if received is None:
                    self._loop.remove_reader(process.channel.fileno())  # its end shows at the pidfd
                    return
                self._handle(shard, process, received[0])
        except BlockingIOError:
            pass
        except ControlError as error:
            log.error("%s sent nonsense: %s: killed", shard, error)
            self._loop.remove_reader(process.channel.fileno())
            process.kill()

    def _handle(self, shard: _Shard, process: ShardProcess, message: object) -> None:
        match message:
            case Ready():
                if shard.state is State.STARTING:  # else it had been told to stop meanwhile
                    self._became_ready(shard, process)
            case Drained() if shard.state is State.DRAINING:
                shard.drained = True
                self._let_go()
            case Drained():  # unasked: someone sent SIGTERM to this one shard. It leaves and is replaced
                process.channel.send(Leave())
            case Failed():
                self._failed(shard, message)
            case Poisoned(peer, epoch):
                self._made_anew(shard, process, peer, epoch)
            case _:
                raise ControlError(f"{type(message).__name__} is for shards")

    def _became_ready(self, shard: _Shard, process: ShardProcess) -> None:
        shard.cancel_timer()
        shard.lifecycle.to(State.READY)
        shard.restarts.became_ready(self._loop.time())
        where = "any CPU" if shard.cpu is None else f"CPU {shard.cpu}"
        log.info("%s ready on %s, pid %d (%.3f s)", shard, where, process.pid, process.age)
        if not self._serving and all(shard.state is State.READY for shard in self._shards):
            self._serving = True
            log.info("serving with %d shard%s", len(self._shards), "s" if len(self._shards) > 1 else "")
        if shard is self._rolling:
            self._rolling = None
            self._roll_next()

    def _made_anew(self, shard: _Shard, process: ShardProcess, peer: int, epoch: int) -> None:
        """A ring was found broken. The pair gets new ones, unless it has them already: both ends may report the same."""
        other = self._shards[peer].process if 0 <= peer < len(self._shards) and peer != shard.id else None
        if other is not None and self._pair_epochs.get((min(shard.id, peer), max(shard.id, peer))) == epoch:
            log.error("shard %d broke the rules of its ring to %s: the two get new ones", peer, shard)
            self._connect(shard.id, process, peer, other)

    def _failed(self, shard: _Shard, failed: Failed) -> None:
        """Before all have been ready once this is the end, and is reported once: the others fail in the same way."""
        if self._stopping:
            return
        log.error("%s: %s", shard, "\n".join(filter(None, (failed.message, failed.traceback))))
        if not self._serving:
            self._stop(EXIT_START_UP)

    def _flush_when_writable(self, process: ShardProcess) -> None:
        if process.channel.backlogged:
            self._loop.add_writer(process.channel.fileno(), self._flush, process)

    def _flush(self, process: ShardProcess) -> None:
        process.channel.flush()
        if not process.channel.backlogged:
            self._loop.remove_writer(process.channel.fileno())

    # The end of a process.

    def _exited(self, shard: _Shard, process: ShardProcess) -> None:
        self._read(shard, process)  # its last words may still be unread
        for remove in (self._loop.remove_reader, self._loop.remove_writer):
            remove(process.channel.fileno())
        self._loop.remove_reader(process.pidfd)
        end, age, counts = process.reap(), process.age, process.counters.read()
        process.close()
        shard.process = None
        shard.cancel_timer()
        for peer in self._shards:
            if peer.process is not None:
                peer.process.channel.send(Disconnect(shard.id))
                self._flush_when_writable(peer.process)
        if shard.state is State.DRAINING:
            log.info("%s %s after %.1f s: %s", shard, end, age, counts.summary())
            shard.lifecycle.to(State.STOPPED)
            self._stopped(shard)
        else:
            log.error("%s (pid %d) %s after %.1f s: %s", shard, process.pid, end, age, counts.summary())
            self._died(shard)

    def _died(self, shard: _Shard) -> None:
        shard.lifecycle.to(State.DEAD)
        if self._stopping:
            shard.lifecycle.to(State.STOPPED)
            self._stopped(shard)
            return
        delay = shard.restarts.died(self._loop.time()) if self._config.respawn else None
        if delay is not None:
            log.info("%s is restarted%s", shard, f" in {delay:g} s" if delay else "")
            shard.lifecycle.to(State.BACKOFF)
            shard.timer = self._loop.call_later(delay, self._start, shard)
            return
        if self._config.respawn:
            log.error("%s crashes again and again (5 starts within 10 s): giving up", shard)
        else:
            log.error("%s is not restarted (--no-respawn): stopping", shard)
        shard.lifecycle.to(State.STOPPED)
        self._stop(EXIT_CRASHED)

    def _stopped(self, shard: _Shard) -> None:
        if not self._stopping:  # rolled
            self._start(shard)
            return
        self._let_go()
        self._finish_if_all_stopped()

    # Stopping.

    def _stop(self, exit_status: int) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._exit_status = exit_status
        self._listeners.refuse_new()
        self._listeners.close()
        for shard in self._shards:
            if shard.state is State.BACKOFF:
                shard.cancel_timer()
                shard.lifecycle.to(State.STOPPED)
            else:
                self._drain(shard)
        self._finish_if_all_stopped()

    def _drain(self, shard: _Shard) -> None:
        if shard.process is None or shard.state is State.DRAINING:
            return
        shard.cancel_timer()
        shard.lifecycle.to(State.DRAINING)
        shard.process.channel.send(Stop())
        self._flush_when_writable(shard.process)
        shard.timer = self._loop.call_later(self._config.timeout_graceful_shutdown, self._grace_over, shard)

    def _grace_over(self, shard: _Shard) -> None:
        if shard.drained and not self._all_drained():
            # It waits for the others only. Their grace ends now, and then it leaves.
            shard.timer = self._loop.call_later(LEAVE_S, self._grace_over, shard)
            return
        grace = self._config.timeout_graceful_shutdown
        what = "did not end" if shard.drained else "still had work"
        log.warning("%s %s %g s after it was told to stop: killed", shard, what, grace)
        assert shard.process is not None
        shard.process.kill()

    def _let_go(self) -> None:
        """Let the drained leave, if nobody still draining may need them."""
        if self._all_drained():
            for shard in self._shards:
                if shard.state is State.DRAINING and shard.process is not None:
                    shard.process.channel.send(Leave())
                    self._flush_when_writable(shard.process)

    def _all_drained(self) -> bool:
        return all(shard.drained for shard in self._shards if shard.state is State.DRAINING)

    def _kill_all(self) -> None:
        self._stop(EXIT_OK)
        for shard in self._shards:
            if shard.process is not None:
                shard.process.kill()

    def _finish_if_all_stopped(self) -> None:
        if all(shard.state is State.STOPPED for shard in self._shards):
            self._finished.set()

    # Replacing one after the other.

    def _roll_next(self) -> None:
        while self._rolling is None and self._to_roll and not self._stopping:
            shard = self._to_roll.popleft()
            if shard.state is State.READY:  # one that is starting anyway will be new
                self._rolling = shard
                self._drain(shard)
