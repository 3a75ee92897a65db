"""What `[cluster]` says, as a frozen value, and how each of it is read from text."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec

from clockworker._errors import ConfigurationError

TwoNodes: TypeAlias = Literal["both", "lowest"]

# Secrets are nobody's but the environment's: there the names of these variables end.
SECRETS = ("USER", "PASSWORD", "TOKEN", "NKEY")
SECRET_PREFIX = "CLOCKWORKER_CLUSTER_"

MIN_PARTITIONS, MAX_PARTITIONS = 16, 65_536
MIN_NODE_TIMEOUT, MAX_NODE_TIMEOUT = 1.5, 600.0  # three times what a node says that it is alive; s

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PORT = 4222


class ClusterConfig(msgspec.Struct, frozen=True):
    """url: servers of the broker, of which one is enough. name: of the cluster. node: of this machine in it. credentials: a
    file with a JWT and its seed. ca, cert, key: files in PEM, for TLS. tls_first: shake hands before anything else is said.
    node_timeout: seconds. partitions, two_nodes: as the cluster was first started."""

    url: tuple[str, ...]
    node: str
    name: str = "clockworker"
    credentials: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tls_first: bool = False
    node_timeout: float = 5.0
    partitions: int = 4096
    two_nodes: TwoNodes = "both"

    @property
    def shown_urls(self) -> tuple[str, ...]:
        """Without passwords and tokens."""
        return tuple(shown_url(url) for url in self.url)


def shown_url(url: str) -> str:
    """Without what stands before the @."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def parse_urls(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parse_url(text) for text in texts))


def parse_url(text: str) -> str:
    """`nats://HOST:PORT` or `tls://HOST:PORT`; without a port it is 4222, without a scheme nats."""
    whole = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("nats", "tls") or not host or parts.path not in ("", "/") or parts.query or " " in text:
        raise ConfigurationError(
            f"{shown_url(whole)!r} is no address of a NATS server; give nats://HOST:{_PORT}, or tls://HOST:{_PORT}"
        )
    netloc = parts.netloc if port is not None else f"{parts.netloc.removesuffix(':')}:{_PORT}"
    return urlunsplit((parts.scheme, netloc, "", "", ""))


def parse_cluster_name(text: str) -> str:
    return _parse_name(text, "the cluster's name", "shop")


def parse_node(text: str) -> str:
    """`auto` is the host's name up to its first dot."""
    if text != "auto":
        return _parse_name(text, "the node's name", "n1")
    host = socket.gethostname().partition(".")[0]
    if not _NAME.fullmatch(host) or host == "localhost":
        raise ConfigurationError(f"the host is called {host!r}, which names no node; give it a name, for example n1")
    return host


def _parse_name(text: str, what: str, example: str) -> str:
    if not _NAME.fullmatch(text):
        raise ConfigurationError(
            f"{what} is {text!r}; give up to 63 letters, digits, - and _, of which the first is a letter or digit, "
            f"for example {example}"
        )
    return text


def parse_node_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not MIN_NODE_TIMEOUT <= seconds <= MAX_NODE_TIMEOUT:
        raise ConfigurationError(
            f"node_timeout is {text!r}; give seconds from {MIN_NODE_TIMEOUT:g} to {MAX_NODE_TIMEOUT:g}"
        )
    return seconds


def parse_partitions(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not MIN_PARTITIONS <= int(text) <= MAX_PARTITIONS:
        raise ConfigurationError(
            f"the number of partitions is {text!r}; give a whole number from {MIN_PARTITIONS} to {MAX_PARTITIONS}"
        )
    return int(text)


def parse_two_nodes(text: str) -> TwoNodes:
    match text:
        case "both" | "lowest":
            return text
    raise ConfigurationError(f"two_nodes is {text!r}; give both, or lowest")


def check_cluster(config: ClusterConfig) -> None:
    """Raises `ConfigurationError` for values that do not go together."""
    if (config.cert is None) != (config.key is None):
        given, lacks = ("cert", "key") if config.key is None else ("key", "cert")
        raise ConfigurationError(
            f"[cluster] has {given} and no {lacks}; give both: a node shows a certificate by its key"
        )
    uses_tls = [url for url in config.url if url.startswith("tls:")]
    if not uses_tls and (config.tls_first or config.ca or config.cert):
        name = "tls_first" if config.tls_first else "ca" if config.ca else "cert"
        raise ConfigurationError(f"[cluster] has {name}, but no url that begins with tls://; give tls://HOST:{_PORT}")
    if uses_tls and len(uses_tls) < len(config.url):
        plain = next(url for url in config.url if not url.startswith("tls:"))
        raise ConfigurationError(
            f"{shown_url(plain)!r} is without TLS, and other urls are with it; give tls:// for all"
        )


def check_cluster_files(config: ClusterConfig) -> None:
    """That they are there, and can be read. Raises `ConfigurationError`."""
    for name in ("credentials", "ca", "cert", "key"):
        path = getattr(config, name)
        if path is None:
            continue
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise ConfigurationError(f"[cluster] {name}: {path} cannot be read: {error.strerror}") from None
