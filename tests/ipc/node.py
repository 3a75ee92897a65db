"""A shard of a mesh as a process of its own, with `Probe` on it. Not a test: `fleet.py` starts it.

Takes its configuration as JSON, descriptors as inherited, and lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import uvloop
from probe import Probe

import clockworker as cw

if "TESTS_PREEMPTIVE" in os.environ:
    sys.path.append(os.path.join(os.path.dirname(__file__), "..", ".."))
    from tests import preemptive

    preemptive.install()


async def main(config: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: os.read(0, 1) or over.set())
    async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")], on_panic="catch") as executor:
        mesh = cw.Mesh(
            config["shard"],
            config["count"],
            executor,
            tuple(config["doorbell"]),
            idle_poll_us=config["idle_poll_us"],
            limits=cw.Limits(**config["limits"]),
            start_grace_s=config["start_grace_s"],
        )
        if config["topics"]:
            _ = mesh.topics
        for peer in config["peers"]:
            mesh.connect(**{**peer, "doorbell": tuple(peer["doorbell"])})
        probe = Probe(config["shard"], mesh)
        if config["waits"]:  # for a first byte, before it starts the service
            waiting = asyncio.Event()
            loop.remove_reader(0)
            loop.add_reader(0, lambda: os.read(0, 1) and waiting.set())
            await waiting.wait()
            if not config["start_grace_s"]:  # the service comes later than it should
                mesh.ready()
                waiting.clear()
                await waiting.wait()
            loop.remove_reader(0)
            loop.add_reader(0, lambda: os.read(0, 1) or over.set())
        probe.service = mesh.start(Probe, probe)
        await over.wait()
        mesh.close()


asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main(json.loads(sys.argv[1])))
