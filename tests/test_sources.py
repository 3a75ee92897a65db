"""CLOCKWORKER_PURE=1 at import: what is compiled is left alone, in the shards' processes too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clockworker
from tests.shards.servers import DEADLINE, Serve, ask

MODULES = [
    path.stem
    for package in ("executor", "ipc", "shards")
    for path in (Path(clockworker.__file__).parent / package).rglob("*_cy.py")
]

KINDS = """
import sys
import clockworker

clockworker.Shard  # and with it the rest

found = {name: module.__file__ for name, module in sys.modules.items() if name.endswith("_cy")}
print(clockworker.compiled, len(found), *{file.endswith("_cy.py") for file in found.values()})
"""

APP = """
import sys
import clockworker as cw

class Service:
    def __init__(self, shard):
        pass

    @cw.remote
    async def state(self) -> str:
        files = [module.__file__ for name, module in sys.modules.items() if name.endswith("_cy")]
        sources = sum(file.endswith("_cy.py") for file in files)
        return f"{cw.compiled} {sources} {' '.join(cw.switched_off())}"

async def main(shard):
    service = await shard.start(Service)

    async def handle(reader, writer):
        while await reader.readline():
            here, there = await service.on(shard.id).state(), await service.on(1 - shard.id).state()
            writer.write(f"{here}, {there}\\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@pytest.mark.parametrize("value", ["1", "yes"])
def test_sources_run_where_all_is_compiled(value: str) -> None:
    environment = os.environ | {"CLOCKWORKER_PURE": value}
    done = subprocess.run([sys.executable, "-c", KINDS], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == (f"False {len(MODULES)} True\n", "")


def test_shards_decide_as_their_supervisor(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        environment = {"CLOCKWORKER_PURE": "1", "CLOCKWORKER_PLAIN": "force,registry"}
        server = serve(APP, "--shards", "2", environment=environment)
        server.wait_serving()
        off = "force registry"
        with server.connect() as connection:
            connection.settimeout(DEADLINE)
            state = f"False {len(MODULES)} {off}"
            assert ask(connection, b"state") == f"{state}, {state}".encode()
        assert server.log.splitlines()[0].endswith(f"; switched off: {off.replace(' ', ', ')}")
        assert "(pure Python)" in server.log.splitlines()[0]
        assert server.stop() == 0
    finally:
        serve.clean_up()
