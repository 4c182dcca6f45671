# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that leave the map for a while, because nearly all that they send goes by TCP, and come back."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from dbus_next import Variant

from tests.support import harness, traffic
from tests.support.harness import Cgroup
from tests.support.tracing import Trace
from tests.support.traffic import Pair, exchange, no_delay, read, write

# bpf/lib/ends.c, PAUSE_MESSAGES
MESSAGES = 2048
# bpf/verdict.c, SMALL_MESSAGE, less what is no multiple of five
SMALL, LARGE = 16380, 16390
# bpf/lib/types.h, DUE_SHIFT: the programs keep the end of a pause in whole units of this, rounded down.
UNIT_S = 2**20 / 1e9
TCP_CORK = 3
Stats = Callable[[], dict[str, int]]


@pytest.fixture
def stats(own_daemon: Cgroup) -> Stats:
    return lambda: dict(harness.call('Stats'))


@pytest.fixture
def root(own_daemon: Cgroup) -> Cgroup:
    harness.enable(own_daemon.path, *harness.every_issue())
    return own_daemon


def by_tcp(sender: socket.socket, message: bytes) -> None:
    """Send a message that is not redirected, whatever its reader has read."""
    sender.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 1)
    write(sender, message)
    sender.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 0)
    no_delay(sender)


def fall_behind(sender: socket.socket, reader: socket.socket, size: int = 5) -> None:
    """A stream whose reader always leaves one message unread, until the map costs more than it gains."""
    before = b'first'
    by_tcp(sender, before)
    for number in range(MESSAGES + 1):
        message = b'%05d' % number * (size // 5)
        write(sender, message)
        assert read(reader, len(before)) == before
        before = message
    assert read(reader, len(before)) == before


def ends(made: Pair) -> set[tuple[int, int]]:
    return {traffic.ports(made.client), traffic.ports(made.server)}


def fall_behind_by(sender: socket.socket, count: int) -> None:
    """Messages that go by TCP and stay unread."""
    by_tcp(sender, b'unread')
    for _message in range(count - 1):
        write(sender, b'unread')


def reasons(made: Pair) -> set[str]:
    """Why the connection goes by TCP, of both ends."""
    wanted = {'port': Variant('q', made.server.getsockname()[1])}
    rows, *_rest = harness.call('ListConnections', 'a{sv}tt', wanted, 0, 0)
    return {row[key] for row in rows for key in ('client_reason', 'server_reason')}


def leaves(made: Pair) -> None:
    harness.wait_until(lambda: not ends(made) & traffic.members(), 'both ends leave the map')


def comes_back(made: Pair) -> None:
    harness.wait_until(lambda: ends(made) <= traffic.members(), 'both ends come back')
    # The first message of each direction goes by TCP.
    exchange(made, rounds=1)


def lasted(trace: Trace, made: Pair, count: int) -> list[float]:
    """How many seconds each of so many pauses lasted, by the kernel's clock, for the end that came back first."""

    def moves(lines: list[str]) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in lines]
        ours = [event for event in events if (event['local_port'], event['remote_port']) in ends(made)]
        return sorted(
            (event for event in ours if event['kind'] in ('joined', 'evicted')), key=lambda event: event['time_ns']
        )

    # Both ends join; then for each pause both leave and both join again.
    trace.wait_until(lambda lines: len(moves(lines)) == 2 + 4 * count, 'event for each move')
    seconds = []
    for pause in range(count):
        first, second, back, _last = moves(trace.lines)[2 + 4 * pause :][:4]
        assert first['kind'] == second['kind'] == 'evicted'
        assert back['kind'] == 'joined'
        left = first if first['local_port'] == back['local_port'] else second
        seconds.append((back['time_ns'] - left['time_ns']) / 1e9)
    return seconds


@pytest.mark.parametrize(
    ('sender', 'size', 'pauses'), [('client', SMALL, [8]), ('server', LARGE, [1, 2]), ('client', LARGE, [1])]
)
def test_a_reader_that_never_catches_up_costs_the_map_and_not_the_stream(
    root: Cgroup, stats: Stats, sender: str, size: int, pauses: list[int]
) -> None:
    with Trace('--json') as trace, traffic.pair(root) as made:
        one, other = getattr(made, sender), made.server if sender == 'client' else made.client
        for _pause in pauses:
            fall_behind(one, other, size)
            leaves(made)
            exchange(made)
            comes_back(made)
            before = stats()
            exchange(made, rounds=10)
            assert stats()['redirected_messages'] - before['redirected_messages'] == 20
        for seconds, pause in zip(lasted(trace, made, len(pauses)), pauses, strict=True):
            assert seconds >= pause - UNIT_S
        # Each connection once, however often it leaves.
        assert stats()['connection_reason_paused'] == stats()['connections'] == 1


@pytest.mark.parametrize('sender', ['client', 'server'])
def test_a_stream_of_small_messages_leaves_too(root: Cgroup, stats: Stats, sender: str) -> None:
    with traffic.pair(root) as made:
        one, other = getattr(made, sender), made.server if sender == 'client' else made.client
        no_delay(one, on=False)
        for number in range(3):
            message = bytes([number]) * 5
            for _message in range(1000):
                write(one, message)
            assert read(other, 5000) == message * 1000
        leaves(made)
        comes_back(made)
    assert stats()['connection_reason_paused'] == 1


def test_an_end_with_unread_bytes_stays_and_the_other_one_waits_for_it(root: Cgroup, stats: Stats) -> None:
    with traffic.pair(root) as made:
        write(made.client, b'redirected')
        fall_behind_by(made.client, MESSAGES + 1)
        server, client = traffic.ports(made.server), traffic.ports(made.client)
        harness.wait_until(lambda: client not in traffic.members(), 'the sender leaves')
        with traffic.pair(root) as another:
            fall_behind(another.client, another.server)
            leaves(another)
            comes_back(another)
        # That took as long as its own pause.
        assert server in traffic.members()
        assert client not in traffic.members()
        expected = b'redirected' + b'unread' * (MESSAGES + 1)
        assert read(made.server, len(expected)) == expected
        leaves(made)
        # By the pause of the end that left last, although the other one's goes on: before somebody's whose pause
        # begins later. Who joins after that shows that all ends were looked at again.
        with traffic.pair(root) as later:
            fall_behind(later.client, later.server)
            leaves(later)
            comes_back(later)
        with traffic.pair(root):
            assert ends(made) <= traffic.members()
        exchange(made, rounds=1)
        before = stats()
        exchange(made, rounds=10)
        assert stats()['redirected_messages'] - before['redirected_messages'] == 20


def test_disabled_in_its_pause_it_is_adopted_when_its_target_is_enabled_again(root: Cgroup, stats: Stats) -> None:
    with traffic.pair(root) as made:
        fall_behind(made.client, made.server)
        leaves(made)
        harness.call('Disable', 's', root.path)
        harness.enable(root.path, *harness.every_issue())
        harness.wait_until(lambda: ends(made) <= traffic.members(), 'it joins again')
        exchange(made)


def test_disabled_before_its_pause_it_drains(root: Cgroup, stats: Stats) -> None:
    """Its reader has unread bytes when it shall pause, and reads them when nothing is enabled any more."""
    with traffic.pair(root) as made:
        write(made.client, b'redirected')
        fall_behind_by(made.client, MESSAGES + 1)
        harness.wait_until(lambda: traffic.ports(made.client) not in traffic.members(), 'the sender leaves')
        harness.call('Disable', 's', root.path)
        assert reasons(made) == {'drained'}
        expected = b'redirected' + b'unread' * (MESSAGES + 1)
        assert read(made.server, len(expected)) == expected
        # What it sends says that it can leave now.
        write(made.server, b'answer')
        leaves(made)
        assert read(made.client, 6) == b'answer'


def test_closed_in_its_pause_it_is_forgotten(root: Cgroup, stats: Stats) -> None:
    with traffic.pair(root) as made:
        fall_behind(made.client, made.server)
        leaves(made)
    before = stats()
    assert before['connection_reason_paused'] == 1
    assert before['connection_reason_short'] == 0
    assert before['connections_closed'] == 2

    def none_is_listed() -> bool:
        rows, *_rest = harness.call('ListConnections', 'a{sv}tt', {}, 0, 0)
        return not rows

    harness.wait_until(none_is_listed, 'the connection is forgotten')


def test_messages_before_a_pause_have_a_reason_of_their_own(root: Cgroup, stats: Stats) -> None:
    with traffic.pair(root) as made:
        write(made.client, b'redirected')
        fall_behind_by(made.client, MESSAGES + 1)
        harness.wait_until(lambda: traffic.ports(made.client) not in traffic.members(), 'the sender leaves')
        # The reader's end is marked, and stays a member while it has unread bytes.
        before = stats()
        write(made.server, b'answer')
        assert read(made.client, 6) == b'answer'
        after = stats()
        assert after['message_reason_leaving'] == before['message_reason_leaving'] + 1
        assert after['message_reason_switched_off'] == 0
        harness.call('Disable', 's', root.path)
        write(made.server, b'answer')
        assert read(made.client, 6) == b'answer'
        assert stats()['message_reason_switched_off'] == 1
        assert stats()['message_reason_leaving'] == after['message_reason_leaving']
