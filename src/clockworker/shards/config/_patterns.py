"""What a route says of paths: exact text, `{name}`, `{name:int}` and the like, and `*` at the end. Pure.

A pattern becomes a regular expression that takes a time in proportion to the path, whatever a client sends: there is one
`{name}` in a segment at most, and one part that may contain a slash. What two parts match could be divided between them in many
ways, and each would be tried.
"""

from __future__ import annotations

import re

import msgspec

from clockworker._errors import ConfigurationError

# What may stand behind the colon, as Starlette and FastAPI write it. `path` may contain slashes, and be empty.
KINDS = {
    "str": "[^/]+",
    "int": "[0-9]+",
    "float": r"[0-9]+(?:\.[0-9]+)?",
    "uuid": "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    "path": ".*",
}

_FORM = "give a path such as /reports, /reports/{tenant} or /reports/*"


class Pattern(msgspec.Struct, frozen=True):
    """names: of its parts. prefix: the segments that are only text, with the slash behind them. regex: of what follows, without
    groups; with_groups: of the whole path, with a group for each name; both to be compiled with DOTALL. None: the path is
    exact."""

    names: tuple[str, ...] = ()
    prefix: str = ""
    regex: str | None = None
    with_groups: str | None = None


def parse_pattern(path: object) -> Pattern:
    """Raises `ConfigurationError`."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"{path!r} is no path, which begins with /; {_FORM}")
    if "?" in path or "#" in path:
        raise ConfigurationError(f"{path!r}: a route says nothing of what follows a ? or #; {_FORM}")
    if found := re.search("%[0-9A-Fa-f]{2}", path):
        raise ConfigurationError(f"{path!r}: paths are compared decoded; give the character that {found[0]} stands for")
    rest = path.endswith("*")
    parts = re.split(r"\{([^{}]*)\}", path[:-1] if rest else path)
    for text in parts[::2]:
        if found := re.search("[*{}]", text):
            what = "a * stands at the end only" if found[0] == "*" else f"its {found[0]} has no other"
            raise ConfigurationError(f"{path!r}: {what}; {_FORM}")
    if len(parts) == 1 and not rest:
        return Pattern()
    names: list[str] = []
    prefix = parts[0][: parts[0].rindex("/") + 1]
    regex, with_groups = re.escape(parts[0].removeprefix(prefix)), re.escape(parts[0])
    spans = rest
    for index in range(1, len(parts), 2):
        name, colon, kind = parts[index].partition(":")
        kind = kind if colon else "str"
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or name in names:
            again = "is there twice; give each its own" if name in names else "is no name; give letters, digits and _"
            raise ConfigurationError(f"{path!r}: {name!r} {again}, for example {{tenant}}")
        if kind not in KINDS:
            raise ConfigurationError(f"{path!r}: {kind!r} is no kind of text; give one of {', '.join(KINDS)}, or none")
        if index > 1 and "/" not in parts[index - 1]:
            raise ConfigurationError(f"{path!r}: {{{name}}} is the second in its segment; give one, and text around it")
        if kind == "path":
            if spans:
                raise ConfigurationError(f"{path!r}: only one part may contain a slash; give one * or {{...:path}}")
            spans = True
        names.append(name)
        text = re.escape(parts[index + 1])
        regex += KINDS[kind] + text
        with_groups += f"(?P<{name}>{KINDS[kind]}){text}"
    end = ".*" if rest else ""
    return Pattern(tuple(names), prefix, regex + end, with_groups + end)
