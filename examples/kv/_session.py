"""What a connection remembers, and the commands that concern it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._commands import NOT_AN_INTEGER, Command, wrong_arity
from ._glob import compile_glob
from ._request import MAX_BULK, parse_integer
from ._resp import OK, Error, Map, Reply, Simple

VERSION = b"7.0.15"
"""The Redis whose behaviour this is; clients ask for it to know what they may send."""

_SETTINGS = {b"save": b"", b"appendonly": b"no", b"proto-max-bulk-len": b"%d" % MAX_BULK}


@dataclass(slots=True)
class Session:
    id: int
    protocol: int = 2
    name: bytes = b""
    closing: bool = False


@dataclass(frozen=True, slots=True)
class OnConnection(Command):
    run: Callable[[Session, list[bytes]], Reply]


def unknown_subcommand(container: str, name: bytes) -> Error:
    shown = name.partition(b"\0")[0][:128]  # Redis prints C strings
    return Error(b"ERR unknown subcommand '%b'. Try %b HELP." % (shown, container.upper().encode()))


def _ping(session: Session, arguments: list[bytes]) -> Reply:
    if len(arguments) > 2:
        return wrong_arity("ping")
    return arguments[1] if len(arguments) == 2 else Simple(b"PONG")


def _echo(session: Session, arguments: list[bytes]) -> Reply:
    return arguments[1]


def _quit(session: Session, arguments: list[bytes]) -> Reply:
    session.closing = True
    return OK


def _select(session: Session, arguments: list[bytes]) -> Reply:
    """There is one database."""
    index = parse_integer(arguments[1])
    if index is None:
        return NOT_AN_INTEGER
    return OK if index == 0 else Error(b"ERR DB index is out of range")


def _hello(session: Session, arguments: list[bytes]) -> Reply:
    protocol: int | None = session.protocol
    name = session.name
    if len(arguments) > 1:
        protocol = parse_integer(arguments[1])
        if protocol is None:
            return Error(b"ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            return Error(b"NOPROTO unsupported protocol version")
    rest = iter(arguments[2:])
    for option in rest:
        values = [value for value, _ in zip(rest, range(2 if option.upper() == b"AUTH" else 1), strict=False)]
        match option.upper(), values:
            case b"AUTH", [user, _]:
                if user != b"default":  # who needs no password
                    return Error(b"WRONGPASS invalid username-password pair or user is disabled.")
            case b"SETNAME", [name]:
                if not _is_name(name):
                    return _BAD_NAME
            case _:
                return Error(b"ERR Syntax error in HELLO option '%b'" % option)
    session.protocol = protocol or session.protocol
    session.name = name
    return Map(
        [
            (b"server", b"redis"),
            (b"version", VERSION),
            (b"proto", session.protocol),
            (b"id", session.id),
            (b"mode", b"standalone"),
            (b"role", b"master"),
            (b"modules", []),
        ]
    )


_BAD_NAME = Error(b"ERR Client names cannot contain spaces, newlines or special characters.")


def _is_name(name: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in name)


def _client(session: Session, arguments: list[bytes]) -> Reply:
    match [arguments[1].upper(), *arguments[2:]]:
        case [b"ID"]:
            return session.id
        case [b"GETNAME"]:
            return session.name or None
        case [b"SETNAME", name]:
            if not _is_name(name):
                return _BAD_NAME
            session.name = name
            return OK
        case [b"SETINFO", attribute, _]:
            if attribute.lower() in (b"lib-name", b"lib-ver"):
                return OK
            return Error(b"ERR Unrecognized option '%b'" % attribute)
        case [b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" as name, *_]:
            return wrong_arity(f"client|{name.decode().lower()}")
    return unknown_subcommand("client", arguments[1])


def _config(session: Session, arguments: list[bytes]) -> Reply:
    """Enough of CONFIG GET for redis-benchmark, which asks whether anything is saved."""
    if arguments[1].upper() != b"GET":
        return unknown_subcommand("config", arguments[1])
    if len(arguments) < 3:
        return wrong_arity("config|get")
    patterns = [compile_glob(pattern.lower()) for pattern in arguments[2:]]
    return Map([item for item in _SETTINGS.items() if any(pattern.fullmatch(item[0]) for pattern in patterns)])


_KEYLESS = (0, 0, 0)
_FLAGS = ("loading", "stale", "fast")

COMMANDS: tuple[OnConnection, ...] = (
    OnConnection("ping", -1, ("fast",), _KEYLESS, _ping),
    OnConnection("echo", 2, ("fast",), _KEYLESS, _echo),
    OnConnection("quit", -1, _FLAGS, _KEYLESS, _quit),
    OnConnection("select", 2, _FLAGS, _KEYLESS, _select),
    OnConnection("hello", -1, _FLAGS, _KEYLESS, _hello),
    OnConnection("client", -2, (), _KEYLESS, _client),
    OnConnection("config", -2, (), _KEYLESS, _config),
)
