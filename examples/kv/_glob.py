"""Redis's glob patterns as compiled expressions over bytes.

Python's fnmatch differs: `[!x]` negates there and `[^x]` here, a backslash escapes here, and a class that is never
closed ends with the pattern. After Redis's stringmatchlen.
"""

from __future__ import annotations

import functools
import re


@functools.lru_cache(maxsize=64)
def compile_glob(pattern: bytes) -> re.Pattern[bytes]:
    """The expression whose `fullmatch` tells what `pattern` matches.

    The text between two stars is matched at the first place where it fits and never tried again further on (atomic
    groups), for if the rest fits after a later place it fits after the first. So no pattern takes exponential time.
    """
    parts = [b""]
    position = 0
    while position < len(pattern):
        byte = pattern[position]
        position += 1
        if byte == ord("*"):
            parts.append(b"")
        elif byte == ord("?"):
            parts[-1] += b"."
        elif byte == ord("["):
            members, position = _members(pattern, position)
            parts[-1] += members
        else:
            if byte == ord("\\") and position < len(pattern):
                byte = pattern[position]
                position += 1
            parts[-1] += b"\\x%02x" % byte
    first, *middle = parts
    expression = first
    if middle:
        last = middle.pop()
        expression += b"".join([b"(?>.*?%b)" % part for part in middle if part]) + b".*" + last
    return re.compile(expression, re.DOTALL)


def _members(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The class whose first member is at `position`, and where the pattern goes on."""
    negated = pattern[position : position + 1] == b"^"
    position += negated
    members: set[int] = set()
    while position < len(pattern) and pattern[position] != ord("]"):
        left = len(pattern) - position
        first = last = pattern[position]
        if first == ord("\\") and left >= 2:
            first = last = pattern[position + 1]
            position += 1
        elif left >= 3 and pattern[position + 1] == ord("-"):
            last = pattern[position + 2]
            position += 2
        members.update(range(min(first, last), max(first, last) + 1))
        position += 1
    if negated:
        members = set(range(256)) - members
    expression = b"[%b]" % b"".join([b"\\x%02x" % byte for byte in sorted(members)]) if members else b"(?!)"
    return expression, position + 1
