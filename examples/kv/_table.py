"""All commands by name, and COMMAND, which lists them."""

from __future__ import annotations

from typing import TypeAlias

from . import _commands, _everywhere, _session
from ._commands import ManyKeys, OneKey, wrong_arity
from ._everywhere import Everywhere
from ._resp import Error, Map, Reply, Simple
from ._session import OnConnection, Session, unknown_subcommand

AnyCommand: TypeAlias = OneKey | ManyKeys | OnConnection | Everywhere


def find_command(arguments: list[bytes]) -> AnyCommand | Error:
    """The command that these arguments, name first, ask for."""
    command = _TABLE.get(arguments[0]) or _TABLE.get(arguments[0].upper())
    if command is None:
        return _unknown_command(arguments)
    count = len(arguments)
    return command if count == command.arity or command.accepts(count) else wrong_arity(command.name)


def _unknown_command(arguments: list[bytes]) -> Error:
    """As many arguments are shown as fit in 128 bytes; a NUL ends what is shown of each, for Redis prints C strings."""
    name, *shown = [argument.partition(b"\0")[0] for argument in arguments]
    quoted = b""
    for argument in shown:
        if len(quoted) >= 128:
            break
        quoted += b"'%b' " % argument[: 128 - len(quoted)]
    return Error(b"ERR unknown command '%b', with args beginning with: %b" % (name[:128], quoted))


def _command(session: Session, arguments: list[bytes]) -> Reply:
    match [argument.upper() for argument in arguments[1:]]:
        case [] | [b"INFO"]:
            return [*map(_describe, _ALL)]
        case [b"COUNT"]:
            return len(_ALL)
        case [b"INFO", *names]:
            return [_describe(_TABLE[name]) if name in _TABLE else None for name in names]
        case [b"DOCS", *_]:
            return Map([])  # redis-cli asks for hints, and does without
        case [b"COUNT" as name, *_]:
            return wrong_arity(f"command|{name.decode().lower()}")
    return unknown_subcommand("command", arguments[1])


def _describe(command: AnyCommand) -> list[Reply]:
    """After the last of `keys`: categories, tips, key specifications, subcommands. None of them is told."""
    flags = [Simple(flag.encode()) for flag in command.flags]
    return [command.name.encode(), command.arity, flags, *command.keys, [], [], [], []]


_ALL: tuple[AnyCommand, ...] = (
    *_commands.COMMANDS,
    *_everywhere.COMMANDS,
    *_session.COMMANDS,
    OnConnection("command", -1, ("loading", "stale"), (0, 0, 0), _command),
)
_TABLE = {command.name.upper().encode(): command for command in _ALL}
_TABLE |= {name.lower(): command for name, command in _TABLE.items()}  # spares most clients' requests the upper()
