from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ControlError
from clockworker.shards._config import ServeConfig
from clockworker.shards._control import (
    MAX_MESSAGE,
    AcceptFrom,
    Begin,
    CeaseFrom,
    Change,
    Channel,
    Configure,
    Connect,
    Disconnect,
    Drained,
    Failed,
    Leave,
    Message,
    Poisoned,
    Quiet,
    Ready,
    Serves,
    Stop,
    Terminated,
)


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    pair = Channel.pair()
    yield pair
    for channel in pair:
        channel.close()


MESSAGES: list[Message] = [
    Configure(1, 2, 0, 200, 3, ServeConfig("app:main")),
    Connect(1, 7, 3, beside=True),
    Disconnect(1, beside=False),
    Change(1),
    Begin(),
    Stop(),
    Leave(),
    Ready(serves=True),
    Serves(),
    AcceptFrom(1),
    CeaseFrom(1),
    Failed("it failed", "Traceback …"),
    Drained(),
    Quiet(1),
    Terminated(),
    Poisoned(1, 7),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was(channels: tuple[Channel, Channel], message: Message) -> None:
    channels[0].send(message)
    assert channels[1].receive() == (message, [])


def test_descriptors_travel_with_their_message_and_are_not_inheritable(channels: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    channels[0].send(Ready(serves=True))
    channels[0].send(Connect(1, 1, 1, beside=False), [writer])
    os.close(writer)
    assert channels[1].receive() == (Ready(serves=True), [])
    received = channels[1].receive()
    assert received is not None
    _, [descriptor] = received
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"through")
    os.close(descriptor)
    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_nothing_to_read_and_the_end(channels: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        channels[1].receive()
    channels[0].close()
    assert channels[1].receive() is None
    channels[1].send(Ready(serves=True))  # into the void, without an error


def test_what_a_stopped_reader_does_not_take_waits_and_keeps_its_order(channels: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    count = 2000
    for epoch in range(count):
        channels[0].send(Connect(1, epoch, 1, beside=False), [writer] if epoch == count - 1 else [])
    assert channels[0].backlogged
    os.close(writer)  # the outbox has its own
    received: list[tuple[Message, list[int]]] = []
    while len(received) < count:
        try:
            while (one := channels[1].receive()) is not None:
                received.append(one)
        except BlockingIOError:
            channels[0].flush()
    assert not channels[0].backlogged
    assert [message for message, _ in received] == [Connect(1, epoch, 1, beside=False) for epoch in range(count)]
    [descriptor] = received[-1][1]
    os.write(descriptor, b"x")
    os.close(descriptor)
    os.close(reader)
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_message_over_the_limit_is_refused_by_the_sender(channels: tuple[Channel, Channel]) -> None:
    with pytest.raises(ControlError, match="too large"):
        channels[0].send(Failed("x" * MAX_MESSAGE))


def test_nonsense_is_an_error_and_its_descriptors_are_closed() -> None:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(other)
    before = os.listdir("/proc/self/fd")
    for data in (b"\xc1", b"\x81\xa4type\xa4stop" + b"x", b"y" * (MAX_MESSAGE + 1), b"\x81\xa4type\xa5hello"):
        socket.send_fds(raw, [data], [raw.fileno()])
        with pytest.raises(ControlError):
            channel.receive()
        assert os.listdir("/proc/self/fd") == before
    raw.close()
    channel.close()


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_message_or_a_control_error(data: bytes) -> None:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(other)
    try:
        raw.send(data)
        assert channel.receive() is not None
    except ControlError:
        pass
    finally:
        raw.close()
        channel.close()
