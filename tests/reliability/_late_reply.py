"""A reply that is ready when its caller has been replaced. Not a check: `mutated_sources` runs it, on the source and on mutated
copies of it.

Shard 0 serves. Shard 1 calls, is killed, and calls again in its next life, with the same call number; the answer to the first
call, whose method does not let itself be cancelled, comes first. Prints what the second call got.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import clockworker as cw


class Oracle:
    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Event] = {name: asyncio.Event() for name in ("old", "new")}
        self.may_answer: dict[str, asyncio.Event] = {name: asyncio.Event() for name in ("old", "new")}
        self.answered = asyncio.Event()

    @cw.remote
    async def ask(self, name: str) -> str:
        self.asked[name].set()
        while not self.may_answer[name].is_set():
            try:
                await self.may_answer[name].wait()
            except asyncio.CancelledError:
                if task := asyncio.current_task():
                    task.uncancel()
        self.answered.set()
        return name


async def serve() -> None:
    async with cw.Executor([cw.Queue("foreground")], on_panic="catch") as executor:
        bell = cw.create_doorbell(2)
        mesh = cw.Mesh(0, 2, executor, (os.dup(bell[0]), os.dup(bell[1])))
        oracle = Oracle()
        mesh.start(Oracle, oracle)
        old = start(mesh, 1, bell, "old")
        await oracle.asked["old"].wait()
        old.kill()
        old.wait()
        mesh.disconnect(1)
        new = start(mesh, 2, bell, "new")
        await oracle.asked["new"].wait()
        oracle.may_answer["old"].set()
        await oracle.answered.wait()
        await asyncio.sleep(0.05)  # the reply, if there is one, is on its way
        oracle.may_answer["new"].set()
        await asyncio.get_running_loop().run_in_executor(None, new.wait)
        mesh.close()


def start(mesh: cw.Mesh, epoch: int, own: tuple[int, int], name: str) -> subprocess.Popen[bytes]:
    there, back = cw.create_ring(4096), cw.create_ring(4096)
    bell = cw.create_doorbell(2)
    config = {"incoming": there, "outgoing": back, "bell": bell, "peer": own, "epoch": epoch, "name": name}
    command = [sys.executable, "-m", "tests.reliability._late_reply", json.dumps(config)]
    process = subprocess.Popen(command, pass_fds=[there, back, *bell, *own])
    mesh.connect(1, epoch, incoming=back, outgoing=there, doorbell=bell)
    return process


async def call(config: dict[str, Any]) -> None:
    async with cw.Executor([cw.Queue("foreground")]) as executor:
        mesh = cw.Mesh(1, 2, executor, tuple(config["bell"]))
        service = mesh.start(Oracle, Oracle())
        rings = {"incoming": config["incoming"], "outgoing": config["outgoing"]}
        mesh.connect(0, config["epoch"], **rings, doorbell=tuple(config["peer"]))
        print(f"got {await service.on(0).ask(config['name'])}", flush=True)
        mesh.close()


if __name__ == "__main__":
    from tests.reliability import _late_reply  # the service has the same name for both

    print(f"clockworker from {cw.__file__}", flush=True)
    asyncio.run(_late_reply.call(json.loads(sys.argv[1])) if len(sys.argv) > 1 else _late_reply.serve())
