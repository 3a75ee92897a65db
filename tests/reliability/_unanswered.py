"""A call in flight to a shard that is killed and not replaced. Not a check: `mutated_sources` runs it, under a real server, on
the source and on mutated copies of it. Prints what the caller got.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_APPLICATION = """
import asyncio
import os
from clockworker import remote

def say(text):
    # In one piece: others write to the same file.
    print(f"{text}\\n", end="", flush=True)

class Service:
    def __init__(self, shard):
        pass

    @remote
    async def sleep(self, seconds: float) -> None:
        say(f"asleep {os.getpid()}")
        await asyncio.sleep(seconds)

async def main(shard):
    service = await shard.start(Service)
    if shard.id == 0:
        async def call():
            try:
                await service.on(1).sleep(3600)
            except Exception as error:
                say(f"got {type(error).__name__}")
        task = asyncio.ensure_future(call())
    await shard.wait_stopped()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/log", "wb") as log:
        Path(directory, "hangs_app.py").write_text(_APPLICATION)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "clockworker.shards._cli", "hangs_app:main", "--shards", "2", "--no-respawn"]
        server = subprocess.Popen([*command, "--port", str(port)], cwd=directory, stdout=log, stderr=log)
        try:
            asleep = wait_for(Path(directory, "log"), r"asleep (\d+)", 20)
            os.kill(int(asleep[1]), signal.SIGKILL)
            print(wait_for(Path(directory, "log"), r"got \w+", 3)[0])
        finally:
            server.kill()
            server.wait()


def wait_for(log: Path, pattern: str, seconds: float) -> re.Match[str]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text()):
            return found
        time.sleep(0.01)
    sys.exit(f"no {pattern!r} within {seconds:g} s in\n{log.read_text()}")


if __name__ == "__main__":
    main()
