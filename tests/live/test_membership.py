# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sockets join, which must not, and which leave."""

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable

import pytest
from dbus_next import Variant

from tests.conformance import syscalls
from tests.conformance.bench import Call
from tests.support import harness, network, traffic
from tests.support.harness import Cgroup
from tests.support.network import TwoHosts
from tests.support.patience import PATIENCE_S
from tests.support.traffic import FAMILIES, Pair, accelerate, exchange, is_member, members, pair, read, write

Stats = Callable[[], dict[str, int]]
IPPROTO_MPTCP = 262


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Callable[[], dict[str, int]]:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


@pytest.mark.parametrize('family', FAMILIES)
def test_both_ends_of_a_target_join(target: Cgroup, family: str) -> None:
    with pair(target, family) as made:
        assert is_member(made.client)
        assert is_member(made.server)


@pytest.mark.parametrize('server_is_in', [True, False])
def test_one_end_in_the_target_is_enough(
    target: Cgroup,
    bystander: Cgroup,
    stats: Stats,
    server_is_in: bool,  # noqa: FBT001
) -> None:
    with (target if server_is_in else bystander).inside():
        listener = traffic.listen()
    with (bystander if server_is_in else target).inside(), listener:
        made = traffic.connect(listener)
    accelerate(made)
    exchange(made)
    made.close()
    assert stats()['redirected_messages'] > 0


@pytest.mark.parametrize('family', FAMILIES)
def test_a_listener_that_was_there_before_is_covered(own_daemon: Cgroup, family: str) -> None:
    """It is found by the walk over open files when the first target is enabled."""
    with Cgroup('server', own_daemon) as server, Cgroup('client', own_daemon) as client:
        with server.inside():
            listener = traffic.listen(family)
        harness.enable(server.path, *harness.every_issue())
        with client.inside(), listener:
            made = traffic.connect(listener, family)
        accelerate(made)
        made.close()


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(
    'opened', ['before the first Enable', 'after the first Enable', 'while nothing is enabled']
)
def test_a_listener_that_was_there_before_a_second_enable_is_covered(
    own_daemon: Cgroup, opened: str, family: str
) -> None:
    """The first finds all that are there, later ones are told of, and what nobody was told of is found anew."""
    with (
        Cgroup('other', own_daemon) as other,
        Cgroup('server', own_daemon) as server,
        Cgroup('client', own_daemon) as client,
        contextlib.ExitStack() as stack,
    ):

        def listen() -> socket.socket:
            with server.inside():
                return stack.enter_context(traffic.listen(family))

        listener = listen() if opened == 'before the first Enable' else None
        harness.enable(other.path, *harness.every_issue())
        if opened == 'after the first Enable':
            listener = listen()
        if opened == 'while nothing is enabled':
            harness.call('Disable', 's', other.path)
            listener = listen()
        assert listener
        harness.enable(server.path, *harness.every_issue())
        with client.inside():
            made = traffic.connect(listener, family)
        stack.callback(made.close)
        accelerate(made)


def test_a_nested_cgroup_belongs_to_the_target(target: Cgroup) -> None:
    with Cgroup('nested', target) as nested, pair(nested) as made:
        assert is_member(made.client)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_bystander_is_not_in_the_map(target: Cgroup, bystander: Cgroup, family: str) -> None:
    with pair(bystander, family, joins=False) as made, pair(target):
        # The other one shows that a sweep has been.
        exchange(made)
        assert not is_member(made.client)
        assert not is_member(made.server)


def test_nothing_is_counted_for_a_bystander(bystander: Cgroup, stats: Stats) -> None:
    with pair(bystander, joins=False) as made:
        exchange(made)
    assert not any(stats().values())


def _unread(end: socket.socket) -> int:
    return int(struct.unpack('i', fcntl.ioctl(end, termios.FIONREAD, b'\0' * 4))[0])


def _splice(end: socket.socket) -> bytes:
    """What splice(2) out of the socket moves into a pipe."""
    out, into = os.pipe()
    try:
        moved = os.splice(end.fileno(), into, 100) if hasattr(os, 'splice') else 0
        return os.read(out, moved)
    finally:
        os.close(out)
        os.close(into)


def _interrupted_recv(end: socket.socket) -> Call:
    """A blocking recv() to which a signal has come whose handler has returned."""
    call = Call(lambda: syscalls.raw_recv(end.fileno(), 10)).blocks_on(end)
    call.interrupted(end, restart=True)
    return call


def test_a_bystander_behaves_as_without_sockaccel(bystander: Cgroup) -> None:
    seen = {}
    for name, cgroup in (('without', None), ('bystander', bystander)):
        with pair(cgroup, blocking=True) as made:
            made.client.sendall(b'12345')
            select.select([made.server], [], [], PATIENCE_S)
            unread, spliced = _unread(made.server), _splice(made.server)
            if not spliced:
                made.server.recv(5)
            call = _interrupted_recv(made.server)
            interrupted = call.settles(made.server)
            made.client.sendall(b'end')
            seen[name] = (unread, spliced, interrupted, call.result())
    assert seen['bystander'] == seen['without']
    assert seen['without'][0] == 5
    assert seen['without'][2:] == ('still blocked', b'end')


def test_a_connection_to_another_host_does_not_join(target: Cgroup, stats: Stats) -> None:
    """The other host is another network namespace, behind a veth pair."""
    with TwoHosts() as (here, there):
        listener = there.submit(lambda: socket.create_server(('10.99.0.2', 0))).result()

        def connect() -> Pair:
            with target.inside():
                client = socket.create_connection(listener.getsockname())
            server, _address = listener.accept()
            return Pair(client, server)

        made = here.submit(connect).result()
        with listener:
            made.client.setblocking(False)
            made.server.setblocking(False)
            exchange(made)
            assert not is_member(made.client)
            made.close()
    assert stats()['connection_reason_not_local'] == 1


def test_the_same_addresses_in_two_namespaces_never_meet(target: Cgroup) -> None:
    """127.0.0.1:5001 -> 127.0.0.1:5000 in both, the second without an accepting end in the map."""

    def make() -> tuple[Pair, socket.socket]:
        with target.inside():
            listener = socket.create_server(('127.0.0.1', 5000))
            client = socket.create_connection(('127.0.0.1', 5000), source_address=('127.0.0.1', 5001))
        server, _address = listener.accept()
        client.setblocking(False)
        server.setblocking(False)
        return Pair(client, server), listener

    pools = (network.namespace(), network.namespace())
    made = [pool.submit(make).result() for pool in pools]
    accelerate(*(connection for connection, _listener in made))
    harness.wait_until(lambda: len(_namespaces()) == 2, 'both join')
    rows = [row for row in harness.connections() if row['server_port'] == 5000]
    assert [row['state'] for row in rows] == ['joined', 'joined']
    assert len({row['netns_cookie'] for row in rows}) == 2
    for number, (connection, _listener) in enumerate(made):
        exchange(connection)
        for sender in (connection.client, connection.server):
            write(sender, b'namespace %d' % number)
    for number, (connection, _listener) in enumerate(made):
        assert read(connection.server, 11) == b'namespace %d' % number
        assert read(connection.client, 11) == b'namespace %d' % number
        with pytest.raises(BlockingIOError):
            connection.server.recv(1)
    # One pair closes; its twin's bytes must still reach the twin alone.
    made[0][0].close()
    write(made[1][0].client, b'alone')
    assert read(made[1][0].server, 5) == b'alone'
    for connection, listener in made:
        connection.close()
        listener.close()
    for pool in pools:
        pool.shutdown()


def test_a_blocking_end_stays_out_of_the_map(target: Cgroup, stats: Stats) -> None:
    """For good once it has been looked at for the last time; that takes half a minute."""
    with pair(target, blocking=True) as made, pair(target), pair(target):
        made.client.sendall(b'one')
        assert made.server.recv(3) == b'one'
        assert not is_member(made.client)
        assert not is_member(made.server)
    counted = stats()
    assert counted['connection_reason_blocking_end'] == 1
    assert counted['connections'] == 2


def test_an_end_that_becomes_non_blocking_joins(target: Cgroup) -> None:
    with pair(target, blocking=True) as made:
        with pair(target):
            assert not is_member(made.client)
        made.client.setblocking(False)
        made.server.setblocking(False)
        accelerate(made)


def test_a_member_that_becomes_blocking_leaves_the_map(target: Cgroup, stats: Stats) -> None:
    with pair(target) as made:
        made.server.setblocking(True)
        write(made.client, b'one')
        assert made.server.recv(3) == b'one'
        harness.wait_until(lambda: not is_member(made.client) and not is_member(made.server), 'both are evicted')
        write(made.client, b'two')
        assert made.server.recv(3) == b'two'
    counted = stats()
    assert counted['connection_reason_blocking_end'] == 1
    assert counted['redirected_messages'] == 0


def test_a_reconnected_socket_is_a_new_connection(target: Cgroup) -> None:
    """connect(AF_UNSPEC) drops what was unread, and the socket joins again under its new addresses."""
    with target.inside(), traffic.listen() as listener:
        made = traffic.connect(listener)
        accelerate(made)
        write(made.server, b'never read')
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.connect(made.client.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) == 0
        made.client.setblocking(True)
        made.client.connect(listener.getsockname())
        made.client.setblocking(False)
        server, _address = listener.accept()
    server.setblocking(False)
    again = Pair(made.client, server)
    accelerate(again)
    made.server.close()
    again.close()


def _namespaces() -> set[int]:
    """Where clients with port 5001 have joined."""
    rows = [row for row in harness.connections() if row['client_state'] == 'joined']
    return {row['netns_cookie'] for row in rows if row['client_port'] == 5001}


def test_a_socket_connected_to_itself_is_left_to_tcp(target: Cgroup, stats: Stats) -> None:
    with target.inside(), socket.socket() as both:
        both.bind(('127.0.0.1', 0))
        both.connect(both.getsockname())
        both.setblocking(False)
        write(both, b'to myself')
        assert read(both, 9) == b'to myself'
        wanted = {'port': Variant('q', both.getsockname()[1])}
        rows, *_rest = harness.call('ListConnections', 'a{sv}tt', wanted, 0, 0)
        # One socket is both ends.
        assert [row['client_reason'] for row in rows] == [row['server_reason'] for row in rows] != ['']
    assert stats()['connection_reason_self_connect'] == 1


def test_mptcp_stays_out(target: Cgroup, stats: Stats) -> None:
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as exc:
        pytest.skip(f'this kernel has no MPTCP ({exc.strerror})')
    with target.inside(), listener:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        client.connect(listener.getsockname())
        server, _address = listener.accept()
        with client, server:
            client.sendall(b'multipath')
            assert server.recv(9) == b'multipath'
        listener.close()
    counted = stats()
    assert counted['connection_reason_mptcp'] >= 1
    assert counted['connections'] == 0


def test_nothing_stays_behind_closed_connections(target: Cgroup) -> None:
    before = members()
    for _connection in range(200):
        with pair(target) as made:
            exchange(made)
    assert members() <= before
