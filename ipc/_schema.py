"""Versions of services: how two shards find out that they do not mean the same by a method.

While shards are replaced one by one, old and new code call each other. Whoever starts a service tells every peer what its
methods are: a digest of each one's parameters and result, down to the fields of structs. It goes through the ring in front of
the first call, so that a shard knows the caller's version before it sees a call of it; and since both tell, both know. A
method whose digests differ is called by neither: `SchemaMismatch` is better than a field that ends up in another.

Rejected: comparing at each call (a digest in each frame), and deciding which changes are compatible.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

# What says nothing about how a value is sent.
_REMARKS = frozenset({"title", "description", "examples", "default"})


class MethodSchema(msgspec.Struct, array_like=True, frozen=True):
    """One method as its shard has it. `signature` is for people."""

    identifier: int
    digest: str
    signature: str


class ServiceSchema(msgspec.Struct, array_like=True, frozen=True):
    """The body of a schema frame."""

    service: str
    methods: dict[str, MethodSchema]


def digest(names: list[str], parameters: list[Any], result: Any, *, streams: bool) -> str:
    """Of what is sent: the same in every process that runs the same code."""
    try:
        schemas, components = msgspec.json.schema_components([*parameters, result])
        described: Any = _without_remarks([list(schemas), components])
    except TypeError:  # what msgpack takes and JSON cannot describe
        described = [repr(each) for each in (*parameters, result)]
    text = msgspec.json.encode([names, streams, described], order="sorted")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def differences(ours: ServiceSchema, theirs: ServiceSchema, peer: int) -> dict[int, str]:
    """By identifier, what to say to a caller of each method that the two do not have alike."""
    found = {}
    for name in sorted(ours.methods.keys() | theirs.methods.keys()):
        mine, other = ours.methods.get(name), theirs.methods.get(name)
        if mine is None and other is not None:
            found[other.identifier] = f"{name} is not there here, and on shard {peer} it is {name}{other.signature}"
        elif other is None and mine is not None:
            found[mine.identifier] = f"{name} is not there on shard {peer}, and here it is {name}{mine.signature}"
        elif mine is not None and other is not None and mine.digest != other.digest:
            shown = f"{name}{mine.signature} here and {name}{other.signature} on shard {peer}"
            if mine.signature == other.signature:
                shown += ", of types that differ"
            found[mine.identifier] = f"{name} differs: {shown}"
    return {identifier: f"{ours.service}: {text}" for identifier, text in found.items()}


def _without_remarks(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_remarks(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":  # whose keys are names of fields
            kept[key] = {name: _without_remarks(each) for name, each in value.items()}
        elif key not in _REMARKS:
            kept[key] = _without_remarks(value)
    return kept
