"""What `clockworker-serve` was asked to do, as frozen values, and how each is read from text.

Everything here is data and parsing: no sockets are opened, no processes looked at. A wrong value raises
`ConfigurationError` with a message that names the value and says what would be right; where it came from (option or
environment) is added by whoever read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from clockworker import executor
from clockworker._errors import ConfigurationError
from clockworker.executor import Queue, Scheduler

MAX_SHARDS = 1024
MAX_SHARE = 10_000
MAX_CPUS = 8192  # Linux has no more

# The command line's name of a scheduler -> the class in clockworker.executor. Classes are looked up when asked for, so
# that the list of names on offer is the list of those that exist.
SCHEDULERS = {
    "fifo": "RunnableFifo",
    "runnable-fifo": "RunnableFifo",
    "arrival-fifo": "ArrivalFifo",
    "las": "LAS",
    "qlas": "QLAS",
}

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


class TcpAddress(msgspec.Struct, frozen=True, tag="tcp"):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class InheritedSocket(msgspec.Struct, frozen=True, tag="fd"):
    """A listening socket that was open, under this number, when the supervisor was started."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


Address: TypeAlias = TcpAddress | UnixAddress | InheritedSocket


class QueueConfig(msgspec.Struct, frozen=True):
    """One executor queue of every shard: its key, its share of the core (1 to 10000) and the scheduler inside it."""

    name: str
    share: int = 1
    scheduler: str = "fifo"

    def declare(self) -> Queue:
        """The executor's declaration of this queue, with a scheduler of its own."""
        return Queue(self.name, share=self.share, scheduler=make_scheduler(self.scheduler))


class ServeConfig(msgspec.Struct, frozen=True):
    """All that a supervisor and its shards need to know. Times are in seconds."""

    app: str
    factory: bool = False
    app_dir: str = "."
    shards: int | Literal["auto"] = "auto"
    cpus: tuple[int, ...] | None = None
    pin: bool = True
    idle_poll_us: int | None = None
    credit: int = 1_024  # calls in flight from a shard to another, for each queue
    max_message: int = 16 * 1024 * 1024  # bytes of one of them, or of its reply
    blocking_threads: int = 8  # of each shard, for run_blocking()
    queues: tuple[QueueConfig, ...] = (QueueConfig("default"),)
    addresses: tuple[Address, ...] = (TcpAddress("127.0.0.1", 8000),)
    backlog: int = 2048
    timeout_graceful_shutdown: float = 30.0
    timeout_startup: float = 60.0
    respawn: bool = True
    log_level: str = "info"
    pid_file: str | None = None


def available_schedulers() -> list[str]:
    return [name for name, class_name in SCHEDULERS.items() if hasattr(executor, class_name)]


def make_scheduler(name: str) -> Scheduler:
    """A new scheduler. Raises `ConfigurationError` if there is none of that name."""
    if name not in available_schedulers():
        raise ConfigurationError(f"unknown scheduler {name!r}; choose one of {', '.join(available_schedulers())}")
    scheduler: Scheduler = getattr(executor, SCHEDULERS[name])()
    return scheduler


def parse_app(text: str) -> str:
    module, colon, attribute = text.partition(":")
    if not colon or not module or not attribute:
        path = module.removesuffix(".py").replace("/", ".") or "app"
        raise ConfigurationError(
            f"{text!r} does not say what to run; give MODULE:ATTRIBUTE, for example {path}:{attribute or 'main'}"
        )
    if module.endswith(".py") or "/" in module:
        path = module.removesuffix(".py").replace("/", ".")
        raise ConfigurationError(f"{module!r} is a file name; give the module's name: {path}:{attribute}")
    return text


def parse_queue(text: str) -> QueueConfig:
    """NAME:SHARE[:SCHEDULER], for example `foreground:8:las`."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0]:
        raise ConfigurationError(f"{text!r} is not NAME:SHARE[:SCHEDULER], for example foreground:8:las")
    name, share_text, *rest = parts
    scheduler = rest[0] if rest else "fifo"
    share = _parse_int(share_text, 1, MAX_SHARE, f"{text!r}: the share")
    if scheduler not in available_schedulers():
        raise ConfigurationError(
            f"{text!r}: unknown scheduler {scheduler!r}; choose one of {', '.join(available_schedulers())}"
        )
    return QueueConfig(name, share, scheduler)


def parse_queues(texts: Sequence[str]) -> tuple[QueueConfig, ...]:
    queues = tuple(parse_queue(text) for text in texts)
    names = [queue.name for queue in queues]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"queue {name!r} is given {names.count(name)} times; give each name once")
    return queues


def parse_shards(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    return _parse_int(text, 1, MAX_SHARDS, "the number of shards", or_else=", or auto for one a CPU")


def parse_cpus(text: str) -> tuple[int, ...]:
    """A list of CPU numbers and ranges, as taskset and cpusets write them: `0-3,8`. The order given is kept."""
    cpus: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < MAX_CPUS):
            raise ConfigurationError(f"{text!r} is not a list of CPUs; give numbers and ranges, for example 0-3,8")
        cpus.extend(range(int(first), int(last) + 1))
    if len(set(cpus)) != len(cpus):
        raise ConfigurationError(f"{text!r} names a CPU twice; give each once")
    return tuple(cpus)


def parse_bind(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` (every IPv4 address) or `unix:PATH`."""
    if text.startswith("unix:"):
        return parse_uds(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ConfigurationError(f"{text!r} is no address; give HOST:PORT, [IPV6]:PORT or unix:PATH")
    return TcpAddress(host.strip("[]") or "0.0.0.0", parse_port(port))


def parse_uds(path: str) -> UnixAddress:
    # sockaddr_un holds 108 bytes, the last of them a zero.
    if not path or "\0" in path or len(path.encode()) > 107:
        raise ConfigurationError(f"{path!r} cannot name a Unix socket; give a path of 1 to 107 bytes")
    return UnixAddress(path)


def parse_port(text: str) -> int:
    return _parse_int(text, 0, 65535, "the port")


def parse_fd(text: str) -> InheritedSocket:
    return InheritedSocket(_parse_int(text, 0, 2**31 - 1, "the descriptor"))


def parse_backlog(text: str) -> int:
    return _parse_int(text, 1, 65535, "the backlog")


def parse_idle_poll(text: str) -> int:
    return _parse_int(text, 0, 1_000_000, "the time to poll, in microseconds,")


def parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400 * 365:
        raise ConfigurationError(f"{text!r} is no time; give seconds, for example 30 or 0.5")
    return seconds


def parse_log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ConfigurationError(f"unknown log level {text!r}; choose one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def parse_flag(text: str) -> bool:
    """The value of a switch that comes from the environment."""
    value = text.strip().lower()
    if value not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise ConfigurationError(f"{text!r} is neither on nor off; give 1 or 0")
    return value in ("1", "true", "yes", "on")


def _parse_int(text: str, lowest: int, highest: int, what: str, *, or_else: str = "") -> int:
    try:
        value = int(text)
    except ValueError:
        raise ConfigurationError(
            f"{what} is {text!r}; give a whole number from {lowest} to {highest}{or_else}"
        ) from None
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{what} is {value}; give a whole number from {lowest} to {highest}{or_else}")
    return value
