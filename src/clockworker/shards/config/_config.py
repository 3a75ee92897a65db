"""What `clockworker-serve` was asked to do, as frozen values. Data only: `_parse` makes them of text, `_settings` puts them
together, and the shards get them whole."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.config._http import HttpConfig

MAX_SHARDS = 1024
MAX_SPARES = 64
MAX_SHARE = 10_000
METRICS_PORT = 9464
DEFAULT_MODE = 0o666  # of a Unix socket's file
PREEMPTIVE = "preemptive"  # the word in NAME:SHARE[:SCHEDULER][:preemptive]

LogLevel: TypeAlias = Literal["critical", "error", "warning", "info", "debug"]
LogFormat: TypeAlias = Literal["text", "json"]
OnPanic: TypeAlias = Literal["catch", "propagate"]

# Whether clients of TLS have to show a certificate of their own, and the oldest version that they may speak.
CertReqs: TypeAlias = Literal["none", "optional", "required"]
TlsVersion: TypeAlias = Literal["1.2", "1.3"]

# How connections come to shards: by the kernel's hash over a socket a shard, each to the shard that has the fewest, or
# every client address to the same shard.
Distribution: TypeAlias = Literal["kernel", "least-connections", "fixed"]


BIND_NAME = re.compile(r"[A-Za-z0-9_-]+")

# Of sockets that were passed by systemd, whose unit gives them no name.
_UNNAMED = "unknown"


class TcpAddress(msgspec.Struct, frozen=True, tag="tcp"):
    """`bind` is the name under which the application serves it; without one it is among those that have none."""

    host: str
    port: int
    bind: str = ""

    def __str__(self) -> str:
        return _named(self.bind, f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    """`mode` is the file's: whoever may write it may connect."""

    path: str
    mode: int = DEFAULT_MODE
    bind: str = ""

    def __str__(self) -> str:
        mode = "" if self.mode == DEFAULT_MODE else f",mode={self.mode:03o}"
        return _named(self.bind, f"unix:{self.path}{mode}")


class InheritedSocket(msgspec.Struct, frozen=True, tag="fd"):
    """A listening socket that was open, under this number, when the supervisor was started. Whoever passed it may have
    given it a name, which is that of its bind if it can be one: systemd's `FileDescriptorName=admin` can. Without that line
    systemd calls it by its unit, `app.socket`."""

    fd: int
    name: str = ""

    @property
    def bind(self) -> str:
        return self.name if BIND_NAME.fullmatch(self.name) and self.name != _UNNAMED else ""

    def __str__(self) -> str:
        if self.name and not self.bind:
            return f"fd:{self.fd} ({self.name})"
        return _named(self.bind, f"fd:{self.fd}")


def _named(bind: str, address: str) -> str:
    return f"{bind}={address}" if bind else address


Address: TypeAlias = TcpAddress | UnixAddress | InheritedSocket


class QueueConfig(msgspec.Struct, frozen=True):
    """What is said of the executor queue of this name in each shard.

    share: of the core, 1 to 10000. scheduler: the order inside it, a name, perhaps with parameters, or MODULE:CLASS of the
    application's own. group: the group of queues in which it is, whose share it shares. slice: how
    long it wants to run at a stretch, in seconds. on_panic: what becomes of exceptions that escape its tasks. slow_poll: how
    long a step may take before it is logged, in seconds; 0: for ever. preemptive: whether steps that never await are cut.

    None: nothing is said. Then it is as the application declares it, or else 1, `fifo`, the executor's choice, `catch`,
    `ServeConfig.slow_poll`, and not preemptive."""

    name: str
    share: int | None = None
    scheduler: str | None = None
    slice: float | None = None
    on_panic: OnPanic | None = None
    slow_poll: float | None = None
    preemptive: bool | None = None
    group: str | None = None

    def __str__(self) -> str:
        name = self.name if self.group is None else f"{self.group}/{self.name}"
        parts = (name, self.share, self.scheduler, PREEMPTIVE if self.preemptive else None)
        return ":".join(str(part) for part in parts if part is not None)

    def over(self, other: QueueConfig) -> QueueConfig:
        """What is said here, and of the rest what the other says."""
        given = {field: value for field in self.__struct_fields__ if (value := getattr(self, field)) is not None}
        return msgspec.structs.replace(other, **given)


class QueueGroupConfig(msgspec.Struct, frozen=True):
    """What is said of the group of queues of this name in each shard.

    share: of the core, or of the group around it, 1 to 10000. slice: as of a queue. outer: the group around it.
    None: nothing is said. Then it is as the application declares it, or else 1, that of the quickest queue in it, and none.
    """

    name: str
    share: int | None = None
    slice: float | None = None
    outer: str | None = None

    def over(self, other: QueueGroupConfig) -> QueueGroupConfig:
        """What is said here, and of the rest what the other says."""
        given = {field: value for field in self.__struct_fields__ if (value := getattr(self, field)) is not None}
        return msgspec.structs.replace(other, **given)


class ServeConfig(msgspec.Struct, frozen=True):
    """All that a supervisor and its shards need to know. Times are in seconds. A field is what the option of its name says
    (`clockworker-serve --help`); of the others:

    reload_dirs: what --reload-dir names. pin: not --no-pin. idle_poll_us: --idle-poll, None: by the machine.
    queues, queue_groups: what the options, environment or file say of queues and groups of them; the application may declare
    some, too (`_queues.merge`, `_groups.merge_groups`).
    shard_queues: what they say beyond that of the queues of one shard, by its number.
    addresses: what is listened on; none: the application serves nothing.
    max_connections: how many connections a shard holds open at once, of all servers that have no limit of their own; None: as
    many as come.
    switch_interval: what a thread of a shard may keep the interpreter for while another waits; None: CPython's 0.005.
    shard_lifetime, shard_max_rss: beyond which a shard is replaced.
    timeout_shard_healthcheck: how long a shard's loop may be silent before the shard is replaced; 0: for ever.
    http: what the options of HTTP say. cluster: what `[cluster]` says; None: this machine is alone.
    """

    app: str
    factory: bool = False
    app_dir: str = "."
    env_file: str | None = None
    reload: bool = False
    reload_dirs: tuple[str, ...] = ()
    reload_include: tuple[str, ...] = ()
    reload_exclude: tuple[str, ...] = ()
    shards: int | Literal["auto"] = "auto"
    spares: int = 1  # processes that are started before there is a shard to start
    cpus: tuple[int, ...] | None = None
    pin: bool = True
    idle_poll_us: int | None = None
    credit: int = 1_024  # calls in flight from a shard to another, for each queue
    max_message: int = 16 * 1024 * 1024  # bytes of one of them, or of its reply
    blocking_threads: int = 8  # of each shard, for run_blocking()
    switch_interval: float | None = None
    processes: int | None = None  # of each shard, for run_process(); None: by the number of CPUs
    queues: tuple[QueueConfig, ...] = ()
    queue_groups: tuple[QueueGroupConfig, ...] = ()
    shard_queues: dict[int, tuple[QueueConfig, ...]] = {}
    addresses: tuple[Address, ...] = (TcpAddress("127.0.0.1", 8000),)
    backlog: int = 2048
    distribution: Distribution = "kernel"
    max_connections: int | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    ssl_crl: str | None = None
    ssl_cert_reqs: CertReqs = "none"
    ssl_ciphers: str | None = None
    ssl_version: TlsVersion = "1.2"
    timeout_graceful_shutdown: float = 30.0
    timeout_hand_over: float = 10.0
    timeout_shard_healthcheck: float = 30.0
    timeout_startup: float = 60.0
    shard_lifetime: float | None = None
    shard_max_rss: int | None = None  # bytes
    respawn: bool = True
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    log_config: str | None = None
    access_log: bool = False
    access_log_format: str | None = None
    slow_poll: float = 0.1
    metrics: TcpAddress | None = None
    control: str | None = None
    umask: int | None = None
    pid_file: str | None = None
    http: HttpConfig = HttpConfig()
    cluster: ClusterConfig | None = None

    @property
    def binds(self) -> tuple[str, ...]:
        """The names under which addresses are served, each once; "" is that of all that have none."""
        return tuple(dict.fromkeys(address.bind for address in self.addresses))

    @property
    def lines(self) -> tuple[str, ...]:
        """The binds whose connections the supervisor accepts, and hands over."""
        return self.binds if self.distribution == "least-connections" else ()

    def of_shard(self, shard: int) -> ServeConfig:
        """What this shard needs to know: the others' queues are left out."""
        own = {shard: self.shard_queues[shard]} if shard in self.shard_queues else {}
        return msgspec.structs.replace(self, shard_queues=own)
