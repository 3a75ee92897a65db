"""Finding the application: MODULE:ATTRIBUTE, which must be `async def main(shard)`, or makes one under --factory.

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
from clockworker.ipc.calls._annotations import layers
from clockworker.ipc.calls._remote import noted
from clockworker.shards.config._declaration import WANTED, Application
from clockworker.shards.config._spelling import did_you_mean

# What the application's coroutine returns is its own business: nobody looks at it.
Main: TypeAlias = Application[..., Coroutine[Any, Any, object]]

_OURS = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (_errors, importlib))


def load_application(app: str, app_dir: str, *, factory: bool) -> Main:
    """Import and check, what it has marked `@remote` too. Raises `ApplicationError`, or whatever the application raises while
    it is imported."""
    before = len(noted())
    target = import_attribute(app, app_dir, "`async def main(shard)`")
    if factory:
        if not callable(target):
            raise ApplicationError(
                f"{app} is of type {type(target).__name__}; --factory needs a function without arguments"
            )
        if not _accepts(target, 0):
            raise ApplicationError(f"{app} needs arguments; --factory calls it without any")
        made = target()
        # What is declared of a factory is of what it makes.
        if isinstance(target, Application) and callable(made) and not isinstance(made, Application):
            made = Application(made, target.queues)
        target = made
    for mistake in noted(before):
        raise ApplicationError(mistake)
    if isinstance(target, Application):
        _check(app, target.main, factory=factory)
        return target
    return Application(_check(app, target, factory=factory))


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


def _check(app: str, target: object, *, factory: bool) -> Callable[..., Coroutine[Any, Any, object]]:
    subject = f"what {app} returned" if factory else app
    if not callable(target):
        raise ApplicationError(f"{subject} is not callable but of type {type(target).__name__}; {WANTED}")
    if (kind := _other_interface(target)) is not None:
        raise ApplicationError(
            f"{subject} is {kind} application; here {WANTED}, which serves the connections itself: "
            "see shard.start_server and shard.create_server"
        )
    if not any(map(inspect.iscoroutinefunction, (*layers(target), type(target).__call__))):
        hint = WANTED if factory or inspect.isclass(target) else f"{WANTED}; if {app} makes one, add --factory"
        raise ApplicationError(f"{subject} is not a coroutine function but {_kind(target)}; {hint}")
    if not _accepts(target, 1):
        raise ApplicationError(f"{subject} must take one argument, the shard; {WANTED}")
    return target


def _kind(target: object) -> str:
    if inspect.isclass(target):
        return "a class"
    return "a plain `def`" if inspect.isfunction(target) else f"of type {type(target).__name__}"


def _other_interface(target: Callable[..., object]) -> str | None:
    """Whoever comes from other servers may bring an application of theirs, which its parameters give away."""
    try:
        parameters = tuple(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return None
    match parameters:
        case ("scope", "receive", "send"):
            return "an ASGI"
        case ("environ", "start_response"):
            return "a WSGI"
    return None


def _accepts(target: Callable[..., object], arguments: int) -> bool:
    try:
        inspect.signature(target).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:
        pass  # a builtin without a signature: calling it will tell
    return True


def format_traceback(error: BaseException) -> str:
    """The traceback from the application's first frame on."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _is_ours(filename: str) -> bool:
    return filename.startswith(("<frozen importlib", *_OURS))
