"""What two shards that do not run the same code still understand of each other: policy, of what each has told (`_schema`).

`differences` decides, for each method and each direction. Arguments go from the caller's types to the callee's, a result the
other way, and either is understood if each value of the sender's type is read as the same value:

    parameters   are matched by name. One that the caller lacks has a default; one that the callee lacks has one too, and the
                 call is refused if it was given anything else.
    struct,      fields are matched by name and by their name on the wire. One that is missing on either side has a default
    dataclass    where it is there; the side that lacks it does not see it. If both sides have one that the other lacks, that
                 may be a field renamed, and is not understood.
    array_like,  fields are matched by position, and have the same names there. More may come at the end, with defaults.
    NamedTuple
    enum         the sender's members are there under the same names, with the same values.
    union        each of the sender's members is understood by one of the reader's.
    the rest     the same type, and the reader asks nothing of it (`ge`, `max_length`, `pattern`) that the sender does not.

A class is the same if it has the same name, wherever it is defined. What is left out because it is the default
(`omit_defaults`, `UNSET`, a key of a TypedDict) is read as the reader's default: that must be the same one.

A method that is not understood is not called: `SchemaMismatch` is better than a field that ends up in another. What a peer
tells is bounded in size, and comparing it in steps (`MAX_STEPS`); beyond that only what is exactly alike is understood.

Rejected: comparing at each call (a digest in each frame), and JSON Schema, which tells neither the names in a NamedTuple nor
what is left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from clockworker.ipc.calls._schema import (
    MAX_DESCRIPTION,
    NONE,
    UNKNOWN,
    UNSET,
    FieldSchema,
    MethodDescription,
    MethodSchema,
    ServiceSchema,
    TypeSchema,
)

MAX_STEPS = 20_000
_MAX_SHOWN = 400  # characters of a peer's signature, in a message
_MAX_PARTS = 8  # of a type, in a message


class Differences(msgspec.Struct, frozen=True):
    """What became of the comparison. By identifier, what to say to a caller of a method that is not understood: of ours to
    the peer (`outgoing`), of the peer's to us (`incoming`). By name, methods whose calls come with other parameters
    (`fitted`)."""

    outgoing: dict[int, str]
    incoming: dict[int, str]
    fitted: dict[str, MethodDescription]


def differences(ours: ServiceSchema, theirs: ServiceSchema, where: str) -> Differences:
    """Of a service of which both have a version. where: whose theirs is, as in `Link.where`."""
    found = Differences({}, {}, {})
    for key in sorted(ours.methods.keys() | theirs.methods.keys()):
        mine, other = ours.methods.get(key), theirs.methods.get(key)
        name = key or ours.service.rpartition(".")[2]
        if mine is None and other is not None:
            said = f"{name} is not there here, and on {where} it is {name}{_cut(other.signature)}"
            found.incoming[other.identifier] = f"{ours.service}: {said}"
        elif other is None and mine is not None:
            said = f"{name} is not there on {where}, and here it is {name}{mine.signature}"
            found.outgoing[mine.identifier] = f"{ours.service}: {said}"
        elif mine is not None and other is not None and mine.digest != other.digest:
            version = _differ(found, ours.service, name, mine, other, where)
            if version is not None:
                found.fitted[key] = version
    return found


def _differ(
    found: Differences, service: str, name: str, mine: MethodSchema, other: MethodSchema, where: str
) -> MethodDescription | None:
    """Returns the peer's version, if its calls are understood and have other parameters."""
    here, there = "here", f"on {where}"
    fitted: MethodDescription | None = None
    try:
        if len(other.description) > MAX_DESCRIPTION:
            raise ValueError("no shard tells so much")
        own, foreign = (_descriptions.decode(each.description) for each in (mine, other))
        out = understood(own, foreign, here, there)
        back = understood(foreign, own, there, here)
        if [each.name for each in own.parameters] != [each.name for each in foreign.parameters]:
            fitted = foreign
    except Exception:  # not told, or not as it should be
        out = back = "they are too large, or too different, to be compared"
    shown = f"{name}{mine.signature} {here} and {name}{_cut(other.signature)} {there}"
    if mine.signature == other.signature:
        shown += ", of types that differ"
    if out:
        found.outgoing[mine.identifier] = f"{service}: {name} differs: {shown}: {out}"
    if back:
        found.incoming[mine.identifier] = f"{service}: {name} differs: {shown}: {back}"
    return None if back else fitted


_descriptions = msgspec.msgpack.Decoder(MethodDescription)


def understood(caller: MethodDescription, callee: MethodDescription, here: str, there: str) -> str:
    """Why a call that the caller's version makes is not understood by the callee's, or its result by the caller's; empty if
    both are. here, there: where they are."""
    if caller.streams != callee.streams:
        return f"it is a stream {here if caller.streams else there} only"
    arguments = _Comparison(caller.types, callee.types, here, there)
    known = {each.name: each for each in caller.parameters}
    for parameter in callee.parameters:
        sent = known.pop(parameter.name, None)
        if sent is not None:
            why = arguments.why(sent.type, parameter.type)
            if why:
                return f"parameter {parameter.name}: {why}"
        elif parameter.default == NONE:
            return f"parameter {parameter.name} has no default {there}, and there is none {here}"
    for sent in known.values():
        if sent.default == NONE:
            return f"parameter {sent.name} has no default {here}, and there is none {there}"
    why = _Comparison(callee.types, caller.types, there, here).why(callee.result, caller.result)
    return f"the result: {why}" if why else ""


class _Comparison:
    """Whether what is sent as one set of types is read as the same by another."""

    def __init__(self, sent: tuple[TypeSchema, ...], read: tuple[TypeSchema, ...], sender: str, reader: str) -> None:
        self._sent = sent
        self._read = read
        self._sender = sender
        self._reader = reader
        self._seen: dict[tuple[int, int], str] = {}
        self._steps = 0

    def why(self, sent: int, read: int) -> str:
        """Why not; empty if it is. Types that refer to themselves are what they are supposed to be until shown otherwise."""
        found = self._seen.get((sent, read))
        if found is None:
            self._steps += 1 + len(self._sent[sent].fields) + len(self._read[read].fields)
            if self._steps > MAX_STEPS or sent < 0 or read < 0:
                raise ValueError("too much to compare")
            self._seen[sent, read] = ""
            found = self._seen[sent, read] = self._compare(sent, read)
        return found

    def _compare(self, sent: int, read: int) -> str:
        a, b = self._sent[sent], self._read[read]
        if a.kind == "union" or b.kind == "union":
            return self._union(sent, read)
        if a.kind == "literal" and b.kind in _LITERALS:
            wanted = _LITERALS[b.kind]
            if not b.rules and all(kind == wanted for kind, _ in a.rules["values"]):
                return ""
        if a.kind == "tuple" and b.kind == "vartuple" and not b.rules:
            return next(filter(None, (self.why(part, b.parts[0]) for part in a.parts)), "")
        if a.kind != b.kind or a.name != b.name:
            return (
                f"it is {self._name(self._sent, sent)} {self._sender} and {self._name(self._read, read)} {self._reader}"
            )
        match a.kind:
            case "struct" if a.rules["by position"] or b.rules["by position"]:
                return self._options(a, b) or self._by_position(a, b)
            case "struct":
                return self._options(a, b) or self._by_name(a, b)
            case "namedtuple":
                return self._by_position(a, b)
            case "dataclass" | "typeddict":
                return self._by_name(a, b)
            case "enum":
                return self._members(a, b)
            case "literal":
                more = [value for value in a.rules["values"] if value not in b.rules["values"]]
                return f"{more[0][1]!r} may be sent {self._sender}, and is unknown {self._reader}" if more else ""
        if len(a.parts) != len(b.parts):
            return f"it has {len(a.parts)} items {self._sender} and {len(b.parts)} {self._reader}"
        return self._rules(a, b) or next(filter(None, map(self.why, a.parts, b.parts)), "")

    def _union(self, sent: int, read: int) -> str:
        """No two members of a union look alike on the wire, so that the one that understands is the one that reads."""
        a, b = self._sent[sent], self._read[read]
        choices = b.parts if b.kind == "union" else (read,)
        for part in a.parts if a.kind == "union" else (sent,):
            whys = []
            for choice in choices:
                whys.append(self.why(part, choice))
                if not whys[-1]:
                    break
            else:
                if len(choices) == 1 and a.kind != "union":
                    return whys[0]
                same = [
                    why
                    for why, choice in zip(whys, choices, strict=True)
                    if (self._read[choice].kind, self._read[choice].name)
                    == (self._sent[part].kind, self._sent[part].name)
                ]
                if same:
                    return same[0]
                names = (
                    f"{self._name(self._sent, part)} {self._sender}, and {self._name(self._read, read)} {self._reader}"
                )
                return f"it may be {names}"
        return ""

    def _options(self, a: TypeSchema, b: TypeSchema) -> str:
        for option in ("tag", "tag_field", "by position"):
            if a.rules[option] != b.rules[option]:
                what = {"tag": "tag", "tag_field": "tag_field", "by position": "array_like"}[option]
                return (
                    f"{what} of {a.name} is {a.rules[option]!r} {self._sender} and {b.rules[option]!r} {self._reader}"
                )
        return ""

    def _by_position(self, a: TypeSchema, b: TypeSchema) -> str:
        for place, (one, other) in enumerate(zip(a.fields, b.fields, strict=False)):
            if one.name != other.name:
                where = f"{one.name} {self._sender} and {other.name} {self._reader}"
                return f"field {place} of {a.name} is {where}: fields that are sent by position stay where they are"
            why = self.why(one.type, other.type)
            if why:
                return _at(a, one, why)
        for field in b.fields[len(a.fields) :]:
            if field.required:
                return f"{a.name}.{field.name} has no default {self._reader}, and is not there {self._sender}"
        for field in a.fields[len(b.fields) :]:
            if a.kind == "namedtuple" or b.rules["strict"]:
                return f"{a.name}.{field.name} is not there {self._reader}, where {a.name} takes no more fields"
            if field.required:
                return f"{a.name}.{field.name} has no default {self._sender}, and is not there {self._reader}"
        return ""

    def _by_name(self, a: TypeSchema, b: TypeSchema) -> str:
        known = {each.wire: each for each in b.fields}
        theirs = {each.name: each for each in b.fields}
        gone = None
        for field in a.fields:
            other = known.pop(field.wire, None)
            namesake = theirs.get(field.name)
            if other is None and namesake is None:
                if field.required:
                    return f"{a.name}.{field.name} has no default {self._sender}, and is not there {self._reader}"
                if b.rules.get("strict"):
                    return f"{a.name}.{field.name} is not there {self._reader}, where unknown fields are forbidden"
                gone = field
                continue
            if other is None or namesake is not other:
                return f"{a.name}.{field.name} has another name on the wire {self._sender} than {self._reader}"
            why = self.why(field.type, other.type)
            if why:
                return _at(a, field, why)
            if not field.required and (a.kind == "typeddict" or field.default == UNSET or a.rules.get("omits")):
                if other.required:
                    return f"{a.name}.{field.name} may be left out {self._sender}, and is required {self._reader}"
                if field.default not in (other.default, UNKNOWN):
                    return (
                        f"{a.name}.{field.name} may be left out {self._sender}, and has another default {self._reader}"
                    )
        for field in known.values():
            if field.required:
                return f"{a.name}.{field.name} has no default {self._reader}, and is not there {self._sender}"
            if gone is not None:
                where = f"{gone.name} {self._sender} only, and {field.name} {self._reader} only"
                return f"{a.name} has {where}: if that is one field renamed, its value would be lost"
        return ""

    def _members(self, a: TypeSchema, b: TypeSchema) -> str:
        if a.rules["flags"] != b.rules["flags"]:
            return (
                f"{a.name} has members that can be combined {self._sender if a.rules['flags'] else self._reader} only"
            )
        read = b.rules["members"]
        for member, value in a.rules["members"].items():
            if member not in read:
                return f"{a.name}.{member} is not there {self._reader}"
            if read[member] != value:
                return f"{a.name}.{member} is {value!r} {self._sender} and {read[member]!r} {self._reader}"
        return ""

    def _rules(self, a: TypeSchema, b: TypeSchema) -> str:
        for rule, value in b.rules.items():
            if not _implied(rule, value, a.rules):
                return f"{rule}={value!r} is asked {self._reader}, and not {self._sender}"
        return ""

    def _name(self, types: tuple[TypeSchema, ...], place: int, depth: int = 0) -> str:
        """For people: a type as it is written."""
        kind = types[place]
        if depth > 3:
            return "..."
        inner = [self._name(types, part, depth + 1) for part in kind.parts[:_MAX_PARTS]]
        if kind.kind == "union":
            return " | ".join(inner)
        shown = _cut(kind.name) or _PYTHON.get(kind.kind, kind.kind)
        if kind.kind == "vartuple":
            inner.append("...")
        if kind.kind == "literal":
            inner = [_cut(repr(value)) for _, value in kind.rules["values"][:_MAX_PARTS]]
        return f"{shown}[{', '.join(inner)}]" if inner else shown


_LITERALS = {"str": "str", "int": "int", "bool": "bool", "none": "NoneType"}
_PYTHON = {"none": "None", "any": "Any", "vartuple": "tuple", "literal": "Literal", "raw": "Raw", "ext": "Ext"}


def _at(cls: TypeSchema, field: FieldSchema, why: str) -> str:
    return f"{cls.name}.{field.name}: {why}"


def _implied(rule: str, value: Any, given: dict[str, Any]) -> bool:
    """Whether what is asked by a rule holds of all that obeys the given ones."""
    if given.get(rule) == value:
        return True
    ge, gt, le, lt = (given.get(name) for name in ("ge", "gt", "le", "lt"))
    match rule:
        case "ge":
            return (ge is not None and ge >= value) or (gt is not None and gt >= value)
        case "gt":
            return (ge is not None and ge > value) or (gt is not None and gt >= value)
        case "le":
            return (le is not None and le <= value) or (lt is not None and lt <= value)
        case "lt":
            return (le is not None and le < value) or (lt is not None and lt <= value)
        case "min_length":
            return bool(given.get(rule, 0) >= value)
        case "max_length":
            return rule in given and bool(given[rule] <= value)
    return False


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
