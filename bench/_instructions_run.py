"""What `bench instructions` runs under cachegrind: `python -m bench._instructions_run DIRECTORY KEY...`.

A key is a tuple: the workload, the side, whether there is an access log, and how many requests are served in process.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop

from bench import _http_raw as raw
from bench._cachegrind import in_children
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


def measure(key: str) -> None:
    name, side, access_log, requests = ast.literal_eval(key)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(workload(name), side, access_log, requests))


async def serve(work: Workload, side: str, access_log: bool, requests: int) -> None:
    async with SIDES[side](work.app, access_log) as connect:
        asking = Asking(connect, work.asked, work.answer)
        await asking.ask(WARM + requests)
        asking.close()


if __name__ == "__main__":
    for each in dict.fromkeys(ast.literal_eval(key)[0] for key in sys.argv[2:]):
        workload(each)  # imports what it needs
    in_children(Path(sys.argv[1]), sys.argv[2:], measure)
