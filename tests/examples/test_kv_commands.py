from __future__ import annotations

import pytest

from examples.kv._commands import COMMANDS, ManyKeys, run
from examples.kv._request import MAX_BULK
from examples.kv._resp import OK, Error, Scalar
from examples.kv._store import Store


class Shell:
    """Commands in a line of text, on a store whose clock stands until it is set."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.store = Store(lambda: self.now_ms)

    def __call__(self, line: str) -> Scalar:
        return run(self.store, line.encode().split())


@pytest.fixture
def shell() -> Shell:
    return Shell()


def test_set_with_a_time_to_live(shell: Shell) -> None:
    for option, left_ms in {"EX 10": 10_000, "px 10": 10, "EXAT 1010": 10_000, "PXAT 1000010": 10}.items():
        assert shell(f"SET a 1 {option}") == OK
        assert shell("PTTL a") == left_ms
        shell.now_ms += left_ms
        assert shell("GET a") is None
        shell.now_ms -= left_ms


def test_set_with_a_moment_that_has_passed_removes_the_key(shell: Shell) -> None:
    assert shell("SET a 1 PXAT 1") == OK
    assert shell("GET a") is None


def test_set_only_if_absent_or_present(shell: Shell) -> None:
    assert shell("SET a 1 XX") is None
    assert shell("SET a 1 NX") == OK
    assert shell("SET a 2 NX") is None
    assert shell("SET a 3 NX GET") == b"1"
    assert shell("SET a 4 XX GET") == b"1"
    assert shell("SET b 1 NX GET") is None
    assert [shell("GET a"), shell("GET b")] == [b"4", b"1"]


def test_set_keepttl(shell: Shell) -> None:
    shell("SET a 1 EX 10")
    shell("SET a 2 KEEPTTL")
    assert shell("TTL a") == 10
    shell("SET a 3")
    assert shell("TTL a") == -1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SET a 1 EX", b"ERR syntax error"),
        ("SET a 1 EX 1 PX 1", b"ERR syntax error"),
        ("SET a 1 EX 1 KEEPTTL", b"ERR syntax error"),
        ("SET a 1 KEEPTTL EX 1", b"ERR syntax error"),
        ("SET a 1 NX XX", b"ERR syntax error"),
        ("SET a 1 WHAT", b"ERR syntax error"),
        ("SET a 1 EX one", b"ERR value is not an integer or out of range"),
        ("SET a 1 EX 0", b"ERR invalid expire time in 'set' command"),
        ("SET a 1 PXAT -1", b"ERR invalid expire time in 'set' command"),
        ("SET a 1 EX 9223372036854775807", b"ERR invalid expire time in 'set' command"),
        ("SET a 1 PX 9223372036854775807", b"ERR invalid expire time in 'set' command"),
        ("INCR a", b"ERR value is not an integer or out of range"),
        ("INCRBY b 1.5", b"ERR value is not an integer or out of range"),
        ("DECRBY b -9223372036854775808", b"ERR decrement would overflow"),
        ("INCR big", b"ERR increment or decrement would overflow"),
        ("EXPIRE a soon", b"ERR value is not an integer or out of range"),
        ("EXPIRE a 9223372036854775807", b"ERR invalid expire time in 'expire' command"),
        ("PEXPIRE a 9223372036854775807", b"ERR invalid expire time in 'pexpire' command"),
        ("EXPIRE a 1 SOON", b"ERR Unsupported option SOON"),
        ("EXPIRE a 1 NX GT", b"ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE a 1 GT LT", b"ERR GT and LT options at the same time are not compatible"),
    ],
)
def test_errors_change_nothing(shell: Shell, line: str, message: bytes) -> None:
    shell("SET a text")
    shell("SET big 9223372036854775807")
    assert shell(line) == Error(message)
    assert [shell("GET a"), shell("TTL a"), shell("GET big"), shell("GET b")] == [
        b"text",
        -1,
        b"9223372036854775807",
        None,
    ]


def test_counting(shell: Shell) -> None:
    assert [shell("INCR a"), shell("INCRBY a 9"), shell("DECR a"), shell("DECRBY a 19")] == [1, 10, 9, -10]
    shell("EXPIRE a 10")
    shell("INCR a")
    assert [shell("GET a"), shell("TTL a")] == [b"-9", 10]


def test_append_keeps_the_time_to_live_and_has_a_limit(shell: Shell) -> None:
    assert shell("APPEND a 12") == 2
    shell("EXPIRE a 10")
    assert [shell("APPEND a 3"), shell("STRLEN a"), shell("TTL a")] == [3, 3, 10]
    shell.store.set(b"big", bytes(MAX_BULK))
    assert shell("APPEND big 1") == Error(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)")


def test_keys_are_counted_as_often_as_they_are_named(shell: Shell) -> None:
    shell("MSET a 1 b 2 a 3")
    assert [shell("EXISTS a b a c"), shell("DEL a a b c"), shell("EXISTS a b")] == [3, 2, 0]
    shell("SET a 1")
    assert [shell("GETDEL a"), shell("GETDEL a"), shell("UNLINK a")] == [b"1", None, 0]


def test_expire_options(shell: Shell) -> None:
    shell("SET a 1")
    assert [shell("EXPIRE a 10 XX"), shell("EXPIRE a 10 GT"), shell("TTL a")] == [0, 0, -1]
    assert [shell("EXPIRE a 10 NX"), shell("EXPIRE a 20 NX"), shell("TTL a")] == [1, 0, 10]
    assert [shell("EXPIRE a 5 GT"), shell("EXPIRE a 20 GT"), shell("TTL a")] == [0, 1, 20]
    assert [shell("EXPIRE a 30 LT"), shell("EXPIRE a 15 XX LT"), shell("TTL a")] == [0, 1, 15]
    assert [shell("PERSIST a"), shell("PERSIST a"), shell("TTL a")] == [1, 0, -1]
    assert [shell("EXPIRE a 10 LT"), shell("EXPIRE missing 10"), shell("PTTL missing")] == [1, 0, -2]
    assert [shell("EXPIRE a -1"), shell("EXISTS a")] == [1, 0]


def test_ttl_is_rounded_to_the_nearest_second(shell: Shell) -> None:
    shell("SET a 1 PX 1499")
    assert shell("TTL a") == 1
    shell("PEXPIRE a 1500")
    assert shell("TTL a") == 2


MANY = {command.name: command for command in COMMANDS if isinstance(command, ManyKeys)}


def owner(key: bytes) -> int:
    return key[-1] % 2


def test_splitting_by_shard() -> None:
    assert MANY["mset"].split([b"mset", b"k1", b"a", b"k2", b"b", b"k3", b"c"], owner) == [
        (1, [b"mset", b"k1", b"a", b"k3", b"c"]),
        (0, [b"mset", b"k2", b"b"]),
    ]
    assert MANY["del"].split([b"DEL", b"k2", b"k4"], owner) == [(0, [b"DEL", b"k2", b"k4"])]
    assert MANY["mget"].split([b"MGET", b"k1", b"k2"], owner) == [(1, [b"GET", b"k1"]), (0, [b"GET", b"k2"])]


def test_combining() -> None:
    assert MANY["mset"].combine([OK, OK]) == OK
    assert MANY["exists"].combine([1, 2]) == 3
    assert MANY["mget"].combine([b"1", None]) == [b"1", None]


def test_arity() -> None:
    mset, get = MANY["mset"], next(command for command in COMMANDS if command.name == "get")
    assert [mset.accepts(count) for count in range(1, 6)] == [False, False, True, False, True]
    assert [get.accepts(count) for count in range(1, 4)] == [False, True, False]
