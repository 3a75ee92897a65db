"""Finding the application: MODULE:ATTRIBUTE, which is `async def main(shard)`, or one of ASGI or WSGI, or makes one under
--factory.

The mistakes of a first attempt (no such module, no such attribute, the wrong kind of thing) raise `ApplicationError`
with one line that says what to do. An exception out of the application's own code keeps its traceback, which begins at
the application's first frame: how we came to import it helps nobody.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from clockworker import _errors
from clockworker._errors import ApplicationError
from clockworker.executor import Queue, QueueGroup
from clockworker.ipc.calls._annotations import layers
from clockworker.ipc.calls._remote import noted
from clockworker.ipc.calls._state import mistakes
from clockworker.shards.config._declaration import WANTED, Application
from clockworker.shards.config._http import Interface
from clockworker.shards.config._spelling import did_you_mean

# What the application's coroutine returns is its own business: nobody looks at it.
Main: TypeAlias = Application[..., Coroutine[Any, Any, object]]

_OURS = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (_errors, importlib))


def load_application(app: str, app_dir: str, *, factory: bool, interface: Interface = "auto") -> Main:
    """Import and check, what it has marked `@remote` too. Raises `ApplicationError`, or whatever the application raises while
    it is imported."""
    before = len(noted())
    target = import_attribute(app, app_dir, "an application of ASGI or WSGI, or `async def main(shard)`")
    if factory:
        if not callable(target):
            raise ApplicationError(
                f"{app} is of type {type(target).__name__}; --factory needs a function without arguments"
            )
        if not accepts(target, 0):
            raise ApplicationError(f"{app} needs arguments; --factory calls it without any")
        made = target()
        # What is declared of a factory is of what it makes.
        if isinstance(target, Application) and callable(made) and not isinstance(made, Application):
            made = Application(made, target.queues)
        target = made
    for mistake in [*noted(before), *mistakes()]:
        raise ApplicationError(mistake)
    if isinstance(target, Application):
        if target.served is not None:
            target.served.get_ready(app)
            return target
        found = _check(app, target.main, target.queues, interface, factory=factory)
        return target if found.main is target.main else found
    return _check(app, target, (), interface, factory=factory)


def import_attribute(spec: str, app_dir: str, wanted: str) -> object:
    """What MODULE:ATTRIBUTE names; the attribute may be dotted. `wanted` says what it should have been, if it is not
    there: that raises `ApplicationError`."""
    directory = os.path.abspath(app_dir)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module_name, _, path = spec.partition(":")
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the application's own import failed
        raise ApplicationError(
            f"there is no module {error.name!r} in {directory} or on sys.path; "
            "check the name, or say where it is with --app-dir"
        ) from None
    for attribute in path.split("."):
        try:
            target = getattr(target, attribute)
        except AttributeError:
            hint = did_you_mean(attribute, dir(target))
            raise ApplicationError(
                f"module {module_name!r} has no attribute {path!r}; {hint}it should have {wanted}"
            ) from None
    return target


def is_coroutine_function(target: Callable[..., object]) -> bool:
    """Also of an object by its `__call__`, and of a function by what it wraps."""
    called = () if inspect.isclass(target) else (type(target).__call__, getattr(target, "__call__", None))  # noqa: B004
    return any(map(inspect.iscoroutinefunction, (*layers(target), *called)))


def parameters(target: object) -> tuple[tuple[str, ...], int] | None:
    """The names of its parameters but `*` and keywords', and how many of them have no default; None: it does not say."""
    try:
        found = inspect.signature(target).parameters.values()  # type: ignore[arg-type]  # what is not callable raises
    except (TypeError, ValueError):
        return None
    positional = [each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return tuple(each.name for each in positional), sum(each.default is each.empty for each in positional)


def accepts(target: Callable[..., object], arguments: int) -> bool:
    """Whether it can be called with so many."""
    try:
        inspect.signature(target).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:
        pass  # a builtin without a signature: calling it will tell
    return True


def import_ahead() -> None:
    """What is imported by the check of an application, whatever that is."""
    from clockworker.http import _application  # noqa: F401


def _check(
    app: str, target: object, queues: tuple[Queue | QueueGroup, ...], interface: Interface, *, factory: bool
) -> Main:
    # Here, because it imports this package. What is ours and what is of ASGI or WSGI is known by the same look.
    from clockworker.http import _application as http

    subject = f"what {app} returned" if factory else app
    if not callable(target):
        raise ApplicationError(f"{subject} is not callable but of type {type(target).__name__}; {WANTED}")
    is_coroutine = is_coroutine_function(target)
    if interface != "auto":
        http.check_interface(target, interface, subject)
        return http.as_program(target, interface, subject, queues)
    if not (is_coroutine and accepts(target, 1)) and (spoken := http.interface_of(target)) is not None:
        return http.as_program(target, spoken, subject, queues)
    if not is_coroutine:
        hint = WANTED if factory or inspect.isclass(target) else f"{WANTED}; if {app} makes one, add --factory"
        if (found := parameters(target)) is not None and found[1] > 1:
            hint = f"{WANTED}; if it is one under other names, say --interface"
        raise ApplicationError(f"{subject} is not a coroutine function but {_kind(target)}; {hint}")
    if not accepts(target, 1):
        raise ApplicationError(f"{subject} must take one argument, the shard; {WANTED}")
    return Application(target, queues)


def _kind(target: object) -> str:
    if inspect.isclass(target):
        return "a class"
    return "a plain `def`" if inspect.isfunction(target) else f"of type {type(target).__name__}"


def format_traceback(error: BaseException) -> str:
    """The traceback from the application's first frame on."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _is_ours(filename: str) -> bool:
    return filename.startswith(("<frozen importlib", *_OURS))
