"""Where control sockets are, and the removal of those that killed supervisors have left."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from clockworker._errors import AddressUnavailable, ConfigurationError
from clockworker.shards.config._config import UnixAddress
from clockworker.shards.machine._sockets import explain

_BACKLOG = 16
_BINDING_S = 10.0  # a machine that is busy may stand still between bind and listen


def default_directory(environment: Mapping[str, str]) -> Path:
    """Of this user's control sockets."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "clockworker" if runtime else Path(f"/tmp/clockworker-{os.geteuid()}")


def default_path(environment: Mapping[str, str]) -> Path:
    """Of this supervisor's socket. Makes the directory. Raises `ConfigurationError` if it is not ours alone."""
    directory = default_directory(environment)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be made: {error.strerror}; give another place by --control"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"{directory} must be a directory of this user, of mode 0700; or give --control PATH")
    sweep(directory)
    return directory / f"{os.getpid()}.sock"


def bind(path: Path) -> socket.socket:
    """A listening socket there, of mode 0600. One that nobody listens at any more is replaced. Raises
    `AddressUnavailable`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # from the first moment on
    try:
        if not remove_stale(path) and not path.is_socket():
            raise AddressUnavailable(
                f"--control: {path} is there and is no socket; remove it, or choose another with --control"
            )
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressUnavailable(f"--control: {explain(UnixAddress(str(path)), error, '--control')}") from error
    except AddressUnavailable:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def remove_stale(path: Path) -> bool:
    """Remove a socket that a killed supervisor has left. True if there is none any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # whoever stands still takes no connection, and is not to be waited for
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                return False
            probe.connect(str(path))
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                return False
            path.unlink(missing_ok=True)
            return True
    return False


def sweep(directory: Path) -> list[Path]:
    """Remove what killed supervisors have left there, and return what is of living ones. One that is just being bound has
    nobody who listens either: what is younger than that may last is left to a process of its number. An older one is stale
    whatever process has that number now; 1 is there always, and was a container's."""
    found = sorted(path for path in directory.glob("*.sock") if path.stem.isdecimal())
    return [path for path in found if _may_be_bound_now(path) or not remove_stale(path)]


def _may_be_bound_now(path: Path) -> bool:
    try:
        age_s = time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return False
    return age_s < _BINDING_S and Path(f"/proc/{path.stem}").exists()
