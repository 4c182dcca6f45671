# SPDX-License-Identifier: GPL-2.0-or-later
"""What anybody can make grow has a limit; what is used again takes nothing of its earlier user along."""

import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from sockaccel.core.limits import MAX_LISTENERS, MAX_TARGET_LEVELS
from sockaccel.kernel import libbpf
from sockaccel.kernel.abi import LISTENER_KEY, MAX_WALKED, PAIR_KEY, ListenerKeyRecord
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.maps import map_of
from tests.support.memory_kernel import NAMES
from tests.support.traffic import Pair, accelerate, is_member, members, pair

# asm-generic/socket.h
SO_COOKIE = 57
_DEEPER = 40


def entry_layout() -> tuple[struct.Struct, list[str]]:
    """How `struct peer_entry` is packed, and the names of its members."""
    text = (harness.ROOT / 'bpf/lib/types.h').read_text().partition('struct peer_entry {')[2].partition('};')[0]
    found = re.findall(r'__(u32|u64) (\w+);', text)
    letters = {'u32': 'I', 'u64': 'Q'}
    return struct.Struct('=' + ''.join(letters[kind] for kind, _name in found)), [name for _kind, name in found]


@pytest.mark.parametrize('name', ['marked', 'refused'])
@pytest.mark.parametrize('whose', ['its own', "a stranger's"])
def test_a_note_that_was_meant_for_an_earlier_entry_is_not_believed(
    daemon: Daemon, target: Cgroup, name: str, whose: str
) -> None:
    """As from a walk that still held the entry when the kernel gave it to this connection."""
    layout, names = entry_layout()
    with pair(target) as made, map_of(daemon, 'sa_peers') as entries:
        (own,) = struct.unpack('=Q', made.client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
        for key in libbpf.map_keys(entries, PAIR_KEY.size):
            value = libbpf.map_lookup(entries, key, layout.size)
            assert value
            entry = dict(zip(names, layout.unpack(value), strict=True))
            if entry['cookie'] == own:
                break
        else:
            raise AssertionError('the client left no entry')
        cookie = entry['cookie'] if whose == 'its own' else entry['cookie'] + 1000
        entry[name] = cookie << 8 | NAMES.index('lonely')
        libbpf.map_update(entries, key, layout.pack(*entry.values()))
        # Another one that joins shows that a sweep has been.
        with pair(target), pair(target):
            if whose == 'its own':
                # The peer reads the entry. Whether the client follows depends on which the walk meets first.
                harness.wait_until(lambda: not is_member(made.server), 'its peer leaves')
            else:
                assert is_member(made.client)
                assert is_member(made.server)


def test_a_cgroup_far_below_its_target_is_covered(target: Cgroup) -> None:
    assert _DEEPER > MAX_TARGET_LEVELS
    with contextlib.ExitStack() as stack:
        nested = target
        for _level in range(_DEEPER):
            nested = stack.enter_context(Cgroup('n', nested))
        with pair(nested) as made:
            assert is_member(made.client)


def test_strangers_do_not_push_an_idle_listener_out(own_daemon: Cgroup) -> None:
    with Cgroup('server', own_daemon) as server, Cgroup('client', own_daemon) as client:
        with server.inside():
            before = traffic.listen()
        harness.enable(server.path, *harness.every_issue())
        with server.inside():
            after = traffic.listen()
        with client.inside(), before, after:
            _open_and_close(2 * MAX_LISTENERS)
            made = [traffic.connect(listener) for listener in (before, after)]
        accelerate(*made)
        for each in made:
            each.close()


def _open_and_close(count: int) -> None:
    """So many listeners, one after the other, no two with the same address and port."""
    ports = range(16384, 32768)
    for number in range(count):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((f'127.0.1.{1 + number // len(ports)}', ports[number % len(ports)]))
            listener.listen()


@pytest.mark.parametrize('how', ['when it is closed', 'by the next search'])
def test_a_listener_that_is_closed_is_forgotten(
    daemon: Daemon, target: Cgroup, root_cgroup: Cgroup, how: str
) -> None:
    with map_of(daemon, 'sa_own_listeners') as listeners, Cgroup('later', root_cgroup) as later:

        def known() -> bool:
            keys = (LISTENER_KEY.unpack(key) for key in libbpf.map_keys(listeners, LISTENER_KEY.size))
            return port in {ListenerKeyRecord._make(key).port for key in keys}

        with (target if how == 'when it is closed' else later).inside():
            listener = traffic.listen()
        port = listener.getsockname()[1]
        if how == 'when it is closed':
            assert known()
            listener.close()
            assert not known()
            return
        harness.enable(later.path, *harness.every_issue())
        harness.wait_until(known, 'it is found')
        # Nobody tells of its end, as it is older than its target.
        listener.close()
        assert known()
        harness.call('Disable', 's', later.path)
        harness.enable(later.path, *harness.every_issue())
        harness.wait_until(lambda: not known(), 'it is forgotten')
        harness.call('Disable', 's', later.path)


@pytest.fixture
def small_daemon() -> Iterator[tuple[Daemon, Cgroup]]:
    """A daemon that keeps 20 ends, with a target."""
    settings = 'MaximumConnections=5\nJoinDelayMs=0\nExcludePorts=1999\n'
    with Cgroup(f'sockaccel-small-{os.getpid()}') as root, PrivateBus(), Daemon(root.path, settings) as daemon:
        daemon.ready()
        with Cgroup('target', root) as target:
            harness.enable(target.path, *harness.every_issue())
            yield daemon, target


def _connections() -> int:
    _rows, total, *_rest = harness.call('ListConnections', 'a{sv}tt', {}, 0, 0)
    return int(total)


def _close(made: list[Pair]) -> None:
    for each in made:
        each.close()


def test_no_more_ends_are_kept_than_there_are_places(small_daemon: tuple[Daemon, Cgroup]) -> None:
    daemon, target = small_daemon
    with target.inside(), traffic.listen() as listener:
        made = [traffic.connect(listener, blocking=True) for _connection in range(50)]
    try:
        assert _connections() <= 20
        assert harness.call('Stats')['connection_reason_not_kept'] >= 30
        harness.wait_until(lambda: 'MaximumConnections= allows' in daemon.log_text, 'the log says so')
    finally:
        _close(made)
    _joins_in_the_end(target)


def test_connections_that_stay_with_tcp_leave_places_for_others(small_daemon: tuple[Daemon, Cgroup]) -> None:
    _daemon, target = small_daemon
    with target.inside(), socket.create_server(('127.0.0.1', 1999)) as listener:
        made = [traffic.connect(listener) for _connection in range(50)]
    try:
        assert _connections() <= 10
        assert harness.call('Stats')['connection_reason_excluded'] == 50
        # In the end: those that were kept while a walk ran count twice, until the next walk.
        _joins_in_the_end(target)
    finally:
        _close(made)


def _joins_in_the_end(target: Cgroup) -> None:
    """A walk finds the places that are free again; who comes before it stays with TCP."""

    def one_joins() -> bool:
        with pair(target, joins=False) as made:
            with contextlib.suppress(AssertionError):
                harness.wait_until(lambda: is_member(made.client), 'it joins', 1)
            return is_member(made.client)

    harness.wait_until(one_joins, 'one joins')


def test_a_walk_that_interrupts_itself_meets_every_end(own_daemon: Cgroup) -> None:
    harness.enable(own_daemon.path, *harness.every_issue())
    with own_daemon.inside(), traffic.listen() as listener:
        made = [traffic.connect(listener) for _connection in range(MAX_WALKED)]
    ends = {traffic.ports(end) for each in made for end in (each.client, each.server)}
    harness.wait_until(lambda: ends <= members(), 'all join')
    _close(made)
