"""What the shards of a mesh know of each other's methods: each tells all its peers what it has, and compares (`_schema`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker.ipc.calls._definitions import FUNCTION
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._method import FittedMethod, RemoteMethod
from clockworker.ipc.calls._remote import can_suspend
from clockworker.ipc.calls._request_cy import Target
from clockworker.ipc.calls._schema import ServiceSchema
from clockworker.ipc.calls._understanding import differences
from clockworker.ipc.rings._ring_cy import PoisonedRing

logger = logging.getLogger("clockworker.ipc")

_MOST_SCHEMAS = 10_000  # services and functions that a peer may tell of

_schema_decoder = msgspec.msgpack.Decoder(ServiceSchema)


def target_for(
    home: Home, method: RemoteMethod, function: Callable[..., Any], fitted: FittedMethod | None = None
) -> Target:
    """What a peer's calls of the method run. fitted: the method for a peer of another version. KeyError if the executor lacks
    the method's queue."""
    queue = home.queue_for(method)
    own = method.on(function)
    return Target(
        method if fitted is None else fitted,
        own if fitted is None else fitted.on(own),
        None if queue is None else queue._membership,
        None if can_suspend(function) else home.shared.core.carrier(method.name),
    )


class Versions:
    """Of the services that are started here and the functions that are called, as this shard and its peers have them."""

    def __init__(self, home: Home, links: list[Link]) -> None:
        self._home = home
        self._links = links
        self.schemas: dict[str, ServiceSchema] = {}  # what the peers are told
        self._services: dict[str, dict[str, tuple[RemoteMethod, Callable[..., Any]]]] = {}  # their methods, bound

    def know_service(self, schema: ServiceSchema, methods: dict[str, RemoteMethod], instance: object) -> None:
        """It is started."""
        self._services[schema.service] = {name: (method, getattr(instance, name)) for name, method in methods.items()}
        self.publish(schema)

    def lead_to(self, service: str, instance: object) -> None:
        """From now on the calls of peers whose version is found to differ run this one's methods."""
        self._services[service] = {
            name: (method, getattr(instance, name)) for name, (method, _) in self._services[service].items()
        }

    def tell_all(self, link: Link) -> None:
        """A peer has come up."""
        for schema in self.schemas.values():
            self.tell(link, schema)

    def know_function(self, method: RemoteMethod, function: Callable[..., Any]) -> None:
        """It is called, from here or by a peer, which may have told of it long before."""
        if method.name not in self._services:
            self._services[method.name] = {FUNCTION: (method, function)}
            for link in self._links:
                self._compare(link, method.name)

    def publish(self, schema: ServiceSchema) -> None:
        """Tell all peers, those that are here and those that will come."""
        if schema.service not in self.schemas:
            self.schemas[schema.service] = schema
            for link in self._links:
                if link.schemas.get(schema.service) == schema:
                    link.schemas[schema.service] = schema
                self._compare(link, schema.service)
                self.tell(link, schema)

    def tell(self, link: Link, schema: ServiceSchema) -> None:
        body = self._home.shared.encode(schema)
        if len(body) > self._home.shared.max_message:
            body = self._home.shared.encode(schema.without_descriptions())
        link.connection.send(Kind.SCHEMA, 0, 0, 0, body)

    def take(self, link: Link, body: bytes) -> None:
        """The peer's word of what a service of its own looks like. Raises `PoisonedRing` if it cannot be read."""
        try:
            schema = _schema_decoder.decode(body)
        except Exception as error:
            raise PoisonedRing(f"a schema that cannot be read: {error}") from None
        if len(link.schemas) >= _MOST_SCHEMAS:
            raise PoisonedRing(f"schemas of more than {_MOST_SCHEMAS} services")
        ours = self.schemas.get(schema.service)
        # Mostly it is the same, and need not be kept once for each peer.
        link.schemas[schema.service] = ours if schema == ours else schema
        self._compare(link, schema.service)

    def _compare(self, link: Link, service: str) -> None:
        theirs, methods = link.schemas.get(service), self._services.get(service)
        if theirs is None or methods is None:
            return
        ours = ServiceSchema(service, {name: method.schema for name, (method, _) in methods.items()})
        if ours == theirs:
            return
        found = differences(ours, theirs, link.where())
        link.mismatches = link.mismatches | found.outgoing
        link.variants = link.variants | found.incoming
        for name, version in found.fitted.items():
            method, function = methods[name]
            link.variants[method.identifier] = target_for(
                self._home, method, function, method.fitted_to(version, link.peer)
            )
        for identifier in sorted(found.outgoing | found.incoming):
            text = found.outgoing.get(identifier) or found.incoming[identifier]
            logger.error("shard %d and %s run different versions of %s", self._home.shard_id, link.where(), text)
