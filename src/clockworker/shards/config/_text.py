"""Text files as other systems write them: editors on Windows put a byte order mark in front, and its shells write UTF-16."""

from __future__ import annotations

import codecs

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decode_text(data: bytes) -> str:
    """By its byte order mark, and as UTF-8 if it has none. Lines end in a line feed. Raises `UnicodeDecodeError`."""
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    return data.decode(encoding).replace("\r\n", "\n")
