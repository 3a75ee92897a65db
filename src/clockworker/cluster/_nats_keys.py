"""Who we are to a NATS server: a user and password, a token, a key that signs what the server has drawn (NKEY), or a JWT beside
such a key, from a file of credentials as `nsc` writes it.

Secrets are read when they are shown, at each connection: a file may have been renewed meanwhile.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from clockworker.cluster._wire import WireError
from clockworker.shards.config._cluster import SECRET_PREFIX

_PART = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s*(\S+)\s*-{3,}END \1-{3,}")


class Secrets:
    """credentials: the path of a file. environment: has the others."""

    def __init__(self, credentials: str | None, environment: Mapping[str, str]) -> None:
        self._credentials = credentials
        self._environment = environment

    def shown_to(self, nonce: str, user: str | None, password: str | None) -> dict[str, str]:
        """The fields of CONNECT that say who we are. user, password: of the URL; what else there is goes before them. Raises
        `WireError`, and never says what a secret is."""
        shown: dict[str, str] = {}
        seed = self._secret("NKEY")
        if self._credentials is not None:
            shown["jwt"], seed = read_credentials(self._credentials)
        if seed is not None:
            public, signature = _signed(seed, nonce)
            shown["sig"] = signature
            if "jwt" not in shown:
                shown["nkey"] = public
        if (name := self._secret("USER")) is not None:
            shown["user"], shown["pass"] = name, self._secret("PASSWORD") or ""
        elif (token := self._secret("TOKEN")) is not None:
            shown["auth_token"] = token
        elif user:
            if password is None:
                shown["auth_token"] = user
            else:
                shown["user"], shown["pass"] = user, password
        return shown

    def _secret(self, name: str) -> str | None:
        return self._environment.get(SECRET_PREFIX + name) or None


def read_credentials(path: str) -> tuple[str, str]:
    """The JWT and the seed of such a file. Raises `WireError`, with the path and what it lacks."""
    try:
        with open(path, "rb") as file:
            parts = dict(_PART.findall(file.read()))
    except OSError as error:
        raise WireError(f"{path} cannot be read: {error.strerror}") from None
    for name in (b"NATS USER JWT", b"USER NKEY SEED"):
        if name not in parts:
            raise WireError(f"{path} has no {name.decode()}; give a file of credentials as nsc writes it")
    return parts[b"NATS USER JWT"].decode("ascii", "replace"), parts[b"USER NKEY SEED"].decode("ascii", "replace")


def _signed(seed: str, nonce: str) -> tuple[str, str]:
    """The public key, and the server's nonce as signed."""
    try:
        import nkeys
    except ImportError:
        raise WireError("an NKEY needs nkeys, which is not installed: pip install 'clockworker[cluster]'") from None
    try:
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        public, signed = pair.public_key.decode(), pair.sign(nonce.encode())
    except Exception as error:
        # The library's own words may have a part of the seed.
        raise WireError(f"the NKEY's seed makes no sense ({type(error).__name__}); it begins with SU") from None
    return public, base64.urlsafe_b64encode(signed).decode().rstrip("=")
