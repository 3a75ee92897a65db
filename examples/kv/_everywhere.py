"""The commands that ask every shard: DBSIZE, FLUSHALL, KEYS, SCAN, INFO.

None of them is one moment of the whole: each shard answers for its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import clockworker as cw

from ._commands import NOT_AN_INTEGER, SYNTAX_ERROR, Command
from ._request import parse_integer
from ._resp import OK, Error, Reply, Verbatim
from ._scan_index import BUCKETS
from ._service import KeyValue, ShardInfo
from ._session import VERSION

Service = cw.Sharded[KeyValue]

_KEYS_STEP = 10_000  # keys looked at before KEYS lets others have their turn


@dataclass(frozen=True, slots=True)
class Everywhere(Command):
    """`run` may raise `CallError`, of the shard that did not answer."""

    run: Callable[[Service, list[bytes]], Awaitable[Reply]]


def _shards(service: Service) -> range:
    return range(service.local.shard.count)


async def _dbsize(service: Service, arguments: list[bytes]) -> Reply:
    return sum(await asyncio.gather(*[service.on(shard).size() for shard in _shards(service)]))


async def _flushall(service: Service, arguments: list[bytes]) -> Reply:
    if [word.upper() for word in arguments[1:]] not in ([], [b"SYNC"], [b"ASYNC"]):
        return SYNTAX_ERROR
    await asyncio.gather(*[service.on(shard).flush() for shard in _shards(service)])
    return OK


async def _keys(service: Service, arguments: list[bytes]) -> Reply:
    found = await asyncio.gather(*[_keys_on(service, shard, arguments[1]) for shard in _shards(service)])
    return [key for keys in found for key in keys]


async def _keys_on(service: Service, shard: int, pattern: bytes) -> list[bytes]:
    """A scan from end to end, whose pages fit in messages, however many keys there are."""
    bucket, _, found = await service.on(shard).scan(0, _KEYS_STEP, pattern)
    while bucket:
        bucket, _, keys = await service.on(shard).scan(bucket, _KEYS_STEP, pattern)
        found += keys
    return found


async def _scan(service: Service, arguments: list[bytes]) -> Reply:
    """A cursor counts the buckets of all the shards one after another: 0 is the first, and stands for the end too."""
    if not arguments[1].isdigit() or int(arguments[1]) >= 1 << 64:
        return Error(b"ERR invalid cursor")
    cursor = int(arguments[1])
    count, pattern, of_strings = 10, b"*", True
    for position in range(2, len(arguments), 2):
        match [word.upper() if not place else word for place, word in enumerate(arguments[position : position + 2])]:
            case [b"COUNT", text]:
                number = parse_integer(text)
                if number is None:
                    return NOT_AN_INTEGER
                if number < 1:
                    return SYNTAX_ERROR
                count = number
            case [b"MATCH", pattern]:
                pass
            case [b"TYPE", name]:
                of_strings = name.lower() == b"string"
            case _:
                return SYNTAX_ERROR
    shard, bucket = divmod(cursor, BUCKETS)
    shards = len(_shards(service))
    found: list[bytes] = []
    while shard < shards and count > 0:
        bucket, looked, keys = await service.on(shard).scan(bucket, count, pattern)
        found += keys
        count -= looked
        if bucket:
            break
        shard += 1
    cursor = shard * BUCKETS + bucket if shard < shards else 0
    return [b"%d" % cursor, found if of_strings else []]


async def _info(service: Service, arguments: list[bytes]) -> Reply:
    wanted = {section.lower() for section in arguments[1:]}
    everything = not wanted or not wanted.isdisjoint((b"default", b"all", b"everything"))
    answers = await asyncio.gather(*[service.on(shard).info() for shard in _shards(service)], return_exceptions=True)
    shards = [answer if isinstance(answer, ShardInfo) else None for answer in answers]
    sections = {b"server": _server_section, b"keyspace": _keyspace_section, b"shards": _shards_section}
    texts = [section(shards) for name, section in sections.items() if everything or name in wanted]
    return Verbatim("\r\n".join(texts).encode())


def _server_section(shards: list[ShardInfo | None]) -> str:
    return (
        f"# Server\r\nredis_version:{VERSION.decode()}\r\nredis_mode:standalone\r\n"
        f"clockworker_version:{cw.__version__}\r\nclockworker_compiled:{int(cw.compiled)}\r\nprocess_id:{os.getpid()}\r\nshards:{len(shards)}\r\n"
    )


def _keyspace_section(shards: list[ShardInfo | None]) -> str:
    keys = sum(shard.keys for shard in shards if shard)
    expiring = sum(shard.expiring for shard in shards if shard)
    return "# Keyspace\r\n" + (f"db0:keys={keys},expires={expiring},avg_ttl=0\r\n" if keys else "")


def _shards_section(shards: list[ShardInfo | None]) -> str:
    lines = ["# Shards\r\n"]
    for number, shard in enumerate(shards):
        if shard is None:
            lines.append(f"shard{number}:status=down\r\n")
            continue
        lines.append(
            f"shard{number}:status=up,pid={shard.pid},keys={shard.keys},expires={shard.expiring},"
            f"commands={shard.commands_local + shard.commands_crossed},commands_local={shard.commands_local},"
            f"commands_crossed={shard.commands_crossed},calls_sent={shard.calls_sent},"
            f"calls_received={shard.calls_received}\r\n"
        )
    return "".join(lines)


_KEYLESS = (0, 0, 0)

COMMANDS: tuple[Everywhere, ...] = (
    Everywhere("dbsize", 1, ("readonly", "fast"), _KEYLESS, _dbsize),
    Everywhere("flushall", -1, ("write",), _KEYLESS, _flushall),
    Everywhere("keys", 2, ("readonly",), _KEYLESS, _keys),
    Everywhere("scan", -2, ("readonly",), _KEYLESS, _scan),
    Everywhere("info", -1, ("loading", "stale"), _KEYLESS, _info),
)
