# SPDX-License-Identifier: GPL-2.0-or-later
"""A reader that mixes recv() and splice(): both ends get an error, and no stream is short or in another order."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon
from tests.support.traffic import Pair, exchange, pair, read, write

HEADER, BODY, REST = b'h' * 64, b'b' * 936, b'r' * 1000
# What an aborted connection answers.
ABORTED = (errno.ECONNABORTED, errno.ECONNRESET)


@pytest.fixture(autouse=True)
def _takes_watchers(daemon: Daemon) -> None:
    if 'splice' in harness.every_issue():
        pytest.skip('this kernel takes no watchers')


def can_abort() -> bool:
    return not any('bpf_sock_destroy' in row['sentence'] for row in harness.call('ListFindings'))


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def splice(reader: socket.socket, into: int) -> int:
    """How many bytes, or the errno less than 0."""
    try:
        return os.splice(reader.fileno(), into, 65536)
    except OSError as exc:
        return -(exc.errno or 0)


def send(sender: socket.socket, data: bytes) -> int:
    try:
        return sender.send(data)
    except OSError as exc:
        return -(exc.errno or 0)


def left_unread(made: Pair) -> None:
    """Send a header and a body in one redirected message, of which the server reads the header alone."""

    def redirected() -> bool:
        exchange(made, rounds=1)
        before = traffic.sent_by_tcp(made)
        exchange(made, rounds=1)
        return traffic.sent_by_tcp(made) == before

    harness.wait_until(redirected, 'messages are redirected')
    write(made.client, HEADER + BODY)
    assert read(made.server, len(HEADER)) == HEADER


def broken() -> int:
    return int(harness.call('Stats')['connection_reason_splice_unread'])


def test_both_ends_get_an_error(target: Cgroup, daemon: Daemon) -> None:
    before, mark = broken(), len(daemon.log_text)
    with pair(target) as made, pair(target) as other, pipe() as (_out, into):
        left_unread(made)
        # It does not find them, and not what comes after them either.
        assert splice(made.server, into) == -errno.EAGAIN
        refused = send(made.client, REST)
        assert -refused in (errno.EACCES, errno.EPIPE, *ABORTED)
        assert broken() == before + 1
        if can_abort():
            harness.wait_until(lambda: splice(made.server, into) != -errno.EAGAIN, 'the reader gets an error')
            with pytest.raises(ConnectionError):
                made.client.recv(1)
            # It is told once.
            assert splice(made.server, into) in (0, *(-each for each in ABORTED))
        else:
            assert splice(made.server, into) == -errno.EAGAIN
            assert read(made.server, len(BODY)) == BODY
        harness.wait_until(
            lambda: f'of "{target.path}" reads' in daemon.log_text[mark:], 'the journal tells of it'
        )
        line = next(line for line in daemon.log_text[mark:].splitlines() if ' by splice() while ' in line)
        assert Path('/proc/self/comm').read_text().strip() in line
        # Nobody else's connection is aborted.
        exchange(other)


def test_the_error_of_the_reader(target: Cgroup) -> None:
    """Before it has tried anything else."""
    if not can_abort():
        pytest.skip('this kernel cannot abort a connection')
    with pair(target) as made, pipe() as (_out, into):
        left_unread(made)
        found = [splice(made.server, into)]

        def ended() -> bool:
            found.append(splice(made.server, into))
            return found[-1] != -errno.EAGAIN

        harness.wait_until(ended, 'the reader gets an error')
        assert -found[-1] in ABORTED
        assert not any(each >= 0 for each in found)


def test_what_comes_next_does_not_overtake(target: Cgroup) -> None:
    """The sender has no error of its own before: its message would be found by splice(), and the body not."""
    with pair(target) as made, pipe() as (_out, into):
        left_unread(made)
        splice(made.server, into)
        assert send(made.client, REST) < 0
        assert splice(made.server, into) <= 0
