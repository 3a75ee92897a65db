"""What the supervisor shows of itself and its shards: the books, the page of metrics, the control socket.

Reading is the supervisor's alone: it looks into the slots whenever somebody asks, and once a second for the books. The
shards take no part, so a stalled one is seen as well as any.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from clockworker._errors import AddressUnavailable, ConfigurationError
from clockworker._version import __version__
from clockworker.executor import compiled
from clockworker.shards.config._config import ServeConfig, TcpAddress, UnixAddress
from clockworker.shards.machine._host import remove_own
from clockworker.shards.machine._sockets import check_address, explain, resolve_here
from clockworker.shards.observe import _query_paths
from clockworker.shards.observe._ledger import Ledger, Totals
from clockworker.shards.observe._query_server import MAX_CONNECTIONS, Answers, QueryServer
from clockworker.shards.observe._view import (
    ClusterStanding,
    Event,
    Presence,
    ServerStats,
    view_all,
    view_cluster,
    view_shard,
    view_topics,
)
from clockworker.shards.protocol._reading import Reading, RingReading
from clockworker.shards.protocol._rest import SUPERVISOR_AFTER_S, next_tick
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess

if TYPE_CHECKING:
    from clockworker.shards.observe._http import Answer, Page, PageServer

log = logging.getLogger("clockworker.supervisor")

EVERY_S = 1.0
KEPT_EVENTS = 50


class Observer:
    """addresses: what it listens on. ready: whether the server serves. trace: records all shards for some seconds. cluster:
    how this node stands in it."""

    def __init__(
        self,
        config: ServeConfig,
        members: Members,
        addresses: list[str],
        ready: Callable[[], bool],
        trace: Callable[[float], AsyncGenerator[tuple[int, int], None]],
        cluster: Callable[[], ClusterStanding | None],
    ) -> None:
        self._config = config
        self._members = members
        self._addresses = addresses
        self._ready = ready
        self._trace = trace
        self._cluster = cluster
        self._started = time.time()
        self._ledger = Ledger(len(members))
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._told: set[int] = set()  # processes whose slots make no sense
        self._http_sockets: list[socket.socket] = []
        self._query_socket: socket.socket | None = None
        self._query_path: Path | None = None
        self._query_file: os.stat_result | None = None

    def open(self, connections: int) -> None:
        """Bind what was asked for. connections: for how many at once there are descriptors. Raises `AddressUnavailable`, and
        `ConfigurationError` for a directory that is not ours."""
        self._query_connections = min(MAX_CONNECTIONS, connections // 4)
        self._http_connections = connections - self._query_connections
        if self._config.metrics is not None:
            self._http_sockets = _listen(self._config.metrics)
        if self._config.control is not None:
            self._bind_query(Path(self._config.control))
            return
        try:
            self._bind_query(_query_paths.default_path(os.environ))
        except (AddressUnavailable, ConfigurationError) as error:
            log.warning("there will be no control socket for clockworker-top: %s", error)

    def _bind_query(self, path: Path) -> None:
        self._query_socket = _query_paths.bind(path)
        self._query_path, self._query_file = path, path.stat()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._http: PageServer | None = None
        self._query: QueryServer | None = None
        if self._http_sockets:
            self._http = await self._serve_http(self._http_sockets)
        if self._query_socket is not None:
            self._query = QueryServer(
                self._query_socket, Answers(self.stats, self.rings, self._trace), self._query_connections
            )
            await self._query.start()
        self._tick()

    async def stop(self) -> None:
        self._next.cancel()
        if self._query_path is not None and self._query_file is not None:
            remove_own(self._query_path, self._query_file)
        for server in (self._http, self._query):
            if server is not None:
                await server.close()

    # What the supervisor tells.

    def started(self, member: Member) -> None:
        if self._ledger.started(member.id) > 1:
            pid = f", pid {member.process.pid}" if member.process is not None else ""
            if member.came_by == "roll":
                self._happened(member, "roll", f"{member} is replaced{pid}")
            else:
                self._happened(member, "crash", f"{member} is started again{pid}")

    def died(self, member: Member, last: Reading) -> None:
        self._ledger.died(member.id, last)
        if member.process is not None:
            self._told.discard(member.process.pid)

    def stalled(self, member: Member, process: ShardProcess, seen: str) -> bool:
        """seen: in words. False for another look at the same stall."""
        is_new = self._ledger.stalled(member.id, process.pulse.beat)
        if is_new:
            self._happened(member, "stall", seen.partition("\n")[0])
        return is_new

    def _happened(self, member: Member, what: Literal["stall", "crash", "roll"], detail: str) -> None:
        number = self._events[-1].number + 1 if self._events else 1
        self._events.append(Event(number, time.time(), member.id, what, detail))

    # What others ask.

    def stats(self) -> ServerStats:
        totals, presences, now = self._totals(), self._presences(), self._loop.time()
        window_s, lately = self._ledger.recently(now, totals)
        queues, routes, total = view_all(presences, totals, lately, window_s)
        now_ns = time.monotonic_ns()
        standing = self._cluster()
        return ServerStats(
            version=__version__,
            compiled=compiled,
            app=self._config.app,
            addresses=self._addresses,
            serving=self._ready(),
            pid=os.getpid(),
            uptime_s=time.time() - self._started,
            window_s=window_s,
            shards=[
                view_shard(presence, one, recent, window_s, now_ns)
                for presence, one, recent in zip(presences, totals, lately, strict=True)
            ],
            queues=queues,
            routes=routes,
            topics=view_topics(total.since_start, lately, window_s),
            total=total,
            events=list(self._events),
            cluster=None if standing is None else view_cluster(standing, total.since_start, lately, window_s),
        )

    def rings(self) -> list[list[RingReading]]:
        return [[] if member.process is None else list(member.process.slots.read_rings()) for member in self._members]

    def _totals(self) -> list[Totals]:
        return self._ledger.totals([self._reading(member) for member in self._members])

    def _reading(self, member: Member) -> Reading | None:
        """While a shard is replaced there are two of it."""
        found = [
            reading
            for each in self._members.everyone()
            if each.id == member.id and each.process is not None
            if (reading := each.process.slots.read()).written_ns or each is member
        ]
        return Reading.total(found) if len(found) > 1 else found[0] if found else None

    def _presences(self) -> list[Presence]:
        return [
            Presence(
                member.id,
                member.state.value,
                None if member.process is None else member.process.pid,
                member.cpu,
                0.0 if member.process is None else member.process.age,
            )
            for member in self._members
        ]

    def _tick(self) -> None:
        self._next = self._loop.call_at(next_tick(self._loop.time(), EVERY_S, SUPERVISOR_AFTER_S), self._tick)
        self._ledger.remember(self._loop.time(), self._totals())
        for member in self._members:
            if member.process is not None and member.process.slots.nonsense and member.process.pid not in self._told:
                self._told.add(member.process.pid)
                log.error(
                    "%s writes statistics that make no sense (%s): what is shown of it is from before",
                    member,
                    member.process.slots.nonsense,
                )

    # HTTP.

    async def _serve_http(self, sockets: list[socket.socket]) -> PageServer:
        from clockworker.shards.observe._http import Answer, PageServer, text
        from clockworker.shards.observe._live import live_pages

        def ready_page(accept: str) -> Answer:
            up = sum(member.state is State.READY for member in self._members)
            ready = self._ready() and up > 0
            said = f"{'ready' if ready else 'not ready'}: {up} of {len(self._members)} shards"
            if (standing := self._cluster()) is not None:
                said += f", {'in' if standing.joined else 'not in'} cluster {standing.name} as {standing.node}"
            return text(200 if ready else 503, said)

        server = PageServer(
            sockets,
            {
                "/metrics": self._metrics_page(),
                "/stats": lambda accept: Answer(200, "application/json", msgspec.json.encode(self.stats())),
                "/health": lambda accept: text(200, "the supervisor is well"),
                "/ready": ready_page,
                **live_pages(self.stats, self.rings),
            },
            self._http_connections,
        )
        await server.start()
        for sock in sockets:
            address = TcpAddress(*sock.getsockname()[:2])
            log.info("metrics on http://%s/metrics", address)
            log.info("live page on http://%s/", address)
        return server

    def _metrics_page(self) -> Page:
        from clockworker.shards.observe._http import Answer, text

        if lacks := lacking_for_metrics():
            return lambda accept: text(501, lacks)

        from clockworker.shards.observe._metrics import Metrics, Snapshot

        def snapshot() -> Snapshot:
            return Snapshot(self._presences(), self._totals(), self._started, time.monotonic_ns(), self._cluster())

        metrics = Metrics(snapshot)

        def page(accept: str) -> Answer:
            body, content_type = metrics.page(accept)
            return Answer(200, content_type, body)

        return page


def lacking_for_metrics() -> str | None:
    """What to install for the page of metrics; None if it is there. The other pages need nothing."""
    if importlib.util.find_spec("prometheus_client") is not None:
        return None
    return "/metrics needs prometheus-client, which is not installed: pip install 'clockworker[metrics]'"


def check_metrics(address: TcpAddress) -> None:
    """Raises `AddressUnavailable`."""
    try:
        check_address(address, "--metrics")
    except AddressUnavailable as error:
        raise AddressUnavailable(f"--metrics: {error}") from error


def check_control(path: str) -> None:
    """Raises `AddressUnavailable`."""
    try:
        check_address(UnixAddress(path), "--control")
    except AddressUnavailable as error:
        raise AddressUnavailable(f"--control: {error}") from error


def _listen(address: TcpAddress) -> list[socket.socket]:
    """Where the name has several addresses, at each of them."""
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        try:
            for family, where in resolve_here(address):
                opened.enter_context(sock := socket.create_server(where, family=family))
                sockets.append(sock)
        except AddressUnavailable as error:
            raise AddressUnavailable(f"--metrics: {error}") from error
        except OSError as error:
            raise AddressUnavailable(f"--metrics: {explain(address, error, '--metrics')}") from error
        opened.pop_all()
    return sockets
