"""What a shard does before it has a loop: import the application, make its queues, and see whether what the options, the file
and the application name is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ssl import SSLContext

import msgspec

from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.executor import Executor
from clockworker.shards.config._application import Main, load_application
from clockworker.shards.config._config import QueueConfig
from clockworker.shards.config._routes import beyond, lacking_for_application, lacking_for_options
from clockworker.shards.machine._certificates import context_of
from clockworker.shards.protocol._messages import Configure
from clockworker.shards.worker._shard_queues import make_queues, preemptive_of, queues_of


class WrongOptions(ConfigurationError):
    """What the operator has said cannot be, whatever the application."""


class Loaded(msgspec.Struct, frozen=True):
    """queues: as the executor has them, and in its order. ssl: None: no TLS is asked for."""

    application: Main
    executor: Executor
    queues: tuple[QueueConfig, ...]
    ssl: SSLContext | None


class Loading:
    """what: is to be said of whatever the application raises meanwhile. held: descriptors of ours, which libraries that make
    daemons close without asking whose they are."""

    def __init__(self, configure: Configure, held: Sequence[int] = ()) -> None:
        self._held = {descriptor: _what_is(descriptor) for descriptor in held}
        self._configure = configure
        self._config = configure.config
        self.what = f"{self._config.app} cannot be imported"

    def load(self) -> Loaded:
        """Raises `ApplicationError`, `ConfigurationError`, or what the application raises."""
        config = self._config
        application = load_application(
            config.app, config.app_dir, factory=config.factory, interface=config.http.interface
        )
        if any(_what_is(descriptor) != found for descriptor, found in self._held.items()):
            raise ApplicationError(
                f"{config.app} has closed descriptors of its shard's while it was imported; close none that you have not "
                "opened (os.closerange, daemon libraries)"
            )
        ssl = context_of(config)
        self.what = "a queue's scheduler cannot be imported"
        queues = queues_of(config, self._configure.shard, application.queues)
        executor = Executor(
            make_queues(queues, application.queues, config.app_dir, config.queue_groups), on_panic="catch"
        )
        # Groups stand together in the executor, and all that is told of queues goes in its order.
        names = [str(queue.key) for queue in executor.queues()]
        self._check_names(application, names, preemptive_of(queues))
        return Loaded(application, executor, tuple(sorted(queues, key=lambda queue: names.index(queue.name))), ssl)

    def _check_names(self, application: Main, queues: list[str], preemptive: list[str]) -> None:
        """Of queues and shards."""
        shard = self._configure.shard
        if (mistake := lacking_for_options(self._config.http, queues, shard, preemptive)) is not None:
            raise WrongOptions(mistake)
        self.what = "the application's table of routes cannot be read"
        routes = application.served.find_routes() if application.served is not None else ()
        mistake = beyond(routes, self._configure.count) or lacking_for_application(routes, queues, shard, preemptive)
        if mistake is not None:
            raise ApplicationError(mistake)


def _what_is(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
