"""--log-config: a dictionary of logging.config in a file, JSON or TOML."""

from __future__ import annotations

import logging.config
from pathlib import Path
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config import _toml
from clockworker.shards.config._text import decode_text

_FORMATTERS = {
    "text": {"()": "clockworker.shards.logs._logging.TextFormatter"},
    "json": {"()": "clockworker.shards.logs._logging.JsonFormatter"},
}


def configure_logging(path: str) -> None:
    """Raises `ConfigurationError` for a file that is not there, or no such dictionary."""
    if path.endswith(".json"):
        try:
            config = msgspec.json.decode(decode_text(Path(path).read_bytes()), type=dict[str, Any])
        except OSError as error:
            raise ConfigurationError(f"--log-config {path} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(f"--log-config {path} is not a JSON object: {error}") from None
    elif not path.endswith(".toml"):
        raise ConfigurationError(f"--log-config {path}: give a dictionary of logging.config in a .toml or .json file")
    else:
        config = _toml.load(path, "--log-config")
    # The version is always 1. And loggers exist long before this is read, ours among them.
    config = {"version": 1, "disable_existing_loggers": False} | config
    try:
        config["formatters"] = _FORMATTERS | config.get("formatters", {})
        logging.config.dictConfig(config)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        raise ConfigurationError(f"--log-config {path}: {error}{cause}") from None
