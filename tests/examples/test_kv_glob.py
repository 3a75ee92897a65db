from __future__ import annotations

import time

import pytest

from examples.kv._glob import compile_glob


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"*", [b"", b"a", b"a\nb"], []),
        (b"h?llo", [b"hello", b"h\xffllo", b"h\nllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeello"], [b"hll", b"xhllo"]),
        (b"a**c", [b"ac", b"abc"], [b"ab"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
        (b"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
        (b"h[!e]llo", [b"h!llo", b"hello"], [b"hallo"]),
        (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
        (b"[c-a]", [b"a", b"b", b"c"], [b"d", b"-"]),
        (b"[a-]", [b"a", b"]", b"_"], [b"-", b"b"]),  # a range to the bracket, which then closes nothing
        (b"[\\]a]", [b"]", b"a"], [b"\\"]),
        (b"[]a]", [], [b"]", b"a", b"a]", b""]),
        (b"[^]", [b"a", b"]"], [b""]),
        (b"[ab", [b"a", b"b"], [b"[ab", b"c"]),
        (b"\\*", [b"*"], [b"a", b"\\*"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"a.c", [b"a.c"], [b"abc"]),
        (b"*a*b", [b"ab", b"aab", b"abb", b"xaxbxb"], [b"ba", b"a", b"abx"]),
        (b"", [b""], [b"a"]),
    ],
)
def test_compile_glob(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    matches = compile_glob(pattern).fullmatch
    assert [text for text in matching if not matches(text)] == []
    assert [text for text in others if matches(text)] == []


def test_many_stars_do_not_take_for_ever() -> None:
    started = time.thread_time()
    assert not compile_glob(b"*a" * 50 + b"*b").fullmatch(b"a" * 2_000)
    assert time.thread_time() - started < 10  # for ever is 2,000 ** 50
