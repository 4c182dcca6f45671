# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends in different network namespaces, joined by a veth pair, and what may lie between them."""

import contextlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support import harness
from tests.support.harness import Cgroup
from tests.support.network import Hosts
from tests.support.traffic import Pair, exchange, no_delay, read, sent_by_tcp, write

# HeartbeatSeconds= by default; CLOCK_MONOTONIC, as the programs read it.
HEARTBEAT_NS = 1_000_000_000


def make(hosts: Hosts, client_in: Cgroup, server_in: Cgroup) -> Pair:
    """From 10.99.0.1 to 10.99.0.2."""
    here, there = hosts

    def listen() -> socket.socket:
        with server_in.inside():
            return socket.create_server(('10.99.0.2', 0))

    def connect() -> socket.socket:
        with client_in.inside():
            return socket.create_connection(listener.getsockname())

    with there.submit(listen).result() as listener:
        client = here.submit(connect).result()
        server, _address = listener.accept()
    for end in (client, server):
        end.setblocking(False)
        no_delay(end)
    return Pair(client, server)


def row(made: Pair) -> dict[str, object]:
    port = made.client.getsockname()[1]
    rows = [each for each in harness.connections() if each['client_port'] == port]
    return rows[0] if rows else {}


def joins(made: Pair) -> None:
    harness.wait_until(lambda: row(made).get('state') == 'joined', 'both ends join')
    exchange(made)


def count(name: str) -> int:
    return int(harness.call('Stats')[name])


def run(pool: ThreadPoolExecutor, *command: str) -> None:
    """In the network namespace of a thread."""
    pool.submit(subprocess.run, command, check=True).result()


def test_with_permission(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target, '--other-namespaces')
        made = make(hosts, target, target)
        joins(made)
        before = count('redirected_messages')
        exchange(made)
        assert count('redirected_messages') >= before + 5
        found = row(made)
        assert found['client_netns_cookie'] != found['server_netns_cookie']
        assert found['client_cgroup'] == found['server_cgroup'] == target.path
        made.close()


def test_without_permission(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target)
        made = make(hosts, target, target)
        exchange(made)
        made.close()
        counted = harness.call('Stats')
        assert counted['connections'] == counted['redirected_messages'] == 0
        assert counted['connection_reason_other_namespace'] + counted['connection_reason_not_local'] >= 1


def test_permission_that_is_taken_away(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target, '--other-namespaces')
        made = make(hosts, target, target)
        joins(made)
        write(made.client, b'unread')
        assert harness.control('set', target.path, 'OtherNamespaces=no').returncode == 0
        before = count('redirected_messages')
        write(made.client, b', more')
        assert count('redirected_messages') == before
        assert read(made.server, 12) == b'unread, more'
        harness.wait_until(lambda: row(made).get('state') == 'left', 'both ends leave')
        assert row(made)['client_reason'] in ('other_namespace', 'lonely')
        made.close()


def test_ends_of_two_targets(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('one', own_daemon) as one, Cgroup('two', own_daemon) as two:
        harness.enable_by_command(one, '--other-namespaces')
        harness.enable_by_command(two, '--other-namespaces')
        made = make(hosts, one, two)
        harness.wait_until(lambda: row(made).get('client_reason') == 'other_namespace', 'they are kept apart')
        exchange(made)
        assert count('redirected_messages') == 0
        made.close()


def test_connections_that_were_there_before(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        made = make(hosts, target, target)
        exchange(made)
        harness.enable_by_command(target, '--other-namespaces')
        joins(made)
        assert row(made)['adopted']
        before = count('redirected_messages')
        exchange(made)
        assert count('redirected_messages') >= before + 4
        made.close()


def test_a_rule_takes_effect_within_two_heartbeats(own_daemon: Cgroup, hosts: Hosts) -> None:
    """Redirected bytes stop, and all arrive when the rule is gone; the end of the connection arrives too.

    However slow the machine is, no message is redirected that was sent two heartbeats after the rule came.
    """
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target, '--other-namespaces')
        made = make(hosts, target, target)
        joins(made)
        run(hosts[1], 'nft', 'add table ip filter')
        run(hosts[1], 'nft', 'add chain ip filter input { type filter hook input priority 0; policy drop; }')
        too_late = time.monotonic_ns() + 2 * HEARTBEAT_NS
        sent = 0

        def goes_by_tcp() -> bool:
            nonlocal sent
            before, now = count('redirected_messages'), time.monotonic_ns()
            write(made.client, b'%07d\n' % sent)
            sent += 1
            with contextlib.suppress(BlockingIOError):
                got.extend(made.server.recv(1 << 16))
            by_tcp = count('redirected_messages') == before
            assert by_tcp or now < too_late
            return by_tcp and bool(row(made)['waiting_for_heartbeat'])

        got = bytearray()
        harness.wait_until(goes_by_tcp, 'a message goes by TCP, and does not arrive')
        for _message in range(100):
            assert goes_by_tcp()
        assert len(got) < 8 * sent
        run(hosts[1], 'nft', 'flush ruleset')
        got += read(made.server, 8 * sent - len(got))
        assert got == b''.join(b'%07d\n' % number for number in range(sent))
        made.client.close()
        assert read(made.server, 1) == b''
        made.server.close()


def test_one_message_goes_by_tcp_each_heartbeat(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target, '--other-namespaces')
        made = make(hosts, target, target)
        joins(made)
        exchange(made)
        before = sent_by_tcp(made)

        def beats() -> bool:
            exchange(made, rounds=1)
            return sent_by_tcp(made) > before

        harness.wait_until(beats, 'a heartbeat is sent')
        assert count('message_reason_heartbeat') >= 1
        made.close()
