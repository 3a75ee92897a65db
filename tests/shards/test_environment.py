from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.config._environment import read_env_file


def write(directory: Path, text: str | bytes) -> str:
    path = directory / "app.env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_what_python_dotenv_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF_ALL", "/srv")
    monkeypatch.setenv("SET_TWICE", "outside")
    text = """
# a comment
PLAIN=value # and another
export EXPORTED = 'single ${PLAIN}'
DOUBLE="two\\nlines"
EMPTY=
DATA=${HOME_OF_ALL}/data
FALLBACK=${NOT_SET_ANYWHERE:-here}
SET_TWICE=inside
FROM=${SET_TWICE}
"""
    assert read_env_file(write(tmp_path, text)) == {
        "PLAIN": "value",
        "EXPORTED": "single value",
        "DOUBLE": "two\nlines",
        "EMPTY": "",
        "DATA": "/srv/data",
        "FALLBACK": "here",
        "SET_TWICE": "inside",  # what is set outside stays; but that is not the reader's concern
        "FROM": "outside",
    }


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [
        ("A=1\n\n\nwhat is this\nB=2\n", 4, "'what is this'"),
        ("A=1\nB='never closed\nC=2\n", 2, '"B=\'never closed"'),
        ("A=1\nLONELY\n", 2, "'LONELY'"),
        ("=1\n", 1, "'=1'"),
        ("A=a\0b\n", 1, "'A=a\\x00b'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: str, line: int, shown: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_env_file(path)
    assert str(caught.value) == f"{path}, line {line}: {shown} cannot be read; give NAME=VALUE"


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--env-file .*none cannot be read: No such file"):
        read_env_file(str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="not UTF-8 text, from byte 2 on"):
        read_env_file(write(tmp_path, b"A=\xff\n"))


def test_without_python_dotenv_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dotenv.main", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'clockworker\[env\]'"):
        read_env_file(write(tmp_path, "A=1\n"))
