# SPDX-License-Identifier: GPL-2.0-or-later
"""A message that cannot be read, or is too long, costs neither the connection nor the message after it."""

import socket
import struct

import pytest
from dbus_next.signature import SignatureTree

from sockaccel.dbus.reader import Reader
from tests.support.messages import raw


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
        pytest.param(raw('Enable', signature='ay', body=bytes(100_000)), 'Enable', id='too long'),
    ],
)
def test_the_next_message_is_read_as_if_nothing_had_been(message: bytes, member: str | None) -> None:
    broker, daemon = socket.socketpair()
    with broker, daemon, daemon.makefile('rwb') as stream:
        daemon.setblocking(False)
        broker.sendall(message[:20])
        reader = Reader(stream)
        assert reader.unmarshall() is None
        broker.sendall(message[20:] + raw('Next'))
        read = reader.unmarshall()
        assert read
        assert read.member == member
        assert reader.unreadable
        following = Reader(stream)
        read = following.unmarshall()
        assert read
        assert read.member == 'Next'
        assert not following.unreadable


def test_new_signatures_without_end_take_no_endless_memory() -> None:
    cache = SignatureTree._cache
    before = len(cache)
    for number in range(3000):
        SignatureTree._get(''.join('ybnqiuxtds'[int(digit)] for digit in str(number)))
    assert before < 3000
    assert len(cache) <= 1024
