"""What a proxy says of its client: X-Forwarded-For and X-Forwarded-Proto, or else Forwarded. Pure.

A proxy appends the address that it was called from to X-Forwarded-For, whatever was in there before. So its last entry is
the word of the proxy that called us, and is believed if that one is trusted; the entry before is the word of the proxy that
the last entry names, and so on. The client is the first entry from the right that is no trusted proxy: all that stands to the
left of it may be made up. If all are trusted, it is the leftmost. These are uvicorn's rules, with one addition: `unix` names
the clients of a Unix socket, which have no address of their own.

`Forwarded` (RFC 7239) is read by the same rules, and only of a request that has neither of the others: most proxies set those
alone, and let a client's own `Forwarded` pass. The scheme is that which the client spoke with the first proxy that is trusted.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

from clockworker._errors import ConfigurationError
from clockworker.http._forwarded import Element, elements_from_the_right

Client: TypeAlias = tuple[str, int] | None
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_KNOWN = 4_096  # answers that are kept; beyond, all are forgotten
_LONGEST = 253  # characters of a host's name, and more than most lists of them have; of a longer text no answer is kept
_SCHEMES = {b"http": "http", b"https": "https", b"ws": "ws", b"wss": "wss"}
_OF_WEBSOCKETS = {"http": "ws", "https": "wss"}


class Proxies:
    """The proxies that are trusted."""

    def __init__(self, trusted: str) -> None:
        """trusted: addresses, networks, `unix` for what comes over a Unix socket, and any other names that a proxy may have in
        X-Forwarded-For, separated by commas; `*`: whoever calls.

        Raises `ConfigurationError` for a network that is none.
        """
        self._all = trusted.strip() == "*"
        self._addresses: set[_Address] = set()
        self._networks: list[_Network] = []
        self._names: set[str] = set()
        for each in () if self._all else trusted.split(","):
            if text := each.strip():
                self._add(text)
        self._without_address = self._all or bool(self._names & {"unix", "unix:"})
        self._known: dict[str, bool] = {}
        self._clients: dict[bytes, tuple[str, int]] = {}
        self._elements: dict[bytes, Element] = {}

    def _add(self, text: str) -> None:
        address, is_network, _ = text.partition("/")
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            self._names.add(text)  # such as a path, which has a slash, too
            return
        if not is_network:
            self._addresses.add(ip)
            return
        try:
            self._networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigurationError(
                f"forwarded_allow_ips: {text!r} is no network: {_should_be(text, error)}"
            ) from None

    def trusts(self, host: str | None) -> bool:
        """Whether proxy headers are believed if they come from this host. None: it has no address, as over a Unix socket."""
        if host is None:
            return self._without_address
        known = self._known.get(host)
        return self._decide(host) if known is None else known

    def _decide(self, host: str) -> bool:
        trusted = self._all or self._is_listed(host)
        if len(host) <= _LONGEST:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[host] = trusted
        return trusted

    def _is_listed(self, host: str) -> bool:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return host in self._names
        return ip in self._addresses or any(ip in network for network in self._networks)

    def apply(self, headers: list[tuple[bytes, bytes]], client: Client, scheme: str) -> tuple[Client, str]:
        """Client and scheme as the headers have them, of a request whose proxy is trusted. What they don't say, or say in a way
        that cannot be understood, stays as it is. A client's port is 0 where the proxy gives none.

        headers: names in lower case. scheme: ws or wss for a WebSocket, for which http and https mean these.
        """
        hosts: bytes | None = None
        proto: bytes | None = None  # the last one counts
        forwarded: bytes | None = None
        for name, value in headers:
            if name == b"x-forwarded-for":
                hosts = value if hosts is None else hosts + b"," + value
            elif name == b"x-forwarded-proto":
                proto = value
            elif name == b"forwarded":
                forwarded = value if forwarded is None else forwarded + b"," + value
        if forwarded is not None and hosts is None and proto is None:
            node, said_proto = self._elements.get(forwarded) or self._element(forwarded)
            proto = None if said_proto is None else said_proto.lower().encode("latin-1", "replace")
            if node:
                client = _host_and_port(node)
        if proto is not None and (said := _SCHEMES.get(proto.strip())) is not None:
            scheme = _OF_WEBSOCKETS.get(said, said) if scheme in ("ws", "wss") else said
        if hosts is not None:
            of_hosts = self._clients.get(hosts) or self._client(hosts)
            if of_hosts[0]:
                client = of_hosts
        return client, scheme

    def _client(self, value: bytes) -> tuple[str, int]:
        client = self._find(value.decode("latin-1").split(","))
        if len(value) <= _LONGEST:
            if len(self._clients) >= _KNOWN:
                self._clients.clear()
            self._clients[value] = client
        return client

    def _element(self, value: bytes) -> Element:
        found = Element("", None)
        for element in elements_from_the_right(value.decode("latin-1")):
            found = element
            if not self._all and not self.trusts(_host_and_port(element.node)[0]):
                break
        if len(value) <= _LONGEST:
            if len(self._elements) >= _KNOWN:
                self._elements.clear()
            self._elements[value] = found
        return found

    def _find(self, hosts: list[str]) -> tuple[str, int]:
        if not self._all:
            for each in reversed(hosts):
                host, port = _host_and_port(each.strip())
                if not self.trusts(host):
                    return host, port
        return _host_and_port(hosts[0].strip())


def _host_and_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]`, `[address]:port`. What is none of these is a host as a whole, which nobody trusts."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        return (host, _port(rest[1:]) or 0) if closed and rest[:1] in ("", ":") else (text, 0)
    host, colon, rest = text.partition(":")
    if not colon or ":" in rest or (port := _port(rest)) is None:
        return text, 0
    return host, port


def _port(text: str) -> int | None:
    if len(text) > 5 or not (text.isascii() and text.isdigit()):
        return None
    port = int(text)
    return port if port <= 65_535 else None


def _should_be(text: str, error: ValueError) -> str:
    try:
        return f"{ipaddress.ip_network(text, strict=False)} is the network of this address"
    except ValueError:
        return str(error)
