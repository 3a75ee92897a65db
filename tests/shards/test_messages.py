from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ControlError
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.protocol._control_channel import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    ControlChannel,
    DescriptorsLost,
    Lent,
)
from clockworker.shards.protocol._messages import (
    AcceptFrom,
    Ahead,
    Begin,
    CeaseFrom,
    Change,
    Configure,
    Connect,
    Disconnect,
    Drained,
    Enclosed,
    Failed,
    Held,
    Hold,
    IsShut,
    Leave,
    Message,
    Moved,
    NotTaken,
    Poisoned,
    Quiet,
    Ready,
    Release,
    Running,
    Serves,
    Shut,
    Stop,
    Taken,
    TakeState,
    Terminated,
    Unconnected,
)
from tests.conftest import Run


@pytest.fixture
def channels() -> Iterator[tuple[ControlChannel, ControlChannel]]:
    pair = ControlChannel.pair()
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
    Stop(for_good=True, grace=1.5, binds=("", "admin")),
    Leave(),
    Ready(serves={"": None, "admin": 5}, services={"app.Store": True}),
    Hold(1, again=True),
    Shut(),
    TakeState(("app.Store",), 9.5),
    Release(1),
    Moved(),
    Held(1),
    IsShut(),
    Running(("Store.put",)),
    Taken(1 << 40),
    NotTaken("Store.take_over() raised", "Traceback"),
    Serves("admin", None),
    AcceptFrom(1, "admin"),
    CeaseFrom(1, ""),
    Failed("it failed", "Traceback …"),
    Drained(),
    Quiet(1),
    Terminated(),
    Poisoned(1, 7),
    Unconnected(1, 7),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was(channels: tuple[ControlChannel, ControlChannel], message: Message) -> None:
    channels[0].send(message)
    assert channels[1].receive() == (message, [])


def test_descriptors_travel_with_their_message_and_are_not_inheritable(
    channels: tuple[ControlChannel, ControlChannel],
) -> None:
    reader, writer = os.pipe()
    channels[0].send(Ready(serves={"": None, "admin": 5}))
    channels[0].send(Connect(1, 1, 1, beside=False), [writer])
    os.close(writer)
    assert channels[1].receive() == (Ready(serves={"": None, "admin": 5}), [])
    received = channels[1].receive()
    assert received is not None
    _, [descriptor] = received
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"through")
    os.close(descriptor)
    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_nothing_to_read_and_the_end(channels: tuple[ControlChannel, ControlChannel]) -> None:
    with pytest.raises(BlockingIOError):
        channels[1].receive()
    channels[0].close()
    assert channels[1].receive() is None
    channels[1].send(Ready(serves={"": None, "admin": 5}))  # into the void, without an error


def test_what_a_stopped_reader_does_not_take_waits_and_keeps_its_order(
    channels: tuple[ControlChannel, ControlChannel],
) -> None:
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


def test_what_the_supervisor_says_may_be_of_any_length(channels: tuple[ControlChannel, ControlChannel]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    config = ServeConfig("x" * (3 * MAX_MESSAGE))
    with open(os.devnull, "rb") as file:
        for count in (0, 5, MAX_DESCRIPTORS, 2 * MAX_DESCRIPTORS + 5):
            channels[0].send(Configure(1, 2, 0, 200, 1, config), [file.fileno()] * count)
            channels[0].send(Begin(), [file.fileno()] * count)
            for expected in (Configure(1, 2, 0, 200, 1, config), Begin()):
                received = channels[1].receive()
                assert received is not None
                message, descriptors = received
                assert message == expected
                assert len(descriptors) == count
                for descriptor in descriptors:
                    os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("message", [Ahead(), Enclosed()])
def test_of_a_shard_no_message_is_longer(channels: tuple[ControlChannel, ControlChannel], message: Message) -> None:
    with pytest.raises(ControlError, match="too large"):
        channels[1].send(Failed("x" * MAX_MESSAGE))
    before = len(os.listdir("/proc/self/fd"))
    with open(os.devnull, "rb") as file:
        channels[1].send(message, [file.fileno()])
    with pytest.raises(ControlError, match="is for shards"):
        channels[0].receive()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_what_the_kernel_is_too_short_of_something_to_take_is_sent_later_and_in_order(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempts = 0
    send_fds = socket.send_fds

    def refuse_some(sock: socket.socket, data: list[bytes], descriptors: list[int]) -> int:
        nonlocal attempts
        attempts += 1
        if attempts % 3:
            raise OSError(number, os.strerror(number))
        return send_fds(sock, data, descriptors)

    monkeypatch.setattr(socket, "send_fds", refuse_some)

    async def body() -> None:
        sender, receiver = ControlChannel.pair()
        flushed = asyncio.Event()
        sender.when_flushed = flushed.set
        for peer in range(4):
            sender.send(Quiet(peer))
        assert sender.backlogged
        await flushed.wait()
        assert [receiver.receive() for _ in range(4)] == [(Quiet(peer), []) for peer in range(4)]
        sender.close()
        receiver.close()

    run(body)


def is_open(descriptor: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{descriptor}")


def test_a_descriptor_that_is_lent_waits_without_a_copy_and_is_open_until_all_have_sent_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_fds = socket.send_fds
    refused = {*()}

    def refuse(sock: socket.socket, data: list[bytes], descriptors: list[int]) -> int:
        if sock.fileno() in refused:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return send_fds(sock, data, descriptors)

    monkeypatch.setattr(socket, "send_fds", refuse)

    async def body() -> None:
        pairs = [ControlChannel.pair() for _ in range(3)]
        refused.update(sender.fileno() for sender, _ in pairs)
        reads, writes = os.pipe()
        lent = Lent(writes)
        before = len(os.listdir("/proc/self/fd"))
        for sender, _ in pairs:
            sender.send(Connect(1, 1, 1, False, 1, True), [lent])
        assert len(os.listdir("/proc/self/fd")) == before
        lent.close()
        pairs[0][0].close()  # what is never sent
        for sender, receiver in pairs[1:]:
            assert is_open(writes)
            refused.discard(sender.fileno())
            sender.flush()
            received = receiver.receive()
            assert received is not None
            [descriptor] = received[1]
            os.write(descriptor, b"x")
            os.close(descriptor)
        assert os.read(reads, 10) == b"xx"
        assert not is_open(writes)
        os.close(reads)
        for pair in pairs:
            for channel in pair:
                channel.close()

    run(body)


def test_a_full_buffer_is_emptied_by_the_loop(run: Run) -> None:
    async def body() -> None:
        sender, receiver = ControlChannel.pair()
        count = 2000
        for peer in range(count):
            sender.send(Quiet(peer))
        received = []
        while len(received) < count:
            try:
                received.append(receiver.receive())
            except BlockingIOError:
                await asyncio.sleep(0)
        assert received == [(Quiet(peer), []) for peer in range(count)]
        sender.close()
        receiver.close()

    run(body)


def test_nonsense_is_an_error_and_its_descriptors_are_closed() -> None:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = ControlChannel(other)
    before = os.listdir("/proc/self/fd")
    for data in (b"\xc1", b"\x81\xa4type\xa4stop" + b"x", b"y" * (MAX_MESSAGE + 1), b"\x81\xa4type\xa5hello"):
        socket.send_fds(raw, [data], [raw.fileno()])
        with pytest.raises(ControlError):
            channel.receive()
        assert os.listdir("/proc/self/fd") == before
    raw.close()
    channel.close()


def test_descriptors_for_which_there_is_no_room_are_told_apart_from_nonsense(
    channels: tuple[ControlChannel, ControlChannel],
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = os.pipe()
    channels[0].send(Connect(1, 7, 1, False), [reader, writer])
    channels[0].send(Ready(serves={"": None, "admin": 5}))
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filled = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                filled.append(os.dup(reader))
        os.close(filled.pop())  # room for one of two
        with pytest.raises(DescriptorsLost, match="no descriptor is left for what Connect brings") as lost:
            channels[1].receive()
        filled.append(os.dup(reader))  # which was closed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in (reader, writer, *filled):
            os.close(descriptor)
    assert lost.value.message == Connect(1, 7, 1, False)
    assert channels[1].receive() == (Ready(serves={"": None, "admin": 5}), [])


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_message_or_a_control_error(data: bytes) -> None:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = ControlChannel(other)
    try:
        raw.send(data)
        assert channel.receive() is not None
    except ControlError:
        pass
    finally:
        raw.close()
        channel.close()
