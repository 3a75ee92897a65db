"""The command without the price of its start: a process that has imported it forks, and the child runs it.

What a call says and how it ends is the same, for a fifth of a second of CPU less, and hundreds of tests ask for no more. What
depends on how the process came to be (its variables at import, its command line, its parents) is for the command itself.

The process reads a request a line from its standard input, and answers with the status: a child of its own for each, with
files for what it says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class ForkedCommand:
    """`clockworker-serve`, run to its end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shards.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parents[2],
        )

    def __call__(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as directory:
            said = {number: Path(directory, str(number)) for number in (1, 2)}
            request = {
                "arguments": arguments,
                "cwd": str(cwd or Path.cwd()),
                "environment": {**os.environ, **environment},
                "files": {number: str(path) for number, path in said.items()},
            }
            self._process.stdin.write(json.dumps(request) + "\n")
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(list(arguments), status, said[1].read_text(), said[2].read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    import clockworker.shards._cli  # noqa: F401  # for all children

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(request: dict[str, object]) -> None:
    """In the child, which ends here."""
    from clockworker.shards import _cli

    status: object = 1
    for number, path in request["files"].items():  # type: ignore[attr-defined]
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), int(number))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 64)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]
    sys.argv = ["clockworker-serve", *request["arguments"]]  # type: ignore[misc]
    try:
        _cli.main()
        status = 0
    except SystemExit as ended:
        status = 0 if ended.code is None else ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
