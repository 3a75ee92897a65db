"""`clockworker.serve`: the command as a function, for a program that is its own server.

    if __name__ == "__main__":
        clockworker.serve(main, shards=2)

The process that calls it becomes the supervisor. Shards are processes of their own, which import the application by its name,
and again by that when they are replaced: so an object needs a name, in a module that they find. What is defined in the script
itself they find under the script's own name, `app:main` in `app.py`: it is imported there as any module would be, which is why
the call has to stand under the guard. (As multiprocessing does when it spawns.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clockworker._errors import (
    AddressUnavailable,
    ApplicationError,
    ClockworkerError,
    ConfigurationError,
    UsageError,
)

if TYPE_CHECKING:
    from typing import Unpack

    from clockworker.shards.config._keywords import ServeOptions

_OF_SHARDS = "clockworker.shards.worker."
_BY_NAME = "shards are processes of their own and import it by its name: define it at the top of a module"


def serve(main: object, **options: Unpack[ServeOptions]) -> None:
    """Serve an application until the server is told to stop (SIGINT, SIGTERM), as `clockworker-serve` does; then return.

    main: `async def main(shard)`, or an application of ASGI or WSGI; or its name, "module:attribute". An object must have a
    name at the top of a module, that of the script included.
    options: those of the command by their names in `clockworker.toml`: `shards=2`, `bind="0.0.0.0:80"`,
    `queue=["foreground:8:las", "background:1"]`, `timeout_graceful_shutdown=10`. What is not given here comes from the
    environment (`CLOCKWORKER_SHARDS`) or from `clockworker.toml`. app_dir: the directory of the script unless it is given.

    The calling process becomes the supervisor: its signal handlers and umask are as before when this returns, its logging stays
    that of a server.

    Raises `ConfigurationError` for a wrong option, `AddressUnavailable` for an address that is taken, `ApplicationError` if the
    application cannot be started, `ClockworkerError` if its shards crash again and again (the log says why), and `UsageError`
    in another thread than the main one, where an event loop runs, and while a shard imports the application.
    """
    _check_place()
    # Here, because an application that never calls this need not import a supervisor.
    from clockworker.shards._cli import EXIT_OK, EXIT_START_UP, EXIT_USAGE, run
    from clockworker.shards.config._parse import parse_app
    from clockworker.shards.config._settings import settings_of
    from clockworker.shards.supervisor._preflight import with_origins

    given = dict(options)
    if isinstance(main, str):
        app = parse_app(main)
    else:
        app, directory = find_name(main)
        if directory is not None and given.get("app_dir") is None:
            given["app_dir"] = directory
    settings = settings_of(app, _directory_of_script(), given, os.environ)
    try:
        with _borrowed():
            status = run(settings, os.environ)
    except (ConfigurationError, AddressUnavailable) as error:
        raise type(error)(with_origins(str(error), settings.origins)) from None
    if status in (EXIT_USAGE, EXIT_START_UP):
        raise ApplicationError(f"{app} cannot be started; the server's log says why")
    if status != EXIT_OK:
        raise ClockworkerError(f"the server of {app} has given up; its log says why")


def find_name(main: object) -> tuple[str, str | None]:
    """MODULE:ATTRIBUTE of an object, and the directory where it is to be found if it is the script's. Raises
    `ConfigurationError`."""
    own = getattr(main, "__module__", None)
    for name in dict.fromkeys((own, "__main__", *sys.modules)):
        module = sys.modules.get(name) if isinstance(name, str) and name != "builtins" else None
        if module is not None and (attribute := _attribute_of(module, main)) is not None:
            if name != "__main__":
                return f"{name}:{attribute}", None
            found, directory = _importable(module)
            return f"{found}:{attribute}", directory
    raise ConfigurationError(
        f"serve() is given {_shown(main)}, which has no name; {_BY_NAME}, or give 'module:attribute'"
    )


def _attribute_of(module: ModuleType, main: object) -> str | None:
    """Where it is in the module, which may be one in name only, and load others when it is asked for what it has not."""
    names = dict(getattr(module, "__dict__", {}))
    for name, value in names.items():
        if value is main:
            return str(name)
    path = str(getattr(main, "__qualname__", ""))  # of what a class has
    first, *rest = path.split(".")
    value = names.get(first)
    for part in rest:
        value = getattr(value, part, None)
    return path if rest and value is main else None


def _importable(main: ModuleType) -> tuple[str, str | None]:
    """The name by which others import the main module, and from which directory; None: as we would."""
    if main.__spec__ is not None:  # python -m
        return str(main.__spec__.name), None
    file = getattr(main, "__file__", None)
    if file is None or not os.path.exists(file):
        raise ConfigurationError(f"serve() is given what no file defines; {_BY_NAME} in a file")
    path = Path(os.path.abspath(file))
    if path.suffix != ".py" or not path.stem or set(path.stem) & set(". :"):
        raise ConfigurationError(
            f"{path} cannot be imported under that name, as each shard does; call it {path.stem.split('.')[0] or 'app'}.py, "
            "or define the application in another module"
        )
    return path.stem, str(path.parent)


def _directory_of_script() -> str:
    """Where Python looks for modules first: beside the script, or else in the working directory."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None:
        return "."
    return os.path.dirname(os.path.abspath(str(file)))


def _shown(main: object) -> str:
    path = getattr(main, "__qualname__", None)
    return str(path) if isinstance(path, str) else f"an object of type {type(main).__name__}"


def _check_place() -> None:
    """Raises `UsageError` where there can be no supervisor."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith(_OF_SHARDS):
        raise UsageError(
            'serve() was called while a shard imports the application; put the call under `if __name__ == "__main__":`'
        )
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            f"serve() was called in thread {threading.current_thread().name!r}; signals come to the main thread alone: "
            "call it there, or start clockworker-serve as a process"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "serve() was called where an event loop runs, and has one of its own; call it outside of any, from a script"
    )


@contextlib.contextmanager
def _borrowed() -> Iterator[None]:
    """What a supervisor makes its own of a process is as before afterwards."""
    handlers = {
        number: handler for number in signal.valid_signals() if (handler := signal.getsignal(number)) is not None
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        yield
    finally:
        os.umask(umask)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
