"""A supervisor whose calls into the system fail, each once, for the tests.

    python failing.py DIRECTORY ARGUMENT...          clockworker-serve with these arguments
    python failing.py --starts DIRECTORY ARGUMENT... once for each call that such a start makes; prints how each has ended

The calls are found while it runs, and not listed here, so that a new one is covered. What Python code calls in C is shown by a
profile function, and what is made of a class in C (sockets, mappings, files) by an audit hook; an exception that either raises
is one of the call's. The name of a call has the innermost function of ours, or of asyncio's, that leads to it, and what is
called: `_process.py:ShardProcess.__init__:socketpair`. In the directory

    plan       has the names of those to fail
    armed      is there from when on they fail
    reached    gets each name when its call is first made, and once more when it is first made after that
    failed     gets those that were made to fail

Shards are processes of their own, in which nothing fails.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import selectors
import sys
import traceback
from pathlib import Path
from types import FrameType

import clockworker
from clockworker import ipc
from clockworker.shards import _cli

_MODULES = {"posix", "_socket", "select", "fcntl", "_signal", "resource", "_posixsubprocess", "mmap"}
_TYPES = {"socket", "epoll", "poll", "mmap", "FileIO"}

ARMED = "-- armed"

# These ask the kernel for nothing, or for what it cannot refuse (a close frees the descriptor whatever it returns; a wait
# only says that there is nobody to wait for).
_SAFE = {
    "close", "closerange", "detach", "fileno", "getpid", "getppid", "geteuid", "getuid", "fspath", "fsencode", "fsdecode",
    "urandom", "_path_normpath", "waitpid", "waitid", "poll", "unregister", "setblocking", "settimeout", "gettimeout",
    "getsignal", "valid_signals", "set_wakeup_fd", "siginterrupt", "default_int_handler", "pthread_sigmask", "signal",
    "umask", "getcwd", "sched_getaffinity", "cpu_count", "getrlimit", "getrusage", "get_terminal_size", "isatty",
    "inet_ntop", "inet_pton", "htons", "ntohs", "if_nametoindex", "CMSG_LEN", "CMSG_SPACE", "getdefaulttimeout",
    "WIFSTOPPED", "WSTOPSIG", "waitstatus_to_exitcode", "get_inheritable", "set_inheritable", "strerror", "sched_yield",
    "register_at_fork", "strsignal", "putenv", "unsetenv", "__enter__", "__exit__", "__new__", "fstat",
}  # fmt: skip

_ERRORS = {
    "accept": errno.EMFILE, "_accept": errno.EMFILE, "fork_exec": errno.EAGAIN, "unlink": errno.EROFS, "remove": errno.EROFS,
    "send": errno.ENOBUFS, "sendmsg": errno.ENOBUFS, "sendto": errno.ENOBUFS, "register": errno.ENOSPC,
    "modify": errno.ENOMEM, "setsockopt": errno.EPERM, "pidfd_send_signal": errno.EPERM, "kill": errno.EPERM,
    "stat": errno.EACCES, "lstat": errno.EACCES, "read": errno.EIO, "write": errno.EIO, "pread": errno.EIO,
    "pwritev": errno.EIO, "recv": errno.ENOMEM, "recvmsg": errno.ENOMEM, "recv_into": errno.ENOMEM, "mmap": errno.ENOMEM,
    "getsockname": errno.ENOBUFS, "getsockopt": errno.ENOBUFS, "shutdown": errno.ENOTCONN, "sched_setaffinity": errno.EINVAL,
}  # fmt: skip

# A call counts as one of the innermost function here that leads to it, through whatever library.
_PLACES = tuple(
    os.path.dirname(str(module.__file__)) + os.sep for module in (clockworker, asyncio) if module.__file__ is not None
)


class Failures:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._plan = set((directory / "plan").read_text().splitlines()) if (directory / "plan").exists() else set()
        self._armed = (directory / "armed").exists()
        self._reached: set[str] = set()
        self._failed: set[str] = set()
        self._busy = False

    def install(self) -> None:
        sys.addaudithook(self._audit)
        sys.setprofile(self._profile)
        for name in ("create_ring", "create_doorbell"):  # compiled: what they call is not seen
            self._wrap(ipc, name)
        select = selectors.EpollSelector.select

        def look_and_select(selector: selectors.EpollSelector, timeout: float | None = None) -> object:
            if not self._armed:
                sys.setprofile(None)
                if os.path.exists(self._directory / "armed"):
                    self._armed = True
                    self._reached.clear()
                    self._note("reached", ARMED)
            sys.setprofile(self._profile)  # a profile function that raises is dropped
            return select(selector, timeout)

        selectors.EpollSelector.select = look_and_select  # type: ignore[method-assign, assignment]

    def _wrap(self, module: object, name: str) -> None:
        function = getattr(module, name)

        def wrapped(*arguments: object) -> object:
            self._at(sys._getframe(1), name)
            return function(*arguments)

        setattr(module, name, wrapped)

    def _profile(self, frame: FrameType, event: str, function: object) -> None:
        if event != "c_call":
            return
        module = getattr(function, "__module__", None)
        name = getattr(function, "__name__", "")
        if name in _SAFE:
            return
        if module in _MODULES or (module is None and type(getattr(function, "__self__", None)).__name__ in _TYPES):
            self._at(frame, name)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("socket.__new__", "mmap.__new__", "open") and sys.getprofile() is not None:
            caller = sys._getframe(1)
            if event != "socket.__new__" or caller.f_locals.get("fileno") is None:  # else it is there already
                self._at(caller, event.removesuffix(".__new__"))

    def _at(self, frame: FrameType | None, name: str) -> None:
        if self._busy or frame is None:
            return
        while frame is not None and not frame.f_code.co_filename.startswith(_PLACES):
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return  # of an import, which is the interpreter's
            frame = frame.f_back
        if frame is None or os.path.basename(frame.f_code.co_filename) == "runners.py":
            return
        site = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_qualname}:{name}"
        if site not in self._reached:
            self._reached.add(site)
            self._note("reached", site)
        if self._armed and site in self._plan and site not in self._failed:
            self._failed.add(site)
            self._note("failed", site)
            number = _ERRORS.get(name, errno.EMFILE)
            raise OSError(number, os.strerror(number))

    def _note(self, file: str, site: str) -> None:
        self._busy = True
        try:
            with (self._directory / file).open("a") as opened:
                opened.write(site + "\n")
        finally:
            self._busy = False


def start_each(directory: Path, arguments: list[str]) -> None:
    """Every start in a fork of its own, since importing everything takes longest."""
    (directory / "armed").touch()
    start(directory, arguments, None)
    for site in dict.fromkeys((directory / "reached").read_text().splitlines()):
        status, log = start(directory, arguments, site)
        print(json.dumps([site, status, log]), flush=True)


def start(directory: Path, arguments: list[str], site: str | None) -> tuple[int, str]:
    """Exit status and log of a start in which this call fails."""
    (directory / "plan").write_text(f"{site}\n" if site else "")
    log = directory / "log"
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        Failures(directory).install()
        try:
            _cli.main(arguments)
        except SystemExit as error:
            sys.setprofile(None)
            os._exit(int(str(error.code)))
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


if __name__ == "__main__":
    if sys.argv[1] == "--starts":
        start_each(Path(sys.argv[2]), sys.argv[3:])
    else:
        Failures(Path(sys.argv[1])).install()
        _cli.main(sys.argv[2:])
