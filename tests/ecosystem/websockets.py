"""Autobahn's test cases of WebSockets, run against a server of ours by `kosoku`, a client that has them.

    python -m tests.ecosystem.websockets [--size quick|all] [--show] [CASE ...]

A case is a number or a pattern such as 7.*. `quick` leaves out those that send a thousand messages of up to 128 KiB each (9,
and most of 12 and 13), which take minutes. Each case must have a verdict that Autobahn takes for right (OK, NON-STRICT,
INFORMATIONAL), but for those of EXCEPTIONS, which must fail. Exit status: 0 if it is so, 1 if not, 2 if there is no kosoku.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.shards.servers import Serve

DEADLINE = 3_600

APPLICATION = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({**event, "type": "websocket.send"})
"""

# kosoku ends a case at a ping of the server's, which comes where a case takes long.
OPTIONS = ("--shards", "1", "--spares", "0", "--no-pin", "--lifespan", "off", "--ws-ping-interval", "0")

SIZES: dict[str, tuple[str, ...]] = {
    "quick": ("9.*", *(f"{chapter}.*.{number}" for chapter in (12, 13) for number in range(4, 19))),
    "all": (),
}

_THEIRS = "kosoku's own: it fails before it connects (a text where Python 3 hashes bytes)"
EXCEPTIONS: dict[str, str] = {
    "7.1.5": "a close frame in the middle of a fragmented message is answered with 1002 (websockets does), not with the code "
    "that it has; RFC 6455 (5.5.1) has the code echoed typically",
    **{f"12.{group}.1": _THEIRS for group in range(1, 6)},
    **{f"13.{group}.1": _THEIRS for group in range(1, 8)},
}


class Verdict(msgspec.Struct, frozen=True):
    """message: of the exchange; close: of its end."""

    message: str
    close: str

    @property
    def is_right(self) -> bool:
        return {self.message, self.close} <= {"OK", "NON-STRICT", "INFORMATIONAL"}

    def __str__(self) -> str:
        return self.message if self.message == self.close else f"{self.message}, close {self.close}"


def is_installed() -> bool:
    return importlib.util.find_spec("kosoku") is not None


def run_cases(
    directory: Path, cases: Sequence[str], without: Sequence[str], *, show: bool = False
) -> dict[str, Verdict]:
    """The verdict of each case, in their order. Raises RuntimeError, with what kosoku said, if there is none."""
    serve = Serve(directory)
    try:
        server = serve(APPLICATION, *OPTIONS, app="app:app")
        server.wait_serving()
        command = [sys.executable, "-c", "from kosoku._cli import main; main()"]
        command += [part for case in cases for part in ("-i", case)]
        command += [part for case in without for part in ("-x", case)]
        command += ["-p", "2", "-o", str(directory / "reports"), "{}:{}".format(*server.address)]
        ended = subprocess.run(
            command,
            cwd=directory,
            stdout=None if show else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        if server.stop() != 0 or " ERROR " in server.log:
            raise RuntimeError(f"the server says:\n{server.log[-8_000:]}")
    finally:
        serve.clean_up()
    index = directory / "reports" / "index.json"
    if not index.exists():
        raise RuntimeError(f"no case has run: status {ended.returncode}\n{(ended.stdout or '')[-8_000:]}")
    found = {
        case: Verdict(said["behavior"], said["behaviorClose"])
        for of_agent in json.loads(index.read_text()).values()  # a case that has not connected knows no agent
        for case, said in of_agent.items()
    }
    return {case: found[case] for case in sorted(found, key=_by_number)}


def differences(verdicts: Mapping[str, Verdict]) -> list[str]:
    """A line for each case that fails and should not, and for each exception that is none."""
    found = []
    for case, verdict in verdicts.items():
        if not verdict.is_right and case not in EXCEPTIONS:
            found.append(f"{case}: {verdict}")
        elif verdict.is_right and case in EXCEPTIONS:
            found.append(f"{case} is listed as an exception, and its verdict is {verdict}")
    return found


def _by_number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def _table(verdicts: Mapping[str, Verdict]) -> list[str]:
    """A line for each chapter of the cases."""
    chapters: dict[str, collections.Counter[str]] = {}
    for case, verdict in verdicts.items():
        chapters.setdefault(case.partition(".")[0], collections.Counter())[str(verdict)] += 1
    return [
        f"  {chapter:>2}.*  " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        for chapter, counts in chapters.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.ecosystem.websockets", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all of the size unless given")
    parser.add_argument("--size", choices=SIZES, default="all")
    parser.add_argument("--show", action="store_true", help="what kosoku says, as it says it")
    options = parser.parse_args()
    if not is_installed():
        print("kosoku is not installed: pip install 'clockworker[test]'", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        verdicts = run_cases(Path(directory), options.cases, SIZES[options.size], show=options.show)
    found = differences(verdicts)
    print(*_table(verdicts), *found, sep="\n")
    print(f"{len(verdicts)} of Autobahn's cases: {sum(verdict.is_right for verdict in verdicts.values())} right")
    for reason in dict.fromkeys(EXCEPTIONS.values()):
        listed = [case for case in verdicts if EXCEPTIONS.get(case) == reason]
        if listed:
            print(f"  {', '.join(listed)}, failed as listed: {reason}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
