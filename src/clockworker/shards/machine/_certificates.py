"""The TLS context of a server, as the options have it: certificate, key, whose clients may come, ciphers, versions."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import ServeConfig


def context_of(config: ServeConfig) -> ssl.SSLContext | None:
    """What the options ask for, made of the files as they are now. Raises `ConfigurationError`."""
    if config.ssl_certfile is None:
        for name, given in _BESIDE_A_CERTIFICATE.items():
            if given(config):
                raise ConfigurationError(f"{name} is for TLS, which needs a certificate; give --ssl-certfile, too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.ssl_version]
    context.verify_mode = _CERT_REQS[config.ssl_cert_reqs]
    _load_certificate(context, config)
    if config.ssl_ca_certs is not None:
        _check_file("--ssl-ca-certs", config.ssl_ca_certs)
        try:
            context.load_verify_locations(config.ssl_ca_certs)
        except ssl.SSLError:
            raise ConfigurationError(f"--ssl-ca-certs: {config.ssl_ca_certs} has no certificate in PEM") from None
    elif config.ssl_cert_reqs != "none":
        raise ConfigurationError(
            f"--ssl-cert-reqs {config.ssl_cert_reqs}: no client's certificate would do; say by --ssl-ca-certs whose do"
        )
    if config.ssl_crl is not None:
        _load_revoked(context, config.ssl_crl)
    if config.ssl_ciphers is not None:
        try:
            context.set_ciphers(config.ssl_ciphers)
        except ssl.SSLError:
            raise ConfigurationError(
                f"--ssl-ciphers: {config.ssl_ciphers!r} selects no cipher; `openssl ciphers -v` lists them"
            ) from None
    return context


def _load_certificate(context: ssl.SSLContext, config: ServeConfig) -> None:
    certificate, key = config.ssl_certfile, config.ssl_keyfile
    assert certificate is not None
    _check_file("--ssl-certfile", certificate)
    if key is not None:
        _check_file("--ssl-keyfile", key)
    asked: list[bool] = []

    def password() -> str:  # without a function OpenSSL asks at the terminal
        asked.append(True)
        return config.ssl_keyfile_password or ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError) as error:  # ValueError: a password that is too long
        where = f"--ssl-keyfile: {key}" if key is not None else f"--ssl-certfile: {certificate}"
        if asked:
            what = "the password is wrong" if config.ssl_keyfile_password else "the key has a password"
            raise ConfigurationError(f"{where}: {what}; give --ssl-keyfile-password") from None
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"{where}: the key is not that of the certificate in {certificate}") from None
        lacks = (
            "a certificate, in PEM" if key is not None else "a certificate and its key, in PEM; or give --ssl-keyfile"
        )
        raise ConfigurationError(
            f"--ssl-certfile: {certificate}{'' if key is None else f' and {key}'} cannot be used; there should be {lacks}"
            + ("" if key is None else ", and its key")
        ) from None


def _load_revoked(context: ssl.SSLContext, path: str) -> None:
    """Each certificate of a chain is looked for in its authority's list; where that is missing or too old, no client comes."""
    if context.verify_mode is ssl.CERT_NONE:
        raise ConfigurationError(
            "--ssl-crl is for certificates of clients, which nobody asks for; give --ssl-cert-reqs optional or required"
        )
    _check_file("--ssl-crl", path)
    before = context.cert_store_stats()
    with suppress(ssl.SSLError):  # nothing in it is in PEM
        context.load_verify_locations(path)
    now = context.cert_store_stats()
    if now["crl"] == before["crl"]:
        raise ConfigurationError(f"--ssl-crl: {path} has no list of revoked certificates (X509 CRL) in PEM")
    if now["x509"] != before["x509"]:
        raise ConfigurationError(
            f"--ssl-crl: {path} has certificates, too, which would be trusted; those belong into the file of --ssl-ca-certs"
        )
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


def _check_file(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} cannot be read: {error.strerror}") from None


_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_BESIDE_A_CERTIFICATE: dict[str, Callable[[ServeConfig], object]] = {
    "--ssl-keyfile": lambda config: config.ssl_keyfile,
    "--ssl-keyfile-password": lambda config: config.ssl_keyfile_password,
    "--ssl-ca-certs": lambda config: config.ssl_ca_certs,
    "--ssl-crl": lambda config: config.ssl_crl,
    "--ssl-cert-reqs": lambda config: config.ssl_cert_reqs != "none",
    "--ssl-ciphers": lambda config: config.ssl_ciphers,
    "--ssl-version": lambda config: config.ssl_version != "1.2",
}
