"""What a shard serves: the services that are started on it, and the functions of its modules. A call of a service that is not
started yet waits for that, but not for ever."""

from __future__ import annotations

import contextvars

from clockworker._errors import ConfigurationError, SchemaMismatch, UsageError
from clockworker.ipc._traffic_cy import Parked, Traffic
from clockworker.ipc._versions import Versions, target_for
from clockworker.ipc.calls._definitions import FUNCTION, function_of, remote_methods, service_schema
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._request_cy import Target


class Serving:
    """Of one mesh, whose `traffic` asks it for what it does not know.

    start_grace_s: for how long after `ready` a call of a service that is not started here may wait for that.
    """

    def __init__(self, home: Home, traffic: Traffic, versions: Versions, start_grace_s: float) -> None:
        self._home = home
        self._traffic = traffic
        self._versions = versions
        self._start_grace_s = start_grace_s
        self._is_ready = False
        self.started: list[str] = []

    def start(self, service: type, instance: object) -> dict[str, RemoteMethod]:
        """Serve the instance, and the calls that came before. Returns its methods, by attribute."""
        methods = remote_methods(service)
        targets: dict[int, Target] = {}
        for method in methods.values():
            known = self._traffic.targets.get(method.identifier)
            if known is not None:
                if known.method.name == method.name:
                    raise UsageError(f"{service.__name__} has been started on shard {self._home.shard_id} already")
                raise ConfigurationError(
                    f"{method.name} and {known.method.name} have the same checksum; rename one of them"
                )
            # A queue that the executor lacks is an error here, rather than in a call.
            targets[method.identifier] = target_for(self._home, method, getattr(instance, method.attribute))
        self._traffic.targets.update(targets)
        schema = service_schema(service, methods)
        self._versions.know_service(schema, methods, instance)
        self.started.append(schema.service)
        parked, self._traffic.parked = self._traffic.parked, []
        for link, kind, queue, identifier, number, body in parked:
            if link.connection.connected:
                # As when they come, what is started inherits nothing.
                contextvars.Context().run(
                    self._traffic.accept, link, kind, queue & 0xFFFFFFFF, identifier, number, body
                )
        return methods

    def ready(self) -> None:
        """All services should have been started by now."""
        if not self._is_ready:
            self._is_ready = True
            for request in self._traffic.parked:
                self._wait_for_start(request)

    def unknown(self, link: Link, kind: int, queue: int, identifier: int, number: int, body: bytes) -> Target | None:
        """A function, or a method of a service that the peer has started and we have not yet."""
        found = function_of(identifier)
        if found is not None:
            method, function = found
            try:
                target = self._traffic.targets[identifier] = target_for(self._home, method, function)
            except KeyError as error:
                # Not the function's own: this shard cannot run it.
                self._refuse(link, kind, queue, number, f"on shard {self._home.shard_id}: {error}")
                return None
            self._versions.know_function(method, function)
            return target
        if identifier in link.variants:
            self._refuse(link, kind, queue, number, link.variants[identifier])
        elif self._service_of(link, identifier) is not None:
            # The caller's credit bounds how many wait.
            request = (link, kind, queue, identifier, number, body)
            self._traffic.parked.append(request)
            if self._is_ready:
                self._wait_for_start(request)
        else:
            problem = (
                f"shard {self._home.shard_id} does not know the function that shard {link.peer} calls: it runs another "
                "version of the code, or has not imported the module that defines it"
            )
            self._refuse(link, kind, queue, number, problem)
        return None

    def _refuse(self, link: Link, kind: int, queue: int, number: int, problem: str) -> None:
        self._traffic.refuse(link, kind, queue, number, SchemaMismatch(problem))

    def _service_of(self, link: Link, identifier: int) -> str | None:
        """The peer's service that has the method."""
        for name, schema in link.schemas.items():
            if FUNCTION not in schema.methods and any(
                each.identifier == identifier for each in schema.methods.values()
            ):
                return name
        return None

    def _wait_for_start(self, request: Parked) -> None:
        self._home.shared.loop.call_later(self._start_grace_s, self._refuse_parked, request)

    def _refuse_parked(self, request: Parked) -> None:
        """A request has waited long enough for its service to be started."""
        if not any(each is request for each in self._traffic.parked):
            return  # it was, or its caller has left
        self._traffic.parked = [each for each in self._traffic.parked if each is not request]
        link, kind, queue, identifier, number, _ = request
        started = ", ".join(sorted(self._versions.schemas)) or "none"
        problem = (
            f"shard {self._home.shard_id} has not started the service {self._service_of(link, identifier)}, and has been "
            f"ready for {self._start_grace_s:g} s; it has started {started}. Start it on every shard, before ready()"
        )
        self._refuse(link, kind, queue, number, problem)
