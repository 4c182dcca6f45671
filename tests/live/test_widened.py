# SPDX-License-Identifier: GPL-2.0-or-later
"""What was left to TCP is taken in later: by a policy that lets in more, or because its client is found."""

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live import test_namespaces
from tests.support import harness, network, traffic
from tests.support.harness import Cgroup
from tests.support.network import Hosts
from tests.support.traffic import Pair, exchange, no_delay


def choose(cgroup: Cgroup, setting: str) -> str:
    """What the command prints."""
    ended = harness.control('set', cgroup.path, setting)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def row(made: Pair) -> dict[str, object]:
    port = made.client.getsockname()[1]
    rows = [each for each in harness.connections() if each['client_port'] == port]
    return rows[0] if rows else {}


def joins(made: Pair) -> None:
    harness.wait_until(lambda: row(made).get('state') == 'joined', 'both ends join')
    before = harness.call('Stats')['redirected_messages']
    exchange(made)
    assert harness.call('Stats')['redirected_messages'] >= before + 4


def count(name: str) -> int:
    return int(harness.call('Stats')[name])


def local(client: Cgroup, server: Cgroup) -> Pair:
    with server.inside():
        listener = traffic.listen()
    with listener, client.inside():
        return traffic.connect(listener)


def test_other_namespaces_are_allowed_later(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target)
        made = test_namespaces.make(hosts, target, target)
        exchange(made)
        choose(target, 'OtherNamespaces=yes')
        joins(made)
        assert row(made)['adopted']
        made.close()


def test_it_is_allowed_taken_back_and_allowed_again(own_daemon: Cgroup, hosts: Hosts) -> None:
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target, '--other-namespaces')
        made = test_namespaces.make(hosts, target, target)
        for _round in range(2):
            joins(made)
            choose(target, 'OtherNamespaces=no')
            harness.wait_until(lambda: row(made).get('state') == 'left', 'both ends leave')
            exchange(made)
            choose(target, 'OtherNamespaces=yes')
        joins(made)
        made.close()


def test_a_port_is_excluded_no_more(own_daemon: Cgroup) -> None:
    """Whether it was excluded when it was made or later. One that still is stays out, and is counted once."""
    with Cgroup('target', own_daemon) as target:
        harness.enable_by_command(target)
        older, stays = local(target, target), local(target, target)
        joins(older)
        joins(stays)
        port, other = older.server.getsockname()[1], stays.server.getsockname()[1]
        choose(target, f'ExcludePorts={port} {other}')
        with target.inside(), traffic.listen() as listener:
            for pair in (older, stays):
                harness.wait_until(lambda pair=pair: row(pair).get('state') == 'left', 'it leaves')
            choose(target, f'ExcludePorts={port} {other} {listener.getsockname()[1]}')
            newer = traffic.connect(listener)
        exchange(newer)
        assert row(newer)['client_reason'] == 'excluded'
        harness.wait_until(lambda: row(stays).get('client_reason') == 'excluded', 'it is looked at again')
        counted = count('connection_reason_excluded')
        choose(target, f'ExcludePorts={other}')
        for pair in (older, newer):
            joins(pair)
        harness.wait_until(lambda: row(stays).get('client_reason') == 'excluded', 'it is looked at again')
        exchange(stays)
        assert count('connection_reason_excluded') == counted
        for pair in (older, newer, stays):
            pair.close()


def test_a_target_that_took_only_new_ones_adopts(own_daemon: Cgroup) -> None:
    with Cgroup('target', own_daemon) as target:
        made = local(target, target)
        harness.enable_by_command(target, '--new-only')
        exchange(made)
        assert row(made) == {}
        # It joins when the rest after the search at Enable is over: until then no other search begins.
        younger = local(target, target)
        joins(younger)
        adopted = count('adopted')
        assert 'Adopted 1 connections that were there before' in choose(target, 'AdoptConnections=yes')
        joins(made)
        assert count('adopted') == adopted + 1
        assert 'Adopted' not in choose(target, 'AdoptConnections=yes')
        made.close()
        younger.close()


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    with network.namespace() as pool:
        yield pool


@pytest.mark.parametrize('address', ['192.0.2.1', '127.0.0.1'])
def test_a_client_outside_the_target_behind_a_translation(
    own_daemon: Cgroup, elsewhere: ThreadPoolExecutor, address: str
) -> None:
    """Its target has only the server: nothing at connect() says that this is the client."""

    def make() -> Pair:
        commands = (
            'ip addr add 192.0.2.1/32 dev lo', 'nft add table ip nat',
            'nft add chain ip nat output { type nat hook output priority -100; }',
        )  # fmt: skip
        for command in commands:
            subprocess.run(command.split(), check=True)
        with target.inside():
            listener = traffic.listen()
        rule = f'tcp dport 8080 dnat to 127.0.0.1:{listener.getsockname()[1]}'
        subprocess.run(['nft', 'add', 'rule', 'ip', 'nat', 'output', *rule.split()], check=True)
        with listener, client_in.inside():
            client = socket.create_connection((address, 8080))
            server, _address = listener.accept()
        for end in (client, server):
            end.setblocking(False)
            no_delay(end)
        return Pair(client, server)

    with Cgroup('target', own_daemon) as target, Cgroup('client', own_daemon) as client_in:
        harness.enable_by_command(target)
        made = elsewhere.submit(make).result()
        joins(made)
        assert row(made)['client_cgroup'] == client_in.path
        made.close()
