"""--env-file: variables for the application, and for the options that are not given otherwise.

The syntax is python-dotenv's, which is where such files come from; what is set in the environment already stays. Where
python-dotenv leaves out a line that it cannot read, and goes on without the variable, we stop.
"""

from __future__ import annotations

import io
from pathlib import Path

from clockworker._errors import ConfigurationError
from clockworker.shards.config._text import decode_text


def read_env_file(path: str) -> dict[str, str]:
    """The file's variables. Raises `ConfigurationError`, which names the line, also if python-dotenv is not installed."""
    try:
        from dotenv.main import DotEnv
        from dotenv.parser import parse_stream
    except ModuleNotFoundError:
        raise ConfigurationError(
            "--env-file needs python-dotenv, which is not installed: pip install 'clockworker[env]'"
        ) from None
    try:
        text = decode_text(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"--env-file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text, from byte {error.start} on") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and (binding.value is None or "\0" in binding.value)):
            # A statement's text begins with the empty lines before it.
            before = binding.original.string[: -len(binding.original.string.lstrip()) or None]
            line = binding.original.line + before.count("\n")
            shown = binding.original.string.strip().partition("\n")[0]
            raise ConfigurationError(f"{path}, line {line}: {shown!r} cannot be read; give NAME=VALUE")
    found = DotEnv(None, stream=io.StringIO(text), override=False).dict()
    return {name: value for name, value in found.items() if value is not None}
