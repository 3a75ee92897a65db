"""How each value of the configuration is read from text.

A wrong one raises `ConfigurationError` with a message that names it and says what would be right; where it came from
(option, variable or file) is added by whoever asked.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import (
    BIND_NAME,
    MAX_SHARDS,
    MAX_SPARES,
    METRICS_PORT,
    Address,
    CertReqs,
    Distribution,
    InheritedSocket,
    LogFormat,
    LogLevel,
    TcpAddress,
    TlsVersion,
    UnixAddress,
)
from clockworker.shards.config._http import MAX_COUNT, TOKEN, Interface, LifespanMode

T = TypeVar("T")

MAX_CPUS = 8192  # Linux has no more

NO_BIND = "none"

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

# Headers of each response cannot be those that say where it ends.
_FRAMING = ("connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade")

LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


def parse_app(text: str) -> str:
    module, colon, attribute = text.partition(":")
    path = module.removeprefix("./").removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() for part in path.split(".")):
        path = "app"
    if not colon or not module or not attribute or " " in text:
        example = attribute if attribute.isidentifier() else "main"
        raise ConfigurationError(
            f"{text!r} does not say what to run; give MODULE:ATTRIBUTE, for example {path}:{example}"
        )
    if module.startswith(("/", "../")):
        directory, _, name = module.removesuffix(".py").rpartition("/")
        raise ConfigurationError(
            f"{module!r} is a file name; give the module's name, and where it is: "
            f"--app-dir {directory or '/'} {name}:{attribute}"
        )
    if module.endswith(".py") or "/" in module:
        raise ConfigurationError(f"{module!r} is a file name; give the module's name: {path}:{attribute}")
    if module.startswith(".") or ".." in module or module.endswith("."):
        raise ConfigurationError(f"{module!r} is no module's name; give it as it would be imported, for example app")
    return text


def parse_shards(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    return parse_int(text, 1, MAX_SHARDS, "the number of shards", or_else=", or auto for one a CPU")


def parse_spares(text: str) -> int:
    return parse_int(text, 0, MAX_SPARES, "the number of spare processes")


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
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` (every IPv4 address), `unix:PATH` or `fd:N`; each may have a name, `NAME=...`."""
    if (named := re.match("([^:/,=]*)=", text)) is None:
        return parse_address(text)
    if not BIND_NAME.fullmatch(named[1]):
        raise ConfigurationError(
            f"{text!r}: {named[1]!r} is no name; give letters, digits, - and _ before the =, for example "
            "admin=127.0.0.1:9000"
        )
    address = parse_address(text[named.end() :])
    if isinstance(address, InheritedSocket):
        return InheritedSocket(address.fd, named[1])
    return msgspec.structs.replace(address, bind=named[1])


def parse_address(text: str) -> Address:
    """The same without a name."""
    if text.startswith("unix:"):
        return parse_uds(text.removeprefix("unix:"))
    if text.startswith("fd:"):
        return parse_fd(text.removeprefix("fd:"))
    host, colon, port = text.rpartition(":")
    if not colon or "=" in host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ConfigurationError(
            f"{text!r} is no address; give HOST:PORT{_example(text)}, [IPV6]:PORT, unix:PATH or fd:N"
        )
    return TcpAddress(host.strip("[]") or "0.0.0.0", parse_port(port))


def _example(text: str, port: int = 8000) -> str:
    """What was probably meant, in brackets."""
    text = re.sub(r"^\w+://([^/]*).*", r"\1", text)
    if text.isdecimal():
        return f" (127.0.0.1:{text})"
    if re.fullmatch(r"[\w.-]+:\d+", text):
        return f" ({text})"
    if found := re.fullmatch(r"\[?([\da-f:]*:)\]?(\d{4,5})?|\[([\da-f:]+)\]", text):
        return f" ([{found[3] or found[1].removesuffix(':') or '::'}]:{found[2] or port})"
    return f" ({text}:{port})" if re.fullmatch(r"[\w.-]+", text) else ""


def parse_host(text: str) -> str:
    """A name or an address, an IPv6 one with or without brackets."""
    host = text[1:-1] if re.fullmatch(r"\[.*\]", text) else text
    if host and not re.search(r"[/\s\[\]]|^[^:]*:[^:]*$", host):
        return host
    name, _, port = host.partition(":")
    hint = f"; give --bind {text}, or --host {name} --port {port}" if name and port.isdecimal() else ""
    raise ConfigurationError(f"{text!r} is no host{hint or '; give a name or address, for example 0.0.0.0 for all'}")


def parse_path(text: str) -> str:
    if not text or "\0" in text:
        raise ConfigurationError(f"{text!r} is no path; give one, or leave the option out")
    return text


def parse_binds(texts: Sequence[str]) -> tuple[Address, ...]:
    """None at all, or `none`: nothing is listened on."""
    if [*texts] == [NO_BIND]:
        return ()
    if NO_BIND in texts:
        raise ConfigurationError(f"{NO_BIND} is for a server that listens on nothing; take it out, or the addresses")
    return tuple(parse_bind(text) for text in texts)


def parse_uds(text: str) -> UnixAddress:
    """PATH, or `PATH,mode=660`: who may write the file may connect."""
    path, comma, mode = text.rpartition(",mode=")
    if not comma:
        return UnixAddress(parse_socket_path(text))
    try:
        return UnixAddress(parse_socket_path(path), parse_mode(mode))
    except ConfigurationError as error:
        raise ConfigurationError(f"{text!r}: {error}") from None


def parse_mode(text: str) -> int:
    """Of a file, in octal digits."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ConfigurationError(f"{text!r} is no mode of a file; give three octal digits, for example 660")
    return int(text, 8)


def parse_umask(text: str) -> int:
    try:
        return parse_mode(text)
    except ConfigurationError:
        raise ConfigurationError(f"{text!r} is no umask; give three octal digits, for example 027") from None


def parse_socket_path(path: str) -> str:
    # sockaddr_un holds 108 bytes, the last of them a zero.
    if not path or "\0" in path or len(os.fsencode(path)) > 107:
        raise ConfigurationError(f"{path!r} cannot name a Unix socket; give a path of 1 to 107 bytes")
    return path


def parse_port(text: str) -> int:
    return parse_int(text, 0, 65535, "the port")


def parse_fd(text: str) -> InheritedSocket:
    return InheritedSocket(parse_int(text, 0, 2**31 - 1, "the descriptor"))


def parse_backlog(text: str) -> int:
    return parse_int(text, 1, 65535, "the backlog")


def parse_max_connections(text: str) -> int:
    return parse_int(text, 1, 10_000_000, "the number of connections")


def parse_metrics(text: str) -> TcpAddress | None:
    """`HOST:PORT`; or on, for 127.0.0.1:9464, and off."""
    if ":" not in text:
        try:
            return TcpAddress("127.0.0.1", METRICS_PORT) if parse_flag(text) else None
        except ConfigurationError:
            raise ConfigurationError(
                f"{text!r} is no address for metrics; give HOST:PORT{_example(text, METRICS_PORT)}, or nothing for "
                f"127.0.0.1:{METRICS_PORT}"
            ) from None
    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        raise ConfigurationError(f"{text!r} is no address for metrics; give HOST:PORT")
    return address


def parse_idle_poll(text: str) -> int:
    return parse_int(text, 0, 1_000_000, "the time to poll, in microseconds,")


def parse_credit(text: str) -> int:
    return parse_int(text, 1, 1_000_000, "the number of calls in flight")


def parse_max_message(text: str) -> int:
    return parse_size(text, 1 << 10, 1 << 30, "the largest message")


def parse_blocking_threads(text: str) -> int:
    return parse_int(text, 1, 1_024, "the number of threads")


def parse_processes(text: str) -> int:
    return parse_int(text, 1, 1_024, "the number of processes")


def parse_interface(text: str) -> Interface:
    return parse_choice(text, get_args(Interface), "interface")


def parse_lifespan(text: str) -> LifespanMode:
    return parse_choice(text, get_args(LifespanMode), "lifespan")


def parse_trusted(text: str) -> str:
    """Addresses and networks, `unix`, or `*`. A name is none of them: it would be compared with addresses, and never be one."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        try:
            if part not in ("*", "unix"):
                ipaddress.ip_network(part)
        except ValueError as error:
            hint = f" ({error})" if "host bits" in str(error) else ""
            raise ConfigurationError(
                f"{part!r} is no address of a proxy{hint}; give addresses and networks, for example 10.0.0.0/8,::1; unix "
                "for Unix sockets; or * for all"
            ) from None
    if "*" in parts and len(parts) > 1:
        raise ConfigurationError(f"{text!r}: * is for all; take it out, or the rest")
    return ",".join(parts)


def parse_root_path(text: str) -> str:
    if text and (not text.startswith("/") or text.endswith("/") or re.search(r"[?#\s]", text)):
        right = "/" + (re.sub(r"[?#\s].*", "", text).strip("/") or "api")
        raise ConfigurationError(
            f"{text!r} is no root path; give one that begins with a / and does not end so: {right}"
        )
    return text


def parse_headers(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(map(parse_header, texts))


def parse_header(text: str) -> tuple[str, str]:
    """NAME:VALUE, for example `x-frame-options: DENY`."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip(" \t")
    if not colon or not TOKEN.fullmatch(name):
        raise ConfigurationError(f"{text!r} is no header; give NAME:VALUE, for example x-frame-options:DENY")
    if not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
        raise ConfigurationError(
            f"{text!r}: the value has what no header can have; give letters of Latin-1 in one line"
        )
    if name.lower() in _FRAMING:
        raise ConfigurationError(f"{text!r}: {name} is of one response only; take it out")
    return name, value


def parse_ws_max_size(text: str) -> int:
    return parse_size(text, 1, 1 << 30, "the largest WebSocket message")


def parse_ws_max_queue(text: str) -> int:
    return parse_int(text, 1, 1_000_000, "the number of messages")


def parse_head_size(text: str) -> int:
    return parse_size(text, 64, 1 << 20, "the size", example="8190")


def parse_limit_request_fields(text: str) -> int:
    return parse_int(text, 1, 32_768, "the number of headers")


def parse_event_size(text: str) -> int:
    return parse_size(text, 1 << 10, 1 << 24, "the size of a head", example="64KiB")


def parse_limit_concurrency(text: str) -> int:
    return parse_int(text, 1, MAX_COUNT, "the number of requests at once")


def parse_limit_max_requests(text: str) -> int:
    return parse_int(text, 1, 2**53, "the number of requests")


def parse_limit_max_requests_jitter(text: str) -> int:
    return parse_int(text, 0, 2**53, "the number of requests")


def parse_max_rss(text: str) -> int:
    return parse_size(text, 1 << 20, 1 << 50, "the resident memory", example="512MiB")


def parse_threads(text: str) -> int:
    return parse_int(text, 1, 1_024, "the number of threads")


def parse_switch_interval(text: str) -> float:
    seconds = parse_seconds(text)
    if not 1e-6 <= seconds <= 1:
        raise ConfigurationError(f"the interval is {text!r}; give seconds from 0.000001 to 1, for example 0.0005")
    return seconds


def parse_size(text: str, lowest: int, highest: int, what: str, *, example: str = "16MiB") -> int:
    """Bytes, as a plain number or in units: `65536`, `64KiB`, `16 MiB`, `1GiB`."""
    found = re.fullmatch(rf"(\d{{1,20}}) ?({'|'.join(UNITS)})?", text.strip(), re.IGNORECASE)
    size = -1
    if found is not None:
        unit = (found[2] or "B").lower()
        size = int(found[1]) * next(bytes_ for name, bytes_ in UNITS.items() if name.lower() == unit)
    if not lowest <= size <= highest:
        raise ConfigurationError(
            f"{what} is {text!r}; give a size from {show_size(lowest)} to {show_size(highest)}, for example {example}"
        )
    return size


def show_size(size: int) -> str:
    """As `parse_size` reads it, in the largest unit that leaves a whole number."""
    unit, bytes_ = max(((unit, each) for unit, each in UNITS.items() if size % each == 0), key=lambda each: each[1])
    return f"{size // bytes_}{unit}"


def parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400 * 365:
        raise ConfigurationError(f"{text!r} is no time; give seconds, for example 30 or 0.5")
    return seconds


def parse_limit(text: str) -> float:
    """A time that may not be 0."""
    if (seconds := parse_seconds(text)) == 0:
        raise ConfigurationError("0 is no limit but an end at once; give more than 0 seconds")
    return seconds


def parse_log_level(text: str) -> LogLevel:
    return parse_choice(text, LOG_LEVELS, "log level")


def parse_log_format(text: str) -> LogFormat:
    return parse_choice(text, get_args(LogFormat), "log format")


def parse_distribution(text: str) -> Distribution:
    return parse_choice(text, get_args(Distribution), "distribution")


def parse_cert_reqs(text: str) -> CertReqs:
    """By its name, or by the number that the ssl module has for it."""
    names: tuple[CertReqs, ...] = get_args(CertReqs)
    return names[int(text)] if text in ("0", "1", "2") else parse_choice(text, names, "requirement")


def parse_tls_version(text: str) -> TlsVersion:
    """1.2, TLSv1.2, and so on."""
    return parse_choice(re.sub("^TLSv", "", text, flags=re.IGNORECASE), get_args(TlsVersion), "version of TLS")


def parse_flag(text: str) -> bool:
    """The value of a switch that comes from the environment."""
    value = text.strip().lower()
    if value not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise ConfigurationError(f"{text!r} is neither on nor off; give 1 or 0")
    return value in ("1", "true", "yes", "on")


def parse_choice(text: str, choices: tuple[T, ...], what: str) -> T:
    for choice in choices:
        if text.lower() == choice:
            return choice
    raise ConfigurationError(f"unknown {what} {text!r}; choose one of {', '.join(map(str, choices))}")


def parse_int(text: str, lowest: int, highest: int, what: str, *, or_else: str = "") -> int:
    try:
        value = int(text)
    except ValueError:
        raise ConfigurationError(
            f"{what} is {text!r}; give a whole number from {lowest} to {highest}{or_else}"
        ) from None
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{what} is {value}; give a whole number from {lowest} to {highest}{or_else}")
    return value
