"""What processes of ours need of their machine: enough open files, a pid file if one is wanted, a name to be seen by, and
an end together with whoever started them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import resource
import signal

from clockworker._errors import ConfigurationError

_PR_SET_PDEATHSIG = 1


def raise_descriptor_limit(shards: int, addresses: int) -> None:
    """Raise the soft limit on open files to the hard one, and check that it is enough for the mesh.

    Each shard costs the supervisor a pidfd, a channel, slots, a pulse, two for each of witness, handover and doorbell,
    and its sockets; a shard holds at most four for each peer. Raises `ConfigurationError`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 64 + (shards + 1) * (10 + addresses)  # one more while one is replaced
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{shards} shards need {needed} open files, but the limit is {hard}; raise it (ulimit -n) or start fewer"
        )


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this process when its parent dies. False if the parent, of this pid, has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    return os.getppid() == parent


def set_process_title(role: str, app: str) -> None:
    """What `ps` and `top` show of this process, if setproctitle is installed: `clockworker shard 1 [app:main]`."""
    # Without this it also writes over the memory of the environment, which /proc/PID/environ would show.
    os.environ["SPT_NOENV"] = "1"
    try:
        from setproctitle import setproctitle

        setproctitle(f"clockworker {role} [{app}]")
    except ModuleNotFoundError:
        pass
    finally:
        del os.environ["SPT_NOENV"]


class PidFile:
    """A file with the supervisor's pid, there while the block runs. One that was left behind is taken over; one of a server
    that runs is locked, which tells the two apart where pids do not, as after the restart of a container."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Raises `ConfigurationError`."""
        try:
            self._file = self._lock()
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            where = os.path.dirname(self._path)
            hint = f"make the directory {where!r}, or give" if isinstance(error, FileNotFoundError) else "give"
            raise ConfigurationError(
                f"--pid-file {self._path!r} cannot be written: {error.strerror}; {hint} another path"
            ) from error

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._file.close()

    def _lock(self) -> io.FileIO:
        with contextlib.ExitStack() as opened:
            while True:
                file = opened.enter_context(io.FileIO(self._path, "a+"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    pid = file.read(20).decode(errors="replace").strip()
                    raise ConfigurationError(
                        f"--pid-file {self._path!r} is that of a server that runs, pid {pid}; stop it, or give another path"
                    ) from None
                with contextlib.suppress(FileNotFoundError):  # its server removed it between the two
                    if os.path.samestat(os.stat(self._path), os.fstat(file.fileno())):
                        opened.pop_all()
                        return file
