"""Reading TOML files, and writing values. The standard library reads TOML only, and what is written here is little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config._text import decode_text


def load(path: str, option: str) -> dict[str, Any]:
    """`option` is the one that named the file, for the message of a `ConfigurationError`."""
    # Here, because most shards have no file to read.
    import tomllib

    try:
        return tomllib.loads(decode_text(Path(path).read_bytes()))
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text, from byte {error.start} on") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def show(value: object) -> str:
    """A string, a number, true or false, or a list of them, as TOML writes it. Other values as Python does."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            # A JSON string is a TOML string, but for one character.
            return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(show, value))}]"
    return str(value)
