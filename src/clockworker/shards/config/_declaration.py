"""What an application says of itself: `application`, and the queues that it needs.

A declaration is data beside `main`, and `main` knows nothing of it: who finds the application (`_application`) finds both. What
operators say of queues is put over it in each shard (`_queues.merge`), after the application was imported there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.executor import Queue, QueueGroup
from clockworker.executor._queue import check_queues, queues_in
from clockworker.shards.config._http import Route

P = ParamSpec("P")
R = TypeVar("R")

# As many queues as an executor may have, with such names, fit into the message that tells the supervisor of them.
MAX_NAME_BYTES = 60

WANTED = "an application is `async def main(shard)`, or one of ASGI or WSGI"


class Served(Protocol):
    """An HTTP application, as whoever starts its program needs to know it."""

    def get_ready(self, subject: str) -> None:
        """Import what serving needs. subject: the name of the program. Raises `ApplicationError` if that is not installed."""

    def find_routes(self) -> Sequence[Route]:
        """Its routes as they are now, when all is imported. A shard must have the queues that they name."""


class Application(Generic[P, R]):
    """`main`, and the queues that it needs. To be called like `main`.

    served: what HTTP application it serves, if it does that and nothing else.
    """

    def __init__(
        self,
        main: Callable[P, R],
        queues: tuple[Queue | QueueGroup, ...] = (),
        served: Served | None = None,
    ) -> None:
        functools.update_wrapper(self, main, updated=())
        self.main = main
        self.queues = queues
        self.served = served

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.main(*args, **kwargs)

    def __repr__(self) -> str:
        return f"cw.application({self.main!r}, queues={list(self.queues)!r})"


@overload
def application(main: Callable[P, R], /, *, queues: Iterable[Queue | QueueGroup] = ()) -> Application[P, R]: ...


@overload
def application(*, queues: Iterable[Queue | QueueGroup] = ()) -> Callable[[Callable[P, R]], Application[P, R]]: ...


def application(main: Any = None, /, *, queues: Iterable[Queue | QueueGroup] = ()) -> Any:
    """Say what `async def main(shard)` needs of its server.

        @cw.application(queues=[cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background")])
        async def main(shard: cw.Shard) -> None: ...

    or `server = cw.application(main, queues=[...])`, which leaves `main` as it is. The result is called like `main`.

    queues: those that the application names, each with a text as its key. The first is where `main` runs, and all that is put
    into no other. Every shard's process imports the application, and so has queues and schedulers of its own. What the
    operator says of a queue of that name (`--queue`, `--shard-queue`, the environment, the file) goes before what is said here;
    queues with other names are added.

    Raises `ApplicationError` if `main` cannot be called, and `ConfigurationError` for two queues of one name or with one
    scheduler between them, for more than 1,024, and for names of more than 60 bytes.
    """
    declared = check_declared(queues, "application")

    def declare(main: Callable[P, R]) -> Application[P, R]:
        if not callable(main):
            raise ApplicationError(f"application() is given {main!r}, which is not callable; {WANTED}")
        if isinstance(main, Application):
            return Application(main.main, declared, main.served)
        return Application(main, declared)

    return declare if main is None else declare(main)


def check_declared(queues: Iterable[Queue | QueueGroup], function: str) -> tuple[Queue | QueueGroup, ...]:
    """Queues that an application can declare. function: that they were given to. Raises `ConfigurationError`."""
    if isinstance(queues, str | bytes | Queue | QueueGroup) or not isinstance(queues, Iterable):
        raise ConfigurationError(f"{function}(queues=...) is {queues!r}; give a list, such as [cw.Queue('foreground')]")
    declared = tuple(queues)
    if declared:
        check_queues(declared)
    for group in groups_in(declared):
        if not isinstance(group.key, str):
            raise ConfigurationError(
                f"group of queues {group.key!r} is called by no text; give one, such as cw.QueueGroup('tenants', ...)"
            )
        check_group_name(group.key)
    for queue in queues_in(declared):
        if not isinstance(queue.key, str):
            raise ConfigurationError(
                f"queue {queue.key!r} is called by no text; give one, such as cw.Queue('foreground')"
            )
        check_name(queue.key)
    return declared


def groups_in(declared: Iterable[Queue | QueueGroup]) -> Iterator[QueueGroup]:
    """All groups of queues, outer ones before those in them."""
    for each in declared:
        if isinstance(each, QueueGroup):
            yield each
            yield from groups_in(each.queues)


def check_name(name: str) -> str:
    """Returns `name` if a queue can be called that. Raises `ConfigurationError`."""
    if not name:
        raise ConfigurationError('a queue has no name; give one, for example "foreground"')
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"the name {name!r} of a queue is no UTF-8 text; give one that is") from None
    if size > MAX_NAME_BYTES:
        raise ConfigurationError(
            f"the name of queue '{name[:20]}...' has {size} bytes; give one of at most {MAX_NAME_BYTES}"
        )
    return name


def check_group_name(name: str) -> str:
    """Returns `name` if a group of queues can be called that. Raises `ConfigurationError`."""
    check_name(name)
    if "/" in name or ":" in name:
        raise ConfigurationError(
            f"the name {name!r} of a group of queues has a / or a : in it; give one without, and a group around it by "
            "--queue-group OUTER/NAME:SHARE"
        )
    return name
