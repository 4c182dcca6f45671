# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of accelerated connections: redirected where that is safe, by TCP where it is not, always in order."""

import errno
import select
import socket
from collections.abc import Callable

import pytest

from tests.support import harness, network, traffic
from tests.support.harness import Cgroup
from tests.support.patience import PATIENCE_S
from tests.support.traffic import FAMILIES, Pair, accelerate, exchange, fill, no_delay, pair, read, write

Stats = Callable[[], dict[str, int]]
TCP_CORK, TCP_FASTOPEN, TCP_DEFER_ACCEPT = 3, 23, 9
SO_PEEK_OFF, SO_ZEROCOPY = 42, 60


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Callable[[], dict[str, int]]:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


@pytest.mark.parametrize('family', FAMILIES)
def test_messages_are_redirected_both_ways(target: Cgroup, stats: Stats, family: str) -> None:
    with pair(target, family) as made:
        exchange(made)
        before = stats()
        exchange(made, rounds=50)
        after = stats()
    assert after['redirected_messages'] - before['redirected_messages'] == 100
    assert after['redirected_bytes'] - before['redirected_bytes'] == 400
    assert after['tcp_messages'] == before['tcp_messages']
    assert after['connections'] == 1


@pytest.mark.parametrize('size', [1, 1000, 65536, 1 << 20])
def test_every_byte_arrives_once_and_in_order(target: Cgroup, stats: Stats, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    with pair(target) as made:
        exchange(made)
        for _message in range(20):
            _send_while_reading(made, data)
    assert stats()['redirected_bytes'] > 10 * size


def _send_while_reading(made: traffic.Pair, data: bytes) -> None:
    got, view = bytearray(), memoryview(data)
    while len(got) < len(data):
        readable, writable, _ = select.select([made.server], [made.client] if view else [], [], PATIENCE_S)
        assert readable or writable
        if writable:
            view = view[made.client.send(view) :]
        if readable:
            got += made.server.recv(1 << 20)
    assert bytes(got) == data


def test_data_that_tcp_carried_stays_before_redirected_data(target: Cgroup, stats: Stats) -> None:
    with pair(target) as made:
        exchange(made)
        made.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2)
        write(made.client, b'by TCP;')
        made.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        write(made.client, b'not yet redirected;')
        assert read(made.server, 26) == b'by TCP;not yet redirected;'
        write(made.client, b'redirected')
        assert read(made.server, 10) == b'redirected'
    counted = stats()
    assert counted['message_reason_low_water'] == 1
    assert counted['message_reason_order'] >= 1


@pytest.mark.parametrize('family', FAMILIES)
def test_data_before_accept_comes_first(target: Cgroup, stats: Stats, family: str) -> None:
    with target.inside(), traffic.listen(family) as listener:
        client = socket.socket(socket.AF_INET6 if family == 'ipv6' else socket.AF_INET)
        client.connect(traffic.address_of(listener, family))
        client.setblocking(False)
        no_delay(client)
        write(client, b'first;')
        server, _address = listener.accept()
    with client, server:
        server.setblocking(False)
        harness.wait_until(lambda: stats()['connections'] == 1, 'the connection joins')
        write(client, b'second;')
        assert read(server, 13) == b'first;second;'
        write(client, b'third')
        assert read(server, 5) == b'third'
    counted = stats()
    assert counted['message_reason_order'] == 1
    assert counted['redirected_bytes'] == 5


def test_defer_accept_keeps_the_order(target: Cgroup, stats: Stats) -> None:
    with target.inside(), traffic.listen() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, 5)
        with socket.create_connection(listener.getsockname()) as client:
            client.setblocking(False)
            no_delay(client)
            for message in (b'1', b'2', b'3'):
                write(client, message)
            server, _address = listener.accept()
            with server:
                server.setblocking(False)
                made = Pair(client, server)
                harness.wait_until(lambda: traffic.is_member(client) and traffic.is_member(server), 'both join')
                write(client, b'4')
                assert read(server, 4) == b'1234'
                accelerate(made)
                redirected = stats()['redirected_bytes']
                write(client, b'5')
                assert read(server, 1) == b'5'
                assert stats()['redirected_bytes'] == redirected + 1


def test_both_sides_write_first(target: Cgroup) -> None:
    with pair(target) as made:
        write(made.client, b'from the client')
        write(made.server, b'from the server')
        assert read(made.server, 15) == b'from the client'
        assert read(made.client, 15) == b'from the server'


def test_a_sleeping_reader_stops_its_sender_as_with_tcp(target: Cgroup, stats: Stats) -> None:
    with pair(None) as plain:
        exchange(plain)
        accepted_by_tcp = fill(plain.client)
    with pair(target) as made:
        exchange(made)
        accepted = fill(made.client)
        buffers = made.server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) + (4 << 20)
        assert len(read(made.server, accepted)) == accepted
    assert accepted_by_tcp / 2 < accepted < 2 * accepted_by_tcp
    assert accepted < 2 * buffers
    assert stats()['message_reason_backlog'] >= 1


def _dropped_while_late(target: Cgroup, receive_buffer: int, message: int) -> int:
    """Fill a receive buffer of a fixed size, then read all; returns how many times the kernel dropped segments."""
    before = network.dropped()
    with target.inside(), traffic.listen() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made = traffic.connect(listener)
    accelerate(made)
    accepted = fill(made.client, message)
    assert len(read(made.server, accepted)) == accepted
    made.close()
    return network.dropped() - before


@pytest.mark.parametrize('receive_buffer', [32768, 262144, 1 << 20])
@pytest.mark.parametrize('message', [1000, 30000, 100000])
def test_what_waits_for_a_slow_reader_is_not_dropped(target: Cgroup, receive_buffer: int, message: int) -> None:
    """Bytes inside TCP's window must find room beside redirected ones."""
    with network.namespace() as pool:
        assert pool.submit(_dropped_while_late, target, receive_buffer, message).result() == 0


@pytest.mark.parametrize('option', ['SO_RCVLOWAT', 'SO_PEEK_OFF', 'SO_ZEROCOPY', 'TCP_CORK'])
def test_an_option_that_a_redirect_would_ignore_is_left_to_tcp(target: Cgroup, stats: Stats, option: str) -> None:
    reasons = {
        'SO_RCVLOWAT': ('server', socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2, 'low_water'),
        'SO_PEEK_OFF': ('server', socket.SOL_SOCKET, SO_PEEK_OFF, 0, 'peek_offset'),
        'SO_ZEROCOPY': ('client', socket.SOL_SOCKET, SO_ZEROCOPY, 1, 'zerocopy'),
        'TCP_CORK': ('client', socket.IPPROTO_TCP, TCP_CORK, 1, 'cork'),
    }
    end, level, name, value, reason = reasons[option]
    with pair(target) as made:
        exchange(made)
        getattr(made, end).setsockopt(level, name, value)
        before = stats()
        write(made.client, b'message')
        after = stats()
        if option == 'TCP_CORK':
            made.client.setsockopt(level, name, 0)
        assert read(made.server, 7) == b'message'
    assert after['redirected_messages'] == before['redirected_messages']
    assert after[f'message_reason_{reason}'] - before[f'message_reason_{reason}'] == 1


def test_small_writes_of_a_stream_are_coalesced_by_tcp(target: Cgroup, stats: Stats) -> None:
    with pair(target) as made:
        exchange(made)
        no_delay(made.client, on=False)
        for _message in range(10):
            write(made.client, b'small')
        assert read(made.server, 50) == b'small' * 10
    assert stats()['message_reason_coalesce'] >= 1


def test_bursts_of_small_messages_with_answers_stay_in_the_map(target: Cgroup, stats: Stats) -> None:
    with pair(target) as made:
        exchange(made)
        no_delay(made.client, on=False)
        for _burst in range(600):
            for _message in range(5):
                write(made.client, b'small')
            assert read(made.server, 25) == b'small' * 5
            write(made.server, b'answer')
            assert read(made.client, 6) == b'answer'
        assert stats()['message_reason_coalesce'] >= 500
        assert {traffic.ports(made.client), traffic.ports(made.server)} <= traffic.members()


def test_after_shutdown_a_send_gives_epipe(target: Cgroup) -> None:
    for cgroup in (None, target):
        with pair(cgroup) as made:
            exchange(made)
            made.client.shutdown(socket.SHUT_WR)
            # Only now would a redirect be in order.
            assert read(made.server, 1) == b''
            with pytest.raises(BrokenPipeError):
                made.client.send(b'too late')
            write(made.server, b'still open')
            assert read(made.client, 10) == b'still open'


def _sends_after_close(cgroup: Cgroup | None) -> list[str]:
    """What send() gives, three times, after the peer has closed, as errno names."""
    results = []
    with pair(cgroup) as made:
        exchange(made)
        made.server.close()
        for _attempt in range(3):
            try:
                results.append(str(made.client.send(b'x')))
            except OSError as exc:
                results.append(errno.errorcode[exc.errno or 0])
            # The answer to the first send is a reset; it is there when the socket is readable.
            select.select([made.client], [], [], PATIENCE_S)
    return results


def test_a_send_to_a_closed_peer_gives_what_tcp_gives(target: Cgroup) -> None:
    plain, accelerated = _sends_after_close(None), _sends_after_close(target)
    assert accelerated == plain
    assert 'EACCES' not in accelerated


def test_write_then_close_loses_nothing(target: Cgroup) -> None:
    for _connection in range(50):
        with pair(target) as made:
            exchange(made)
            write(made.client, b'last words' * 1000)
            made.client.close()
            assert read(made.server, 1 << 20) == b'last words' * 1000
