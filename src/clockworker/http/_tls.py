"""TLS as HTTP's servers have it: what they offer in a handshake, and what they say of it in the scope of a request."""

from __future__ import annotations

import ssl
from typing import Any

from clockworker.shards.config._config import ServeConfig
from clockworker.shards.machine._certificates import context_of


def context_of_options(config: ServeConfig) -> ssl.SSLContext | None:
    """What the options ask for, if they ask for TLS; and HTTP/2, where that is to be had. It is no other server's context: a
    server of streams offers no HTTP."""
    context = context_of(config)
    if context is not None:
        context.set_alpn_protocols(["h2", "http/1.1"] if config.http.http2 and speaks_http2() else ["http/1.1"])
    return context


def speaks_http2() -> bool:
    """Whether h2 is installed."""
    try:
        import clockworker.http._http2  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("h2", "hpack", "hyperframe"):
            raise
        return False
    return True


def extension_of(ssl_object: ssl.SSLObject) -> dict[str, Any]:
    """A connection in ASGI's words for it (the TLS extension), once its handshake is done.

    What the certificate of the server is, Python does not say. Of a client's it knows the whole chain since 3.13, and its own
    certificate before. A certificate that is not valid has ended the handshake.
    """
    cipher = ssl_object.cipher()
    shown = ssl_object.getpeercert(True)
    chain = []
    if shown is not None:
        sent = ssl_object.get_unverified_chain() if hasattr(ssl_object, "get_unverified_chain") else [shown]
        chain = [ssl.DER_cert_to_PEM_cert(certificate) for certificate in sent]
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": None if shown is None else _name(ssl_object.getpeercert() or {}),
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(ssl_object.version() or ""),
        "cipher_suite": None if cipher is None else _suite(cipher[0], ssl_object.context),
    }


def _suite(name: str, context: ssl.SSLContext) -> int | None:
    """Its number, as TLS has it."""
    if name not in _suites:
        _suites.update({cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()})
    return _suites.get(name)


def _name(certificate: Any) -> str:
    """The subject, as RFC 4514 writes it: the last part first."""
    parts = reversed(certificate.get("subject", ()))
    return ",".join("+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part) for part in parts)


def _escaped(value: str) -> str:
    text = "".join(f"\\{char}" if char in _SPECIAL else char for char in value).replace("\0", "\\00")
    if text[:1] in ("#", " "):
        text = "\\" + text
    return text[:-1] + "\\ " if len(value) > 1 and text.endswith(" ") else text


_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_SPECIAL = frozenset('"+,;<>\\')
_SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_suites: dict[str, int] = {}
