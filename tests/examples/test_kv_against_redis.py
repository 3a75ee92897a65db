"""The same bytes to this server and to Redis: the same answers, byte for byte.

Not compared: commands that one of them lacks, databases above 0, and the limits that are lower here.
"""

from __future__ import annotations

import random
import re

import pytest
from kv_server import Server, exchange, request

MALFORMED = [
    b"*abc\r\n",
    b"*\r\n",
    b"*+1\r\n",
    b"* 1\r\n",
    b"*01\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\n:3\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$9999999999\r\n",
    b"*1\r\n\xff\r\n",
    b'PING "a\r\n',
    b"PING 'a\r\n",
    b'PING "a"b\r\n',
    b'"\r\n',
    b"*1\r\n$4\r\nPING\r\n*x\r\n",
    b"x" * 70_000,
    b"*" + b"1" * 70_000,
    b"*1\r\n$" + b"1" * 70_000,
]

ODD_BUT_FINE = [
    b"",
    b"\r\n",
    b"\n\nPING\n",
    b"   \r\nPING\r\n",
    b"*0\r\nPING\r\n",
    b"*-1\r\nPING\r\n",
    b"*-5\r\nPING\r\n",
    b"*1\r\n$4\r\nPINGxxPING\r\n",
    b"*1\rx$4\rxPINGxxPING\r\n",
    b"*1\r\n$0\r\n\r\n",
    b'PING "a\\x41\\n\\"\\q"\r\n',
    b"PING 'a\\'\\n'\r\n",
    b'PING a"b c"\r\n',
    b"PING a\0b\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$1\r\n\r\r\nPING\r\n",
    b"$4\r\nPING\r\n",
    b"+PING\r\n",
    b"~1\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\r\nPI",
    b"*2\r\n$4\r\nECHO\r\n$8\r\n\r\n$3\r\n\r\n\r\n",
    b"*1\r\n\0\r\n",
]

COMMANDS = """
PING | PING a | PING a b | ping | ECHO | ECHO a | ECHO a b | QUIT | QUIT a | SELECT | SELECT 0 | SELECT 16 | SELECT -1
SELECT x | SELECT 0 0 | HELLO 1 | HELLO 4 | HELLO x | HELLO 3 WHAT | HELLO 3 SETNAME | HELLO 3 AUTH a | HELLO 3 AUTH a b
HELLO 2 SETNAME a\\tb | CLIENT | CLIENT WHAT | CLIENT GETNAME | CLIENT GETNAME a | CLIENT SETNAME | CLIENT SETNAME a
CLIENT ID a | CLIENT SETNAME "a b" | COMMAND WHAT | COMMAND COUNT a | CONFIG | CONFIG WHAT | CONFIG GET
CONFIG GET save | CONFIG GET appendonly | DBSIZE | DBSIZE a | FLUSHALL | FLUSHALL ASYNC | FLUSHALL sync | FLUSHALL WHAT
FLUSHALL SYNC ASYNC | SET | SET a | SET a 1 | SET a 2 NX | SET a 2 XX GET | SET a 3 NX GET | SET a 1 EX | SET a 1 EX x
SET a 1 EX 0 | SET a 1 EX -1 | SET a 1 PX 0 | SET a 1 EXAT 0 | SET a 1 PXAT -1 | SET a 1 EX 1 PX 1 | SET a 1 NX XX
SET a 1 EX 9223372036854775807 | SET a 1 PX 9223372036854775807 | SET a 1 KEEPTTL EX 1 | SET a 1 EX 1 KEEPTTL
SET a 1 EX 1000 NX GET KEEPTTL | SET a 1 WHAT | SET a 1 EX 01 | SET a 1 ex 1000 | TTL a | SET a 2 keepttl | TTL a
SET a 3 | TTL a | SET b 1 PXAT 1 | GET b | GET | GET a | GET missing | GET a b | GETDEL a | GETDEL a | GETDEL | DEL
DEL a b c | UNLINK | UNLINK a | EXISTS | EXISTS a a b | INCR | INCR n | INCR n 1 | DECR n | INCRBY n 10 | INCRBY n x
INCRBY n +1 | INCRBY n 9223372036854775807 | DECRBY n -9223372036854775808 | DECRBY n 3 | GET n | SET t text | INCR t
INCRBY t 1 | DECRBY t x | SET big 9223372036854775807 | INCR big | SET low -9223372036854775808 | DECR low
SET spaces " 1" | INCR spaces | SET zero -0 | INCR zero | SET empty "" | INCR empty | STRLEN empty | APPEND | APPEND t
APPEND t more | APPEND new x | STRLEN t | STRLEN missing | STRLEN | GET t | MGET | MGET t n missing t | MSET | MSET a
MSET a 1 b | MSET a 1 b 2 c 3 a 4 | MGET a b c | EXPIRE | EXPIRE a | EXPIRE a x | EXPIRE a 1 WHAT
EXPIRE a 1 NX XX | EXPIRE a 1 GT LT | EXPIRE a 1 NX LT | EXPIRE a 9223372036854775807 | EXPIRE a -9223372036854775808
PEXPIRE a 9223372036854775807 | PEXPIRE a x | EXPIRE a 1000 XX | EXPIRE a 1000 GT | EXPIRE a 1000 NX | TTL a
EXPIRE a 2000 GT | EXPIRE a 1000 GT | EXPIRE a 1000 LT | TTL a | PERSIST a | PERSIST a | PERSIST | EXPIRE missing 1
PERSIST missing | TTL | TTL missing | PTTL missing | PTTL a | EXPIRE a -1 | GET a | PEXPIRE b 0 | GET b | KEYS
KEYS a b | KEYS c | SCAN | SCAN x | SCAN 1x | SCAN 18446744073709551616 | SCAN 0 COUNT | SCAN 0 COUNT 0 | SCAN 0 COUNT x
SCAN 0 WHAT | SCAN 0 MATCH | SCAN 0 COUNT 1000 MATCH nothing | SCAN 0 COUNT 1000 TYPE hash
WHAT | what a b | "" | WHAT "a\\r\\nb" "c\\x00d" | "a\\r\\nb" | "a\\x00b" c
"""


def same(kv: Server, redis_server: Server, data: bytes) -> None:
    assert exchange(kv.port, data) == exchange(redis_server.port, data)


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
def test_malformed_requests(kv: Server, redis_server: Server, data: bytes) -> None:
    answer = exchange(kv.port, data)
    assert answer.rpartition(b"-")[2].startswith(b"ERR Protocol error: ")
    assert answer == exchange(redis_server.port, data)
    assert exchange(kv.port, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.parametrize("data", ODD_BUT_FINE, ids=lambda data: repr(data[:30]))
def test_odd_requests(kv: Server, redis_server: Server, data: bytes) -> None:
    same(kv, redis_server, data)


@pytest.mark.parametrize("protocol", [b"2", b"3"])
def test_commands_and_their_errors(kv: Server, redis_server: Server, protocol: bytes) -> None:
    """One after another on each server, each on a connection of its own, so that a difference shows its command."""
    greeting = b"HELLO %b\r\nECHO hello\r\n" % protocol
    for line in re.split(r" \| |\n", COMMANDS.strip()):
        answers = [
            exchange(server.port, greeting + line.encode() + b"\r\n").partition(b"$5\r\nhello\r\n")[2]
            for server in (kv, redis_server)
        ]
        answers = [answer.partition(b"$7\r\nmodules\r\n")[0] for answer in answers]  # Redis 8 comes with some
        if line.startswith(("PTTL a", "HELLO 2")):  # a time, and the connection's number
            answers = [re.sub(rb"\d+", b"N", answer) for answer in answers]
        assert answers[0] == answers[1], line


def test_long_arguments_of_an_unknown_command(kv: Server, redis_server: Server) -> None:
    for length in (1, 60, 127, 128, 129, 200):
        same(kv, redis_server, request(b"N" * length, b"a" * length, b"b" * length, b"c"))


def test_a_pipeline_of_all_commands_at_once(kv: Server, redis_server: Server) -> None:
    lines = re.split(r" \| |\n", COMMANDS.strip())
    same_for_both = [line for line in lines if not line.startswith(("QUIT", "HELLO", "PTTL"))]
    same(kv, redis_server, "\r\n".join(same_for_both).encode() + b"\r\n")


def test_keys_by_pattern(kv: Server, redis_server: Server) -> None:
    rng = random.Random(7)
    alphabet = b"ab-^]\\*?"
    words = [bytes(rng.choices(alphabet, k=rng.randrange(1, 5))) for _ in range(300)]
    patterns = [bytes(rng.choices(alphabet + b"**[[", k=rng.randrange(1, 8))) for _ in range(500)]
    with kv.client() as ours, redis_server.client() as theirs:
        for client in (ours, theirs):
            client.execute_command("MSET", *[item for word in words for item in (word, b"")])
        for pattern in patterns:
            assert sorted(ours.execute_command("KEYS", pattern)) == sorted(theirs.execute_command("KEYS", pattern)), (
                pattern
            )
