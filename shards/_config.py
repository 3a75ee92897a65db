"""What `clockworker-serve` was asked to do, as frozen values. Data only: `_parse` makes them of text, `_settings` puts them
together, and the shards get them whole."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from clockworker._errors import ApplicationError
from clockworker.executor import Queue
from clockworker.shards._schedulers import make_scheduler

MAX_SHARDS = 1024
MAX_SPARES = 64
MAX_SHARE = 10_000
METRICS_PORT = 9464

LogLevel: TypeAlias = Literal["critical", "error", "warning", "info", "debug"]
LogFormat: TypeAlias = Literal["text", "json"]
OnPanic: TypeAlias = Literal["catch", "propagate"]

# How connections come to shards: by the kernel's hash over a socket a shard, each to the shard that has the fewest, or
# every client address to the same shard.
Distribution: TypeAlias = Literal["kernel", "least-connections", "fixed"]


class TcpAddress(msgspec.Struct, frozen=True, tag="tcp"):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    """`mode` is the file's: whoever may write it may connect."""

    path: str
    mode: int = 0o666

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.mode == 0o666 else f"unix:{self.path},mode={self.mode:03o}"


class InheritedSocket(msgspec.Struct, frozen=True, tag="fd"):
    """A listening socket that was open, under this number, when the supervisor was started. Whoever passed it may have
    given it a name."""

    fd: int
    name: str = ""

    def __str__(self) -> str:
        return f"fd:{self.fd} ({self.name})" if self.name else f"fd:{self.fd}"


Address: TypeAlias = TcpAddress | UnixAddress | InheritedSocket


class QueueConfig(msgspec.Struct, frozen=True):
    """One executor queue of a shard: its key, its share of the core (1 to 10000), the scheduler inside it (a name, or
    MODULE:CLASS of the application's own), how long it wants to run at a stretch (seconds; the executor's choice unless
    given), what becomes of exceptions that escape its tasks, and how long a step may take before it is logged (seconds, 0
    for ever; `ServeConfig.slow_poll` unless given)."""

    name: str
    share: int = 1
    scheduler: str = "fifo"
    slice: float | None = None
    on_panic: OnPanic = "catch"
    slow_poll: float | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.share}:{self.scheduler}"

    def declare(self, app_dir: str = ".") -> Queue:
        """The executor's declaration of this queue, with a scheduler of its own. Raises as `make_scheduler` does."""
        try:
            scheduler = make_scheduler(self.scheduler, app_dir)
        except ApplicationError as error:
            raise ApplicationError(f"the scheduler of queue {self.name!r}: {error}") from None
        return Queue(self.name, share=self.share, scheduler=scheduler, slice=self.slice, on_panic=self.on_panic)


class ServeConfig(msgspec.Struct, frozen=True):
    """All that a supervisor and its shards need to know. Times are in seconds.

    shard_queues: all queues of a shard, by its number, where they are not `queues`; `queues_of` knows.
    max_connections: how many connections of `Shard.start_server` a shard holds open at once; None: as many as come.
    timeout_shard_healthcheck: how long a shard's loop may be silent before the shard is replaced; 0: for ever.
    """

    app: str
    factory: bool = False
    app_dir: str = "."
    env_file: str | None = None
    reload: bool = False
    reload_dirs: tuple[str, ...] = ()
    shards: int | Literal["auto"] = "auto"
    spares: int = 1  # processes that are started before there is a shard to start
    cpus: tuple[int, ...] | None = None
    pin: bool = True
    idle_poll_us: int | None = None
    credit: int = 1_024  # calls in flight from a shard to another, for each queue
    max_message: int = 16 * 1024 * 1024  # bytes of one of them, or of its reply
    blocking_threads: int = 8  # of each shard, for run_blocking()
    queues: tuple[QueueConfig, ...] = (QueueConfig("default"),)
    shard_queues: dict[int, tuple[QueueConfig, ...]] = {}
    addresses: tuple[Address, ...] = (TcpAddress("127.0.0.1", 8000),)
    backlog: int = 2048
    distribution: Distribution = "kernel"
    max_connections: int | None = None
    timeout_graceful_shutdown: float = 30.0
    timeout_shard_healthcheck: float = 30.0
    timeout_startup: float = 60.0
    respawn: bool = True
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    log_config: str | None = None
    access_log: bool = False
    slow_poll: float = 0.1
    metrics: TcpAddress | None = None
    control: str | None = None
    pid_file: str | None = None

    def queues_of(self, shard: int) -> tuple[QueueConfig, ...]:
        """All queues of that shard, in the order of their declaration."""
        return self.shard_queues.get(shard, self.queues)

    def queue_names(self, shard: int) -> list[str]:
        """Their names alone."""
        return [queue.name for queue in self.queues_of(shard)]

    def of_shard(self, shard: int) -> ServeConfig:
        """What this shard needs to know: the others' queues are left out."""
        return msgspec.structs.replace(self, queues=self.queues_of(shard), shard_queues={})
