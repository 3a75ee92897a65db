"""What processes of ours need of their machine: enough open files, a pid file if one is wanted, a name to be seen by, and
an end together with whoever started them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import logging
import os
import re
import resource
import signal
import stat

from clockworker._errors import ConfigurationError

log = logging.getLogger("clockworker.supervisor")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


# Descriptors of the supervisor; tests count them. A shard costs it a pidfd, a channel, the dump, slots, pulse, two for each of
# witness and doorbell, its listening sockets, and two for each line of connections that are handed over. The supervisor's own
# are its loop's, the control socket, standard input and output, what `--metrics`, `--pid-file` and `--reload` need.
OF_SHARD = 9
OF_LINE = 2
OF_SUPERVISOR = 16
OF_SPARE = 2  # a pidfd and a channel
OF_FORK_SERVER = 2  # as well
OF_PEER = 2  # rings between a new process and each other: they wait while the kernel lets no descriptor on its way

# What comes and goes: pipes of a start, log files, a trace; a connection on its way to a shard.
PASSING = 16

# At least so many connections of tools, to --metrics and the control socket, are possible at once.
TOOLS = 8


def descriptors_needed(shards: int, addresses: int, lines: int = 0) -> int:
    """Of the supervisor, which has more of them than any shard (a shard has one for each peer). addresses: listening sockets
    of each shard. lines: on which connections are handed over to it. There may be one process more than shards, a successor; at
    the stop each address takes three more sockets."""
    of_shard = OF_SHARD + OF_PEER + OF_LINE * lines + addresses
    return OF_SUPERVISOR + PASSING + TOOLS + (shards + 1) * of_shard + 3 * addresses


def raise_descriptor_limit(shards: int, addresses: int, lines: int = 0) -> int:
    """Raise the soft limit on open files to the hard one. Returns how many there are for connections of tools. Raises
    `ConfigurationError` if there are too few for the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a sandbox forbids it
        hard = soft
    needed = descriptors_needed(shards, addresses, lines)
    if hard < needed:
        raise ConfigurationError(
            f"{shards} shards need {needed} open files, but the limit is {hard}; raise it (ulimit -n) or start fewer"
        )
    return TOOLS + hard - needed


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this process when its parent dies. False if the parent, of this pid, has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    return os.getppid() == parent


def adopt_orphans(adopt: bool) -> bool:
    """Whether processes below this one whose parent ends become its children (else those of init, or of another subreaper
    above it). Returns what has been so far. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    if libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_GET_CHILD_SUBREAPER)")
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    return bool(before.value)


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
    that runs is locked, which tells the two apart where pids do not, as after the restart of a container. A file that holds
    anything else is somebody's, and so is what a symbolic link leads to: neither is touched."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Raises `ConfigurationError`."""
        pid = f"{os.getpid()}\n".encode()
        try:
            self._file = self._lock()
            self._status = os.fstat(self._file.fileno())
            try:
                self._file.write(pid)
                self._file.truncate(len(pid))
            except OSError:  # the disk is full
                self._remove()
                raise
        except OSError as error:
            raise _pid_file_error(self._path, error) from error

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        remove_own(self._path, self._status)
        self._file.close()  # not before: until then no other file can be this one

    def _lock(self) -> io.FileIO:
        while True:
            with contextlib.ExitStack() as opened:
                file = opened.enter_context(io.FileIO(self._path, "r+", opener=_create))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pid = file.read(20).decode(errors="replace").strip()
                    raise ConfigurationError(
                        f"--pid-file {self._path!r} is that of a server that runs, pid {pid}; stop it, or give another path"
                    ) from None
                _check_left_behind(self._path, file)
                with contextlib.suppress(FileNotFoundError):  # its server removed it between the two
                    if os.path.samestat(os.lstat(self._path), os.fstat(file.fileno())):
                        file.seek(0)
                        opened.pop_all()
                        return file


def check_pid_file(path: str) -> None:
    """Whether `PidFile` could be there; that of a server that runs could. Raises `ConfigurationError`."""
    try:
        with io.FileIO(path, "r+", opener=_open) as file:
            _check_left_behind(path, file)
    except FileNotFoundError as error:
        where = os.path.dirname(path) or "."
        if not os.path.isdir(where):
            raise _pid_file_error(path, error) from error
        if not os.access(where, os.W_OK | os.X_OK):
            raise _pid_file_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES))) from error
    except OSError as error:
        raise _pid_file_error(path, error) from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO is not waited for


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)


def _check_left_behind(path: str, file: io.FileIO) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or not re.fullmatch(rb"\s*(\d{1,20}\s*)?", file.read(64)):
        raise ConfigurationError(f"--pid-file {path!r} is there and is no pid file; remove it, or give another path")


def _pid_file_error(path: str, error: OSError) -> ConfigurationError:
    where = os.path.dirname(path)
    if error.errno == errno.ELOOP:
        return ConfigurationError(
            f"--pid-file {path!r} is a symbolic link; give the path that it leads to, or another one"
        )
    hint = f"make the directory {where!r}, or give" if isinstance(error, FileNotFoundError) else "give"
    return ConfigurationError(f"--pid-file {path!r} cannot be written: {error.strerror}; {hint} another path")


def remove_own(path: str | os.PathLike[str], mine: os.stat_result) -> None:
    """Remove the file, unless someone else has put theirs in the place. The caller still holds it open: else a file that was
    made since may have the same number. That it cannot be removed is logged."""
    try:
        if os.path.samestat(os.lstat(path), mine):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)
