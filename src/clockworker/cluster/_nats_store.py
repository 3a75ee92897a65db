"""The store of NATS, JetStream, asked by messages in JSON: one stream, which a client of its key-value stores sees as such a
one. Reads are the leader's: a replica may have an old copy."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Protocol

import msgspec

from clockworker.cluster import _nats_protocol as protocol
from clockworker.cluster._nats_protocol import Message
from clockworker.cluster._wire import Entry, NobodyAnswers, WireError

_NOT_FOUND = 404
_NO_STREAM = 10059
_WRONG_LAST = (10071, 10164)
_EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"


class Asks(Protocol):
    """The connection."""

    async def request(self, subject: str, body: bytes, head: Mapping[str, str] | None = None) -> Message:
        """The first answer. Raises `WireError` if there is none."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Stored(msgspec.Struct):
    seq: int = 0
    data: str = ""  # in base64, as are its head's lines
    hdrs: str = ""


class _Answer(msgspec.Struct):
    """To all that is asked: what of it is there is another thing each time."""

    error: _Error | None = None
    message: _Stored | None = None
    seq: int = 0


_DECODER = msgspec.json.Decoder(_Answer)


class NatsBucket:
    """connection: over which it is asked. name: of the bucket, which exists. replicas: on how many servers."""

    def __init__(self, connection: Asks, name: str, replicas: int) -> None:
        self._connection = connection
        self._name = name
        self._replicas = replicas

    async def get(self, key: str) -> Entry | None:
        """What is there; None if nothing is. What was deleted by hand is empty, and has the revision of that."""
        asked = msgspec.json.encode({"last_by_subj": f"$KV.{self._name}.{key}"})
        answer = await _ask(self._connection, f"$JS.API.STREAM.MSG.GET.KV_{self._name}", asked)
        if answer.error is not None and answer.error.code == _NOT_FOUND:
            if answer.error.err_code == _NO_STREAM:  # it was removed while we were connected
                await _make(self._connection, self._name, self._replicas)
            return None
        found = _without_error(answer).message
        if found is None:
            raise WireError("the server has answered with neither a message nor an error")
        head = protocol.lines_of(base64.b64decode(found.hdrs))
        deleted = head.get("KV-Operation") in ("DEL", "PURGE")
        return Entry(b"" if deleted else base64.b64decode(found.data), found.seq)

    async def update(self, key: str, value: bytes, last: int) -> int | None:
        """Write if `last` is the revision that is there, 0 if nothing may be; the new revision; None: another wrote."""
        answer = await _ask(self._connection, f"$KV.{self._name}.{key}", value, {_EXPECTED_LAST: str(last)})
        if answer.error is not None and answer.error.err_code in _WRONG_LAST:
            return None
        written = _without_error(answer).seq
        if written <= 0:
            raise WireError("the server has not said at which revision it has written")
        return written


async def open_bucket(connection: Asks, name: str, replicas: int) -> NatsBucket:
    """Made, if it is not there: in a file, with one value a key, on so many servers."""
    answer = await _ask(connection, f"$JS.API.STREAM.INFO.KV_{name}", b"")
    if answer.error is not None and answer.error.code == _NOT_FOUND:
        await _make(connection, name, replicas)
    else:
        _without_error(answer)
    return NatsBucket(connection, name, replicas)


async def _make(connection: Asks, name: str, replicas: int) -> None:
    stream = msgspec.json.encode(
        {
            "name": f"KV_{name}",
            "subjects": [f"$KV.{name}.>"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": False,
        }
    )
    _without_error(await _ask(connection, f"$JS.API.STREAM.CREATE.KV_{name}", stream))


async def _ask(connection: Asks, subject: str, body: bytes, head: Mapping[str, str] | None = None) -> _Answer:
    try:
        answer = await connection.request(subject, body, head)
    except NobodyAnswers as error:
        if subject.startswith("$JS."):
            raise WireError("the server has no JetStream, which keeps the view; start it with -js") from error
        raise
    try:
        return _DECODER.decode(answer.body)
    except msgspec.MsgspecError:
        raise WireError(f"the server's answer to {subject} cannot be read: {answer.body[:80]!r}") from None


def _without_error(answer: _Answer) -> _Answer:
    if answer.error is not None:
        raise WireError(f"the server's store: {answer.error.description or answer.error.code}")
    return answer
