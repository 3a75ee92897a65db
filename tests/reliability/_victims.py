"""Shards of a mesh of two to be killed: processes of `_victim`, seen from shard 0."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import clockworker as cw
from clockworker.ipc.rings._memory_cy import SharedMemory

_ROOT = Path(__file__).parents[2]
_RING = 1 << 14


def start(
    mesh: cw.Mesh,
    epoch: int,
    ledger: int,
    own: tuple[int, int],
    idle_poll_us: int = 0,
    watch: list[SharedMemory] | None = None,
) -> subprocess.Popen[bytes]:
    """A new incarnation of shard 1, connected with fresh rings. own: the descriptors of shard 0's doorbell.

    watch: is given the memory of the new one's doorbell.
    """
    there, back = cw.create_ring(_RING), cw.create_ring(_RING)
    memory, event = cw.create_doorbell(2)
    if watch is not None:
        watch.append(SharedMemory(memory))
    config = {
        "epoch": epoch,
        "incoming": there,
        "outgoing": back,
        "memory": memory,
        "event": event,
        "peer_memory": own[0],
        "peer_event": own[1],
        "file": ledger,
        "idle_poll_us": idle_poll_us,
    }
    victim = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability._victim", json.dumps(config)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        pass_fds=[there, back, memory, event, *own, ledger],
    )
    mesh.connect(1, epoch, incoming=back, outgoing=there, doorbell=(memory, event))
    return victim


def end(victim: subprocess.Popen[bytes]) -> None:
    """kill -9, and reap."""
    victim.kill()
    victim.wait()
    assert victim.stdin is not None
    victim.stdin.close()
