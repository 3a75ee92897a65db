"""What `bench instructions` runs under cachegrind: `python -m bench._instructions_run DIRECTORY COUNT WORKLOAD...`.

Everything is imported once, which is slow under valgrind. Each measurement is a child that serves so many requests in process;
cachegrind writes a file for each, which begins with what the parent had counted until then. So a child of n requests and one
of 2n differ by n requests. What each child was is written to DIRECTORY/children.json, by process id.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path

import msgspec
import uvloop

from bench import _http_raw as raw
from bench._http_in_process import SIDES, Asking, request

WARM = 50


class Workload(msgspec.Struct, frozen=True):
    app: raw.Application
    asked: bytes
    answer: bytes  # its body


def workload(name: str) -> Workload:
    if name == "plain":
        return Workload(raw.plain, request("GET", "/plain"), raw.PLAIN)
    from bench import (
        _http_frameworks as frameworks,  # imported only if wanted: under valgrind that takes most of a minute
    )

    if name == "starlette":
        return Workload(frameworks.starlette_app, request("GET", "/starlette"), raw.JSON)
    return Workload(frameworks.fastapi_app, request("POST", "/fastapi", frameworks.ORDER), frameworks.ORDERED)


class Child(msgspec.Struct, frozen=True):
    workload: str
    side: str
    access_log: bool
    requests: int


def main(directory: Path, count: int, names: list[str]) -> None:
    for name in names:
        workload(name)  # imports what it needs
    gc.collect()
    gc.freeze()  # or a child's first collection would copy all of the parent's memory, and count
    children: dict[int, Child] = {}
    for name in names:
        for side in SIDES:
            for access_log in (False, True):
                for requests in (count, 2 * count):
                    child = Child(name, side, access_log, requests)
                    children[run_in_child(child)] = child
    document = {str(pid): msgspec.to_builtins(child) for pid, child in children.items()}
    (directory / "children.json").write_text(json.dumps(document))


def run_in_child(child: Child) -> int:
    """Its process id. SystemExit if it failed."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)  # lines of the access log are written, and nobody reads them
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(child))
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{child} ended with status {status}")
    return pid


async def serve(child: Child) -> None:
    work = workload(child.workload)
    async with SIDES[child.side](work.app, child.access_log) as connect:
        asking = Asking(connect, work.asked, work.answer)
        await asking.ask(WARM + child.requests)
        asking.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
