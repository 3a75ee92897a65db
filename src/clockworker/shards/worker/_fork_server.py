"""The process that forks spares (`_spares` says what for): it has imported a shard's side once, and then does nothing but fork.

A fork of it is a process like one that was started, if what it is forked from has nothing that a fork loses or shares: one
thread, no loop, no executor, no descriptor but the first three and its channel, and nothing of the application's. That is so
unless something that Python itself imports at its start (`sitecustomize`, a `.pth` file, a preloaded library) has begun more;
it is looked at before each fork, and where it is not so spares are started as processes of their own.

What is forked must be the supervisor's own child: it is waited for, found by tools, and ends together with it. A fork is the
child of who forks. So a process between the two forks it and ends at once; the supervisor takes in what that leaves behind
(PR_SET_CHILD_SUBREAPER, while it waits for the answer). Rejected: clone() with CLONE_PARENT, of which the C library knows
nothing: in such a child it would take the parent's thread id for its own.

The pidfd goes with the answer, made by whoever still was the parent, so that no pid has to be trusted.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from contextlib import suppress

from clockworker.shards.config._application import import_ahead
from clockworker.shards.machine._host import die_with_parent, set_process_title
from clockworker.shards.protocol._birth import EXIT_ORPHANED, FORK_SERVER_VARIABLE, SPARE_VARIABLE
from clockworker.shards.protocol._control_channel import ControlChannel
from clockworker.shards.protocol._messages import Fork, Forked
from clockworker.shards.worker._waiting import Imports, show, state_of_imports, wait_on_disk

LOOK_S = 0.0005
_SAID = 200


def fork_spares(channel: ControlChannel, app: str) -> tuple[ControlChannel, Imports]:
    """As often as the supervisor asks. Returns in each spare, with its channel and the state of what has been imported; in the
    process itself never: it ends with the supervisor."""
    import_ahead()
    imported = state_of_imports()
    set_process_title("fork server", app)
    gc.collect()
    gc.freeze()  # a collection in a fork of it would copy all the pages that they share
    while True:
        wait_on_disk(channel, imported, FORK_SERVER_VARIABLE, app)
        received = channel.receive_first()
        if received is None:
            sys.exit(EXIT_ORPHANED)
        message, descriptors = received
        assert isinstance(message, Fork)
        of_spare = ControlChannel(socket.socket(fileno=descriptors[0]), trusting=True)
        if has_more := _what_a_fork_would_share(channel, of_spare):
            channel.send(Forked(problem=has_more, for_good=True))
        elif _fork(channel):
            channel.close()
            show(f"{SPARE_VARIABLE}={app}", FORK_SERVER_VARIABLE)
            return of_spare, imported
        of_spare.close()


def _what_a_fork_would_share(*channels: ControlChannel) -> str:
    """Beyond what it may. Empty if there is nothing."""
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        return f"it has {threads} threads"
    ours = {0, 1, 2, *(channel.fileno() for channel in channels)}
    for descriptor in {int(name) for name in os.listdir("/proc/self/fd")} - ours:
        with suppress(OSError):  # that of the directory itself
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            # ctypes' library keeps its own file open, to map pieces of it: nobody reads at a position that a fork would share.
            if not os.path.basename(target).startswith("libffi.so"):
                return f"it has opened {target}"
    return ""


def _fork(channel: ControlChannel) -> bool:
    """Whether this is the fork; else the supervisor has been answered."""
    supervisor = os.getppid()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        try:
            between = os.fork()
        except OSError as error:
            channel.send(Forked(problem=str(error)))
            return False
        if between == 0:
            _fork_again(there)
            if not die_with_parent(supervisor):
                sys.exit(EXIT_ORPHANED)
            return True
        os.waitpid(between, 0)  # then the fork is the supervisor's child
        here.setblocking(False)
        said, pidfds = b"", list[int]()
        with suppress(BlockingIOError):
            said, pidfds, _, _ = socket.recv_fds(here, _SAID, 1)
    if not pidfds:
        channel.send(Forked(problem=said.decode() or "what should have forked it has ended"))
        return False
    channel.send(Forked(int(said)), pidfds)
    os.close(pidfds[0])
    return False


def _fork_again(there: socket.socket) -> None:
    """Returns in the fork, when the process between has ended: that has said there which it is, or why there is none."""
    between = os.getpid()
    pid = -1
    try:
        pid = os.fork()
        if pid > 0:
            socket.send_fds(there, [b"%d" % pid], [os.pidfd_open(pid)])
    except OSError as error:
        there.send(str(error).encode()[:_SAID])
    finally:
        if pid != 0:
            os._exit(0)
    while os.getppid() == between:
        time.sleep(LOOK_S)
