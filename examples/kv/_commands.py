"""The commands on keys: what each is called, how many arguments it takes, where its keys are, and what it does.

A `OneKey` command runs on the shard that owns the key. A `ManyKeys` command is split into such for the shards of its
keys, and their replies are combined: each part is atomic, the whole is not. Errors, and the order in which mistakes are
found, are Redis 7.0's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._request import MAX_BULK, parse_integer
from ._resp import OK, Error, Reply, Scalar
from ._store import Store

SYNTAX_ERROR = Error(b"ERR syntax error")
NOT_AN_INTEGER = Error(b"ERR value is not an integer or out of range")
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Command:
    """As COMMAND INFO has it: `arity` counts the name too, and negative means at least so many; `keys` are first, last
    and step. What follows the name comes in whole steps.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    keys: tuple[int, int, int]

    def accepts(self, count: int) -> bool:
        return (count == self.arity or count >= -self.arity > 0) and (self.keys[2] < 2 or count % self.keys[2] == 1)


@dataclass(frozen=True, slots=True)
class OneKey(Command):
    run: Callable[[Store, list[bytes]], Scalar]


@dataclass(frozen=True, slots=True)
class ManyKeys(Command):
    """`split` gives commands, each with the shard that it is for; `combine` makes one reply of theirs."""

    split: Callable[[list[bytes], Callable[[bytes], int]], list[tuple[int, list[bytes]]]]
    combine: Callable[[list[Scalar]], Reply]


def wrong_arity(name: str) -> Error:
    return Error(b"ERR wrong number of arguments for '%b' command" % name.encode())


# Reading


def _get(store: Store, arguments: list[bytes]) -> Scalar:
    return store.get(arguments[1])


def _strlen(store: Store, arguments: list[bytes]) -> Scalar:
    return len(store.get(arguments[1]) or b"")


def _exists(store: Store, arguments: list[bytes]) -> Scalar:
    return sum([store.get(key) is not None for key in arguments[1:]])


# Writing


@dataclass(slots=True)
class _SetOptions:
    only_if_absent: bool = False
    only_if_present: bool = False
    get: bool = False
    keep_ttl: bool = False
    expiry: tuple[bytes, bytes] | None = None  # the option's name and its value


def _set(store: Store, arguments: list[bytes]) -> Scalar:
    _, key, value, *words = arguments
    if not words:
        store.set(key, value)
        return OK
    options = _parse_set_options(words)
    if options is None:
        return SYNTAX_ERROR
    deadline_ms = _parse_deadline_ms(store, *options.expiry, "set") if options.expiry else None
    if isinstance(deadline_ms, Error):
        return deadline_ms
    old = store.get(key)
    refused = options.only_if_absent if old is not None else options.only_if_present
    if not refused:
        store.set(key, value, keep_deadline=options.keep_ttl)
        if deadline_ms is not None:
            store.set_deadline(key, deadline_ms)
    if options.get:
        return old
    return None if refused else OK


def _parse_set_options(words: list[bytes]) -> _SetOptions | None:
    """None if they contradict each other, or one is unknown or lacks its value."""
    options = _SetOptions()
    rest = iter(words)
    for word in rest:
        match name := word.upper():
            case b"NX" if not options.only_if_present:
                options.only_if_absent = True
            case b"XX" if not options.only_if_absent:
                options.only_if_present = True
            case b"GET":
                options.get = True
            case b"KEEPTTL" if options.expiry is None:
                options.keep_ttl = True
            case b"EX" | b"PX" | b"EXAT" | b"PXAT" if options.expiry is None and not options.keep_ttl:
                if (value := next(rest, None)) is None:
                    return None
                options.expiry = (name, value)
            case _:
                return None
    return options


def _parse_deadline_ms(store: Store, unit: bytes, text: bytes, command: str) -> int | Error:
    """When `unit` (EX, PX, EXAT or PXAT) and its value say, in milliseconds. For SET it has to be positive as given."""
    number = parse_integer(text)
    if number is None:
        return NOT_AN_INTEGER
    if command == "set" and number <= 0:
        return _invalid_expire(command)
    deadline_ms = number if unit.startswith(b"P") else number * 1000
    if not _INT64_MIN <= deadline_ms <= _INT64_MAX:
        return _invalid_expire(command)
    if not unit.endswith(b"AT"):
        deadline_ms += store.now_ms()
    return deadline_ms if deadline_ms <= _INT64_MAX else _invalid_expire(command)


def _invalid_expire(command: str) -> Error:
    return Error(b"ERR invalid expire time in '%b' command" % command.encode())


def _mset(store: Store, arguments: list[bytes]) -> Scalar:
    for position in range(1, len(arguments), 2):
        store.set(arguments[position], arguments[position + 1])
    return OK


def _append(store: Store, arguments: list[bytes]) -> Scalar:
    _, key, tail = arguments
    value = (store.get(key) or b"") + tail
    if len(value) > MAX_BULK:
        return Error(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    store.set(key, value, keep_deadline=True)
    return len(value)


def _getdel(store: Store, arguments: list[bytes]) -> Scalar:
    value = store.get(arguments[1])
    store.remove(arguments[1])
    return value


def _delete(store: Store, arguments: list[bytes]) -> Scalar:
    return sum([store.remove(key) for key in arguments[1:]])


def _incr(store: Store, arguments: list[bytes]) -> Scalar:
    return _add(store, arguments[1], 1)


def _decr(store: Store, arguments: list[bytes]) -> Scalar:
    return _add(store, arguments[1], -1)


def _incrby(store: Store, arguments: list[bytes]) -> Scalar:
    increment = parse_integer(arguments[2])
    return NOT_AN_INTEGER if increment is None else _add(store, arguments[1], increment)


def _decrby(store: Store, arguments: list[bytes]) -> Scalar:
    decrement = parse_integer(arguments[2])
    if decrement is None:
        return NOT_AN_INTEGER
    if decrement == _INT64_MIN:
        return Error(b"ERR decrement would overflow")
    return _add(store, arguments[1], -decrement)


def _add(store: Store, key: bytes, increment: int) -> Scalar:
    text = store.get(key)
    number = 0 if text is None else parse_integer(text)
    if number is None:
        return NOT_AN_INTEGER
    number += increment
    if not _INT64_MIN <= number <= _INT64_MAX:
        return Error(b"ERR increment or decrement would overflow")
    store.set(key, b"%d" % number, keep_deadline=True)
    return number


# Expiry


def _expire(store: Store, arguments: list[bytes]) -> Scalar:
    return _expire_in(store, arguments, b"EX", "expire")


def _pexpire(store: Store, arguments: list[bytes]) -> Scalar:
    return _expire_in(store, arguments, b"PX", "pexpire")


def _expire_in(store: Store, arguments: list[bytes], unit: bytes, command: str) -> Scalar:
    _, key, text, *words = arguments
    options = {word.upper() for word in words}
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            return Error(b"ERR Unsupported option %b" % word)
    if b"NX" in options and len(options) > 1:
        return Error(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= options:
        return Error(b"ERR GT and LT options at the same time are not compatible")
    deadline_ms = _parse_deadline_ms(store, unit, text, command)
    if isinstance(deadline_ms, Error):
        return deadline_ms
    if store.get(key) is None:
        return 0
    old_ms = store.deadline_ms(key)
    if (
        (b"NX" in options and old_ms is not None)
        or (b"XX" in options and old_ms is None)
        # No deadline counts as one that never comes.
        or (b"GT" in options and (old_ms is None or deadline_ms <= old_ms))
        or (b"LT" in options and old_ms is not None and deadline_ms >= old_ms)
    ):
        return 0
    store.set_deadline(key, deadline_ms)
    return 1


def _ttl(store: Store, arguments: list[bytes]) -> Scalar:
    left_ms = _left_ms(store, arguments[1])
    return left_ms if left_ms < 0 else (left_ms + 500) // 1000


def _pttl(store: Store, arguments: list[bytes]) -> Scalar:
    return _left_ms(store, arguments[1])


def _left_ms(store: Store, key: bytes) -> int:
    if store.get(key) is None:
        return -2
    deadline_ms = store.deadline_ms(key)
    return -1 if deadline_ms is None else max(0, deadline_ms - store.now_ms())


def _persist(store: Store, arguments: list[bytes]) -> Scalar:
    return int(store.clear_deadline(arguments[1]))


# Splitting


def _split_by_shard(step: int) -> Callable[[list[bytes], Callable[[bytes], int]], list[tuple[int, list[bytes]]]]:
    """One command for each shard that owns one of the keys; a key has `step - 1` arguments after it."""

    def split(arguments: list[bytes], owner: Callable[[bytes], int]) -> list[tuple[int, list[bytes]]]:
        parts: dict[int, list[bytes]] = {}
        for position in range(1, len(arguments), step):
            part = parts.setdefault(owner(arguments[position]), [arguments[0]])
            part += arguments[position : position + step]
        return list(parts.items())

    return split


def _split_mget(arguments: list[bytes], owner: Callable[[bytes], int]) -> list[tuple[int, list[bytes]]]:
    # A GET for each key, not an MGET for each shard: the replies of a batch may come in instalments, a reply can't.
    return [(owner(key), [b"GET", key]) for key in arguments[1:]]


def _sum(replies: list[Scalar]) -> Reply:
    return sum([reply for reply in replies if isinstance(reply, int)])


def _all_ok(replies: list[Scalar]) -> Reply:
    return OK


def _in_order(replies: list[Scalar]) -> Reply:
    return replies


_READ, _WRITE = ("readonly", "fast"), ("write", "denyoom", "fast")
_ONE = (1, 1, 1)

COMMANDS: tuple[OneKey | ManyKeys, ...] = (
    OneKey("get", 2, _READ, _ONE, _get),
    OneKey("strlen", 2, _READ, _ONE, _strlen),
    OneKey("ttl", 2, _READ, _ONE, _ttl),
    OneKey("pttl", 2, _READ, _ONE, _pttl),
    OneKey("set", -3, ("write", "denyoom"), _ONE, _set),
    OneKey("append", 3, _WRITE, _ONE, _append),
    OneKey("getdel", 2, ("write", "fast"), _ONE, _getdel),
    OneKey("incr", 2, _WRITE, _ONE, _incr),
    OneKey("decr", 2, _WRITE, _ONE, _decr),
    OneKey("incrby", 3, _WRITE, _ONE, _incrby),
    OneKey("decrby", 3, _WRITE, _ONE, _decrby),
    OneKey("expire", -3, ("write", "fast"), _ONE, _expire),
    OneKey("pexpire", -3, ("write", "fast"), _ONE, _pexpire),
    OneKey("persist", 2, ("write", "fast"), _ONE, _persist),
    ManyKeys("mget", -2, _READ, (1, -1, 1), _split_mget, _in_order),
    ManyKeys("mset", -3, ("write", "denyoom"), (1, -1, 2), _split_by_shard(2), _all_ok),
    ManyKeys("exists", -2, _READ, (1, -1, 1), _split_by_shard(1), _sum),
    ManyKeys("del", -2, ("write",), (1, -1, 1), _split_by_shard(1), _sum),
    ManyKeys("unlink", -2, ("write", "fast"), (1, -1, 1), _split_by_shard(1), _sum),
)

_PARTS = {b"MSET": _mset, b"EXISTS": _exists, b"DEL": _delete, b"UNLINK": _delete}
_RUN = _PARTS | {command.name.upper().encode(): command.run for command in COMMANDS if isinstance(command, OneKey)}
_RUN |= {name.lower(): run for name, run in _RUN.items()}  # most clients spell them in one of these ways


def run(store: Store, arguments: list[bytes]) -> Scalar:
    """Run a one-key command, or a part of a split one, whose arity has been checked."""
    function = _RUN.get(arguments[0]) or _RUN[arguments[0].upper()]
    return function(store, arguments)
