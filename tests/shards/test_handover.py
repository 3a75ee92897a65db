"""The line on which a shard gets connections, with two who read it at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from clockworker.shards.protocol import _handover
from clockworker.shards.protocol._handover import Handover, receive


@pytest.fixture
def handover() -> Iterator[Handover]:
    handover = Handover()
    yield handover
    handover.close()


def give(handover: Handover, count: int) -> list[socket.socket]:
    """The clients' ends of so many connections."""
    clients = []
    for number in range(count):
        client, connection = socket.socketpair()
        with connection:
            assert handover.give(connection)
        client.sendall(b"%d" % number)
        clients.append(client)
    return clients


def number_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(10))


def test_connections_arrive_in_order(handover: Handover) -> None:
    clients = give(handover, 3)
    assert [number_of(receive(handover.shard_end)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BlockingIOError):
        receive(handover.shard_end)
    for client in clients:
        assert client.recv(10) == b"", "nobody else has it"
        client.close()


def test_what_is_taken_back_has_not_been_given(handover: Handover) -> None:
    clients = give(handover, 2)
    assert number_of(receive(handover.shard_end)) == 0
    taken = handover.take_back()
    assert taken is not None
    assert number_of(taken) == 1
    assert handover.take_back() is None
    assert handover.given == 1
    for client in clients:
        client.close()


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_who_read_at_once_each_has_a_connection_of_its_own(
    handover: Handover, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The supervisor takes one back just when the shard has looked at it."""
    clients = give(handover, count)
    plain = _handover._receive
    stolen: list[int] = []

    def steal_after_the_look(shard_end: socket.socket, flags: int) -> tuple[bytes, socket.socket | None]:
        found = plain(shard_end, flags)
        if flags:
            monkeypatch.setattr(_handover, "_receive", plain)
            connection = handover.take_back()
            assert connection is not None
            stolen.append(number_of(connection))
        return found

    monkeypatch.setattr(_handover, "_receive", steal_after_the_look)
    if count == 1:
        with pytest.raises(BlockingIOError):
            receive(handover.shard_end)
    else:
        assert number_of(receive(handover.shard_end)) == 1
    assert stolen == [0]
    for client in clients:
        assert client.recv(10) == b""
        client.close()


def test_without_a_descriptor_it_stays_on_the_line(handover: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = give(handover, 1)
    plain = _handover._receive

    def without(shard_end: socket.socket, flags: int) -> tuple[bytes, socket.socket | None]:
        number, connection = plain(shard_end, flags)
        if connection is not None:
            connection.close()
        return number, None

    monkeypatch.setattr(_handover, "_receive", without)
    with pytest.raises(OSError, match="Too many open files"):
        receive(handover.shard_end)
    monkeypatch.setattr(_handover, "_receive", plain)
    assert number_of(receive(handover.shard_end)) == 0
    clients[0].close()


def test_what_was_looked_at_counts_where_there_is_no_descriptor_for_it_again(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = give(handover, 1)
    plain = _handover._receive

    def once(shard_end: socket.socket, flags: int) -> tuple[bytes, socket.socket | None]:
        number, connection = plain(shard_end, flags)
        if not flags and connection is not None:
            connection.close()
            connection = None
        return number, connection

    monkeypatch.setattr(_handover, "_receive", once)
    assert number_of(receive(handover.shard_end)) == 0
    clients[0].close()
