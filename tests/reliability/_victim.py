"""Shard 1 of a mesh of two, which will be killed. Not a check: `kills_under_load` starts it.

Each call that is carried out is written to a file that outlives the process, before it is answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import uvloop

import clockworker as cw


class Ledger:
    def __init__(self, file: int) -> None:
        self._file = file

    @cw.remote
    async def enter(self, number: int, load: bytes) -> int:
        os.write(self._file, number.to_bytes(8, "little"))
        if number % 3 == 0:
            await asyncio.sleep(0.001)  # some are on the way for longer
        return number


async def main(config: dict[str, int]) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 1) or over.set())
    async with cw.Executor([cw.Queue("foreground")], on_panic="catch") as executor:
        mesh = cw.Mesh(1, 2, executor, (config["memory"], config["event"]), idle_poll_us=config["idle_poll_us"])
        mesh.start(Ledger, Ledger(config["file"]))
        bell = (config["peer_memory"], config["peer_event"])
        mesh.connect(0, config["epoch"], incoming=config["incoming"], outgoing=config["outgoing"], doorbell=bell)
        await over.wait()
        mesh.close()


if __name__ == "__main__":
    from tests.reliability._victim import Ledger

    uvloop.run(main(json.loads(sys.argv[1])))
