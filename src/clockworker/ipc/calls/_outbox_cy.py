# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The way of a one-way request from `service.send` to its link.

What a sender does for each request, in Python, was two thirds of what it cost; so all of it is in one call that finds the
method's senders, which are mostly those of the last request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.calls._link_cy import Link

if cython.compiled:
    from cython.cimports.clockworker.ipc.calls._native import small_int as small
else:

    def small(number: int) -> int:
        return number


# Shards up to that number have their places in a list, which takes a quarter of the instructions of a dictionary.
_NEAR = 4_096


@cython.final
@cython.cclass
class LinkSender:
    """Sends one-way requests of one method over one link.

    count: of arguments which are as they are sent if there are so many, none by keyword. bind: makes them so.
    """

    link: Link
    method: Method
    count: int
    bind: Callable[..., tuple[Any, ...]]

    def __init__(self, link: Link, method: Method, count: int, bind: Callable[..., tuple[Any, ...]]) -> None:
        if link is None or method is None:
            raise TypeError("a sender sends a method's requests over a link")
        self.link = link
        self.method = method
        self.count = count
        self.bind = bind

    def send(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[None] | None:
        """Send it. What it returns is to be awaited; None: it is sent."""
        if kwargs or len(args) != self.count:
            args = self.bind(*args, **kwargs)
        return self.link.post(self.method, args)


# The same on this shard.
Sender = LinkSender | Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[None] | None]


@cython.final
@cython.cclass
class Outbox:
    """The senders of all methods of a service to all shards. find: that of a method to a shard. send_of_key: sends to one that
    is named by a key's owner (`_owners`)."""

    _find: Callable[[int, Any], Sender]
    _send_of_key: Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Awaitable[None] | None]
    _senders: dict[Any, list[Sender | None]]  # of a method, by shard: those that have been asked for
    _far: dict[tuple[int, Any], Sender]  # and those to shards with large numbers, of other nodes
    _last_method: Any
    _last_senders: list[Sender | None]

    def __init__(
        self,
        find: Callable[[int, Any], Sender],
        send_of_key: Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Awaitable[None] | None],
    ) -> None:
        self._find = find
        self._send_of_key = send_of_key
        self._senders = {}
        self._far = {}
        self._last_method = None
        self._last_senders = []

    def send(self, shard: int, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[None] | None:
        """Have the method run on that shard. None: it is sent; else what to await. IndexError if there is no such shard."""
        if type(shard) is not int:
            return self._send_of_key(shard, method, args, kwargs)
        if method is not self._last_method:
            senders = self._senders.get(method)
            if senders is None:
                senders = self._senders[method] = []
            self._last_senders = senders
            self._last_method = method
        number = small(shard)
        sender = self._last_senders[number] if 0 <= number < len(self._last_senders) else None
        if sender is None:
            sender = self._sender(shard, method)
        if isinstance(sender, LinkSender):
            link_sender: LinkSender = sender
            return link_sender.send(args, kwargs)
        return sender(args, kwargs)

    def _sender(self, shard: int, method: Any) -> Sender:
        """Of the last method, to a shard that was not sent to before, or is far."""
        if not 0 <= shard < _NEAR:
            sender = self._far.get((shard, method))
            if sender is None:
                sender = self._far[shard, method] = self._find(shard, method)
            return sender
        sender = self._find(shard, method)
        senders = self._last_senders
        senders += [None] * (shard + 1 - len(senders))
        senders[shard] = sender
        return sender
