"""--access-log-format: what a line of the access log may be made of, in gunicorn's words for it."""

from __future__ import annotations

import re

from clockworker._errors import ConfigurationError

# Beside these there is `{NAME}i`, a header of the request; `{NAME}o`, of the response; `{NAME}e`, a variable of WSGI's.
ATOMS = {
    "h": "the client's address",
    "l": "-",
    "u": "the name of the user, by basic authentication",
    "t": "when it was done",
    "r": "the request line",
    "m": "the method",
    "U": "the path, as sent, without the query",
    "q": "the query",
    "H": "the version of HTTP",
    "s": "the status",
    "B": "bytes of the response's body",
    "b": "the same, and - for none",
    "f": "the Referer",
    "a": "the User-Agent",
    "T": "seconds that it took",
    "M": "milliseconds",
    "D": "microseconds",
    "L": "seconds, with six places",
    "p": "the process",
    "shard": "the number of the shard",
    "queue": "the name of the queue",
    "group": "the group in it, or -",
}

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

_ATOM = re.compile(r"%\(([^)]*)\)")
_OF_NAME = re.compile(r"\{[^{}]+\}[ioe]")


def atoms_of(text: str) -> list[str]:
    """Those that a format has, each once, in their order."""
    return [*dict.fromkeys(_ATOM.findall(text.replace("%%", "")))]


def parse_access_log_format(text: str) -> str:
    for atom in atoms_of(text):
        if atom not in ATOMS and not _OF_NAME.fullmatch(atom):
            raise ConfigurationError(
                f"{text!r}: {atom!r} is no part of a request; give one of {', '.join(ATOMS)}, or {{NAME}}i for a header of "
                "the request, {NAME}o of the response, {NAME}e for a variable of WSGI's"
            )
    try:
        # Each may be shown as a number or as a text. Without an atom a % would show all of them.
        shown = text % dict.fromkeys(atoms_of(text), 0)
    except (ValueError, TypeError, KeyError):
        shown = ""
    if not shown or "\n" in text or "%" in _ATOM.sub("", text.replace("%%", "")):
        raise ConfigurationError(f"{text!r} is no format of a line; give one such as {COMBINED!r}")
    return text
