"""State that moves when a shard is replaced: what of it is the shard's side towards its callers.

Seen from the shard that is replaced. When it is told to its own calls of the services whose state moves wait at the gate
(`_gate`), and those of peers wait there, in the order in which they were made (`Mesh.suspend`). When what was running has
ended the state is whole: each call that was answered has done what it did, and no other has begun. That moment is
`try_to_shut`; from there on nothing runs on the instances but `hand_over`, and the state is read. Then it has moved, and
whatever still comes here goes on to the successor: calls of connections that are open here, and of peers that work for this
shard. Or the successor could not take it; then the gate opens, and it is as if nothing had been.

Calls of other services are not waited for, and neither are streams: what they call then waits at the gate as well.

What is looked at are calls: who reaches into an instance by itself, `service.local`, looks at `Sharded.is_here` before.

Rejected: draining first, and handing over then. A download or a WebSocket may last for hours, and there is no way back for a
`main` that was told to stop. Also to hand over while calls go on, and to send what they change afterwards: each service would
have to know what has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from clockworker.ipc._versions import Versions
from clockworker.ipc.calls._definitions import function_schema, remote_function
from clockworker.ipc.calls._gate import CLOSING, MOVED, SHUT, AnyCall, Gate, Gated
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._places import There
from clockworker.ipc.calls._request_cy import Target
from clockworker.ipc.calls._state import StateMethods

if TYPE_CHECKING:
    import asyncio


class Kept(msgspec.Struct, frozen=True):
    """A service whose state moves."""

    instance: Any
    state: StateMethods
    methods: dict[str, RemoteMethod]
    gated: Gated


class Keeping:
    """Of one mesh. links: all of them. twin: the link to the other incarnation of this shard, connected while there are two.
    has_news: whether peers have sent what is not taken in."""

    def __init__(
        self,
        targets: dict[int, Target],
        versions: Versions,
        links: list[Link],
        twin: Link,
        loop: asyncio.AbstractEventLoop,
        has_news: Callable[[], bool],
    ) -> None:
        self.gate = Gate(loop)
        self.kept: dict[str, Kept] = {}
        self._targets = targets
        self._versions = versions
        self._links = links
        self._has_news = has_news
        self._twin = There(twin)
        self._led: list[tuple[Target, AnyCall, asyncio.Task[Any] | None]] = []  # and whereto they led before

    def keep(self, instance: object, state: StateMethods, methods: dict[str, RemoteMethod]) -> Gated:
        """It is started. Returns what the shard's own calls of it go to."""
        gated = Gated(self.gate, instance, methods, self._of_twin)
        self.kept[state.service] = Kept(instance, state, methods, gated)
        return gated

    def call_twin(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What calls a module's function in the other incarnation of this shard."""
        method = remote_function(function)
        self._versions.know_function(method, function)
        self._versions.publish(function_schema(method))
        return self._twin.caller(method, None, 0, False)

    def is_here(self) -> bool:
        return self.gate.state < SHUT

    def running(self) -> list[str]:
        """The methods that are, on instances whose state moves."""
        for_peers = [
            f"{method.name} (for other shards)"
            for kept in self.kept.values()
            for method in kept.methods.values()
            if not method.streams and any(target.running for target in self._targets_of(method))
        ]
        return [*self.gate.running, *for_peers]

    def is_quiet(self) -> bool:
        return not self._has_news() and not self.running()

    def try_to_shut(self) -> bool:
        """False if something is still running."""
        if self.gate.state != CLOSING or not self.is_quiet():
            return False
        self.gate.shut()
        self._lead_through_gate()
        return True

    def open(self) -> None:
        """The state stays here."""
        if self.gate.state != MOVED:
            led, self._led = self._led, []
            for target, function, carrier in led:
                target.lead_to(function, carrier)
            for service, kept in self.kept.items():
                self._versions.lead_to(service, kept.instance)
            self.gate.open()

    def move(self) -> None:
        """The successor has it."""
        if self.gate.state != MOVED:
            if self.gate.state != SHUT:
                self._lead_through_gate()
            self.gate.move()

    def _lead_through_gate(self) -> None:
        for service, kept in self.kept.items():
            self._versions.lead_to(service, kept.gated)
            for attribute, method in kept.methods.items():
                through = method.on(getattr(kept.gated, attribute))
                for target in self._targets_of(method):
                    self._led.append((target, target.function, target.carrier))
                    own = target.method is method
                    target.lead_to(through if own else target.method.on(through), None)  # type: ignore[attr-defined]

    def _targets_of(self, method: RemoteMethod) -> list[Target]:
        """For peers of our version, and for those of others."""
        found = [self._targets[method.identifier], *(link.variants.get(method.identifier) for link in self._links)]
        return [target for target in found if isinstance(target, Target)]

    def _of_twin(self, method: RemoteMethod) -> AnyCall:
        return self._twin.caller(method, None, 0, False)
