"""In the reference, what a docstring says of each argument is an item of a list: a line that begins with its name. Else
Markdown would make one paragraph of all. An extension of griffe's (`mkdocs.yml`)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import griffe

BEGINNING = re.compile(r"((?:\w+, )*\w+): (?=\S)")


def as_list(text: str, names: Collection[str]) -> str:
    """names: of arguments and attributes."""
    paragraphs = []
    is_after_list = False
    for paragraph in re.split(r"\n{2,}", text):
        lines: list[str] = []
        in_list = False
        for line in paragraph.split("\n"):
            begun = BEGINNING.match(line)
            if begun and {*begun[1].split(", ")} <= {*names}:
                said = ", ".join(f"`{name}`" for name in begun[1].split(", "))
                lines += [] if in_list or not lines else [""]
                lines.append(f"- {said}: {line[begun.end() :]}")
                in_list = True
            else:
                lines.append(f"    {line.strip()}" if in_list else line)
        if is_after_list and paragraph.startswith("    "):  # code, and no part of the last item
            paragraphs.append("<!-- -->")
        paragraphs.append("\n".join(lines))
        is_after_list = in_list
    return "\n\n".join(paragraphs)


def names_of(thing: griffe.Object | griffe.Alias | None) -> set[str]:
    if isinstance(thing, griffe.Function):
        return {parameter.name.lstrip("*") for parameter in thing.parameters}
    if isinstance(thing, griffe.Class):
        return {*thing.members} | names_of(thing.members.get("__init__"))
    return set()


class Arguments(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._walk(pkg)

    def _walk(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = as_list(thing.docstring.value, names_of(thing))
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                self._walk(member)
