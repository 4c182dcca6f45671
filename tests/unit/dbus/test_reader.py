# SPDX-License-Identifier: GPL-2.0-or-later
"""A message that cannot be read, or is too long, costs neither the connection nor the message after it."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from dbus_next.signature import SignatureTree

from sockaccel.dbus.inbox import Frame, Inbox
from tests.support.messages import raw

SENDER, FDS = b'\7\1s\0', b'\x09\1u\0'


@contextlib.contextmanager
def wire(*, takes_fds: bool = False) -> Iterator[tuple[socket.socket, Inbox]]:
    broker, daemon = socket.socketpair()
    with broker, daemon:
        daemon.setblocking(False)
        inbox = Inbox(daemon, takes_fds=takes_fds)
        yield broker, inbox
        inbox.close()


@pytest.mark.parametrize(
    ('message', 'member'),
    [
        pytest.param(raw('Stats', kind=77), None, id='unknown type'),
        pytest.param(raw('Stats', extra=b'\xc8\x01y\0\x01'), None, id='unknown field'),
        pytest.param(
            raw('Enable', signature='as', body=struct.pack('<I', 1 << 30)), 'Enable', id='beyond the end'
        ),
        pytest.param(raw('Enable', signature='s', body=b'\2\0\0\0\xff\xfe\0'), 'Enable', id='not UTF-8'),
        pytest.param(raw('Enable', signature='v' * 3, body=bytes(40)), 'Enable', id='variants of nothing'),
    ],
)
def test_the_next_message_is_read_as_if_nothing_had_been(message: bytes, member: str | None) -> None:
    with wire() as (broker, inbox):
        broker.sendall(message[:20])
        assert inbox.receive() == []
        broker.sendall(message[20:] + raw('Next'))
        frame, following = inbox.receive()
        read, unreadable = frame.read()
        assert read.member == member
        assert unreadable
        read, unreadable = following.read()
        assert read.member == following.member == 'Next'
        assert not unreadable


@pytest.mark.parametrize('size', [100_000, 10_000_000])
def test_the_body_of_a_long_call_is_thrown_away_as_it_comes(size: int) -> None:
    long, sent = raw('Enable', signature='ay', body=bytes(size)) + raw('Next'), 0
    with wire() as (broker, inbox):
        broker.setblocking(False)
        frames: list[Frame] = []
        while len(frames) < 2:
            with contextlib.suppress(BlockingIOError):
                sent += broker.send(long[sent:]) if sent < len(long) else 0
            frames += inbox.receive()
            assert len(inbox._buffer) <= 65536
        first, second = frames
    assert first.read()[0].member == 'Enable'
    assert first.read()[1] == 'the message is too long'
    assert second.member == 'Next'


def test_a_header_that_is_too_long_is_thrown_away() -> None:
    with wire() as (broker, inbox):
        long = raw('Enable', path='/' + 'x' * 70000)
        broker.sendall(long + raw('Next'))
        frames = [*inbox.receive(), *inbox.receive()]
    assert [frame.member for frame in frames] == ['Next']


@pytest.mark.parametrize('order', ['<', '>'])
def test_what_is_known_without_reading_it(order: str) -> None:
    sender = SENDER + struct.pack(order + 'I', 4) + b':1.7\0'
    with wire() as (broker, inbox):
        broker.sendall(raw('Stats', order=order, flags=1, extra=sender))
        (frame,) = inbox.receive()
    assert (frame.sender, frame.member, frame.serial) == (':1.7', 'Stats', 7)
    assert (frame.path, frame.interface) == ('/org/sockaccel1', 'org.sockaccel1.Manager')
    assert not frame.wants_reply
    assert frame.read()[0].sender == ':1.7'


def test_descriptors_belong_to_the_message_that_names_them() -> None:
    two = FDS + struct.pack('<I', 2)
    here, there = os.pipe()
    with wire(takes_fds=True) as (broker, inbox):
        broker.sendall(raw('One'))
        socket.send_fds(broker, [raw('Two', extra=two)], [here, there])
        socket.send_fds(broker, [raw('Half', extra=two)[:30]], [here])
        frames = [*inbox.receive(), *inbox.receive()]
        assert [(frame.member, len(frame.fds)) for frame in frames] == [('One', 0), ('Two', 2)]
        assert all(not os.get_inheritable(fd) for fd in frames[1].fds)
        frames[1].close_fds()
    os.close(here)
    os.close(there)


def test_descriptors_that_nobody_wants_are_closed_by_the_kernel() -> None:
    here, there = os.pipe()
    with wire() as (broker, inbox):
        socket.send_fds(broker, [raw('One', extra=FDS + struct.pack('<I', 1))], [there])
        os.close(there)
        (frame,) = inbox.receive()
        assert frame.fds == []
        # Its last descriptor is closed: at once, as nobody else has it.
        assert os.read(here, 1) == b''
    os.close(here)


def test_new_signatures_without_end_take_no_endless_memory() -> None:
    cache = SignatureTree._cache
    before = len(cache)
    for number in range(3000):
        SignatureTree._get(''.join('ybnqiuxtds'[int(digit)] for digit in str(number)))
    assert before < 3000
    assert len(cache) <= 1024
