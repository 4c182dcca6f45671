# SPDX-License-Identifier: GPL-2.0-or-later
"""How kernel objects and failures pass from one process to another."""

import os
from collections.abc import Iterator

import pytest

from sockaccel import errors
from sockaccel.errors import SockaccelError
from sockaccel.kernel import handover


def kinds() -> Iterator[type[SockaccelError]]:
    """Every class of errors.py."""
    pending = [SockaccelError]
    while pending:
        kind = pending.pop()
        yield kind
        pending += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]


@pytest.mark.parametrize('kind', kinds(), ids=lambda kind: kind.__name__)
def test_a_failure_keeps_its_kind_and_words(kind: type[SockaccelError]) -> None:
    ours, theirs = handover.channel()
    with ours, theirs:
        handover.send_failure(theirs, kind('what is wrong'))
        with pytest.raises(SockaccelError, match='^what is wrong$') as raised:
            handover.receive(ours)
    assert type(raised.value) is kind


def test_fds_arrive_by_name_after_their_sender_has_ended() -> None:
    ours, theirs = handover.channel()
    with ours:
        read_end, write_end = os.pipe()
        with theirs:
            handover.send(theirs, {'sa_first': read_end, 'sa_second': write_end})
        os.close(read_end)
        os.close(write_end)
        received = handover.receive(ours)
    assert not any(os.get_inheritable(fd) for fd in received.values())
    os.write(received['sa_second'], b'x')
    assert os.read(received['sa_first'], 1) == b'x'
    for fd in received.values():
        os.close(fd)


def test_an_end_without_a_message_is_told() -> None:
    ours, theirs = handover.channel()
    with ours:
        theirs.close()
        with pytest.raises(EOFError):
            handover.receive(ours)
