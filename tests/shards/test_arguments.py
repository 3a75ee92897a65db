from __future__ import annotations

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.config._arguments import split_command_line
from clockworker.shards.config._options import OPTIONS


def split(arguments: str) -> dict[str, object]:
    return {name: text for name, text in split_command_line(arguments.split(), "1").items() if text is not None}


def test_texts_are_left_to_be_read() -> None:
    assert split("app:main -w 2 --queue a:1 --queue b:2 --no-respawn --metrics") == {
        "app": "app:main",
        "shards": "2",
        "queue": ["a:1", "b:2"],
        "respawn": "0",
        "metrics": "1",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sahrds 2 app:main", "unknown option --sahrds; did you mean --shards?"),
        ("app:main --sahrds=2", "unknown option --sahrds; did you mean --shards?"),
        ("app:main --no-respwan", "unknown option --no-respwan; did you mean --no-respawn?"),
        ("app:main --hlep", "unknown option --hlep; did you mean --help?"),
        ("app:main --zzz", "unknown option --zzz; see clockworker-serve --help"),
        ("app:main -x", "unknown option -x; see clockworker-serve --help"),
        ("app:main --shard 2", "unknown option --shard; did you mean --shards?"),
        ("app:main -D", "unknown option -D; see clockworker-serve --help"),
        # Of uvicorn, gunicorn, granian and hypercorn.
        ("app:main --graceful-timeout 3", "did you mean --timeout-graceful-shutdown?"),
        ("app:main --timeout 3", "did you mean --timeout-shard-healthcheck?"),
        ("app:main --timeout-worker-healthcheck 3", "did you mean --timeout-shard-healthcheck?"),
        ("app:main --chdir x", "did you mean --app-dir?"),
        ("app:main -c x", "did you mean --config?"),
        ("app:main --pid x", "did you mean --pid-file?"),
        ("app:main other:main", "unexpected 'other:main' after 'app:main'; one application at a time"),
        ("app:main --port", "argument --port/-p: expected one argument; see clockworker-serve --help"),
        ("app:main --factory=1", "argument --factory: takes no value; leave '1' out"),
    ],
)
def test_a_mistake_is_told_with_what_was_probably_meant(arguments: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        split(arguments)
    assert message in str(caught.value)


def test_every_flag_belongs_to_one_option() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(set(flags)) == len(flags)
