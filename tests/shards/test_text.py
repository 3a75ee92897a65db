from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from clockworker.shards.config._environment import read_env_file
from clockworker.shards.config._file import read_file
from clockworker.shards.config._text import decode_text
from clockworker.shards.logs._log_config import configure_logging

TEXT = "äpfel = 1\nbirnen = 2\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.replace("\n", "\r\n").encode("utf-16-be"),
    ],
)
def test_text_as_any_system_writes_it(data: bytes) -> None:
    assert decode_text(data) == TEXT


def test_what_is_no_text() -> None:
    for data in (b"\xff", codecs.BOM_UTF8 + b"\xff", codecs.BOM_UTF16_LE + b"a"):
        with pytest.raises(UnicodeDecodeError):
            decode_text(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_file_that_is_read(encoding: str, tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding=encoding)
        return str(tmp_path / name)

    assert read_file(written("clockworker.toml", "shards = 2\r\n")) == {"shards": 2}
    assert read_env_file(written(".env", "A=1\r\nB=2\r\n")) == {"A": "1", "B": "2"}
    configure_logging(written("log.json", "{}"))
    configure_logging(written("log.toml", "[loggers]\r\n"))
