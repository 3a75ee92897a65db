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
    _senders: dict[Any, dict[int, Sender]]
    _last_method: Any
    _last_senders: dict[int, Sender]

    def __init__(
        self,
        find: Callable[[int, Any], Sender],
        send_of_key: Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Awaitable[None] | None],
    ) -> None:
        self._find = find
        self._send_of_key = send_of_key
        self._senders = {}
        self._last_method = None
        self._last_senders = {}

    def send(self, shard: int, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[None] | None:
        """Have the method run on that shard. None: it is sent; else what to await. IndexError if there is no such shard."""
        if type(shard) is not int:
            return self._send_of_key(shard, method, args, kwargs)
        if method is not self._last_method:
            senders = self._senders.get(method)
            if senders is None:
                senders = self._senders[method] = {}
            self._last_senders = senders
            self._last_method = method
        sender = self._last_senders.get(shard)
        if sender is None:
            sender = self._last_senders[shard] = self._find(shard, method)
        if isinstance(sender, LinkSender):
            link_sender: LinkSender = sender
            return link_sender.send(args, kwargs)
        return sender(args, kwargs)
