# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy belongs to a target: what the kernel does for two of them, what `set` changes, what files enable."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import harness, topology, traffic
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus, control, wait_until

AT_ONCE = 'JoinDelayMs=0'


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-policy-{os.getpid()}') as root:
        yield root


@pytest.fixture
def daemon(root: Cgroup) -> Iterator[Daemon]:
    with Daemon(root.path, f'{AT_ONCE}\n') as daemon:
        daemon.ready()
        yield daemon


def enable(target: str, *options: str) -> None:
    answer = control('enable', *(f'--accept={name}' for name in harness.every_issue()), *options, target)
    assert answer.returncode == 0, answer.stderr


def change(target: str, *settings: str) -> None:
    answer = control('set', target, *settings)
    assert answer.returncode == 0, answer.stderr


def reason(listener: socket.socket, *, blocking: bool = False) -> str:
    """Why a new connection is left to TCP; '' if it joins."""
    made = traffic.connect(listener, blocking=blocking)
    port = made.client.getsockname()[1]
    try:
        return decided(port)
    finally:
        made.close()


def decided(port: int) -> str:
    """What became of the connection of a client's port."""
    found: list[str] = []

    def is_decided() -> bool:
        (row,) = (row for row in harness.connections() if row['client_port'] == port)
        if row['client_state'] == row['server_state'] == 'joined':
            found.append('')
        # A pair that blocks is judged again for half a minute.
        elif row['client_state'] == 'left' or row['client_reason'] == 'blocking_end':
            found.append(row['client_reason'])
        return bool(found)

    wait_until(is_decided, 'the connection has joined or is left to TCP')
    return found[0]


def sources(target: str) -> dict[str, str]:
    """What is not the default in the policy of a target, by key."""
    (row,) = (row for row in json.loads(control('targets', '--json').stdout) if row['name'] == target)
    return {each['key']: f'{each["value"]} # {each["source"]}' for each in row['policy'] if each['source']}


def test_two_targets_have_two_policies(root: Cgroup, daemon: Daemon) -> None:
    with Cgroup('one', root) as one, Cgroup('other', root) as other, contextlib.ExitStack() as stack:
        with one.inside():
            first = stack.enter_context(traffic.listen())
        with other.inside():
            second = stack.enter_context(traffic.listen())
        ports = [listener.getsockname()[1] for listener in (first, second)]
        enable(one.path, f'--exclude-port={ports[1]}', '--blocking-readers')
        enable(other.path, f'--exclude-port={ports[0]}', '--include-user=root', '--include-user=1-2')
        for cgroup, expected in ((one, ['', 'excluded']), (other, ['excluded', ''])):
            with cgroup.inside():
                assert [reason(listener) for listener in (first, second)] == expected, cgroup.path
        # From outside the listener's target counts.
        with root.inside():
            assert [reason(listener) for listener in (first, second)] == ['', '']
            assert [reason(listener, blocking=True) for listener in (first, second)] == ['', 'blocking_end']
        assert sources(other.path)['IncludeUsers'] == 'root 1-2 # set'
        for target, port in ((one.path, ports[1]), (other.path, ports[0])):
            assert harness.call('TargetStats', 's', target)['connection_reason_excluded'] == 1, port


def test_the_server_of_an_excluded_connection_knows_its_client(root: Cgroup, daemon: Daemon) -> None:
    """It is counted for one reason, and nobody looks for its client."""
    with root.inside(), traffic.listen() as listener, contextlib.ExitStack() as stack:
        enable(root.path, f'--exclude-port={listener.getsockname()[1]}')
        for _connection in range(3):
            stack.callback(traffic.connect(listener).close)
        counted = harness.call('TargetStats', 's', root.path)
        assert counted['connection_reason_excluded'] == 3
        assert counted['connection_reason_client_unseen'] == 0
        assert [(row['client_reason'], row['server_reason']) for row in harness.connections()] == [
            ('excluded', 'excluded')
        ] * 3


def test_set_takes_effect_for_new_connections_and_open_ones(root: Cgroup, daemon: Daemon) -> None:
    with root.inside(), traffic.listen() as listener:
        port = listener.getsockname()[1]
        enable(root.path, '--blocking-readers')
        open_one, blocking = traffic.connect(listener), traffic.connect(listener, blocking=True)
        with contextlib.closing(open_one), contextlib.closing(blocking):
            clients = [each.client.getsockname()[1] for each in (open_one, blocking)]
            assert [decided(each) for each in clients] == ['', '']
            change(root.path, 'BlockingReaders=')
            wait_until(lambda: not traffic.is_member(blocking.client), 'what blocks leaves')
            assert traffic.is_member(open_one.client)
            assert reason(listener, blocking=True) == 'blocking_end'
            change(root.path, f'ExcludePorts={port}')
            wait_until(lambda: not traffic.is_member(open_one.client), 'what is excluded leaves')
            # The one that blocks has another reason now.
            excluded = 'connection_reason_excluded'
            wait_until(lambda: harness.call('TargetStats', 's', root.path)[excluded] == 2, 'both are excluded')
            assert reason(listener) == 'excluded'
            open_one.client.sendall(b'by TCP')
            assert traffic.read(open_one.server, 6) == b'by TCP'
            change(root.path, 'ExcludePorts=')
            assert reason(listener) == ''


def test_a_set_that_is_refused_changes_nothing(root: Cgroup, daemon: Daemon) -> None:
    with root.inside(), traffic.listen() as listener:
        enable(root.path, '--include-port=1-65535')
        before = sources(root.path)
        for settings, said in {
            ('IncludePorts=x',): 'IncludePorts= "x" has "x", which is no port',
            ('JoinDelayMs=5', 'BlockingReaders=perhaps'): 'BlockingReaders= "perhaps" is neither "yes" nor "no"',
            ('Nonsense=5',): 'key "Nonsense" is unknown, the keys of a target are AcceptKernelIssues',
            ('LogLevel=debug',): 'key "LogLevel" is one of section "[Sockaccel]", and of no target',
            ('AcceptKernelIssues=nonsense',): 'there is no kernel issue named "nonsense"',
        }.items():
            answer = control('set', root.path, *settings)
            assert (answer.returncode, said in answer.stderr) == (1, True), answer.stderr
        answer = control('set', '/elsewhere', 'JoinDelayMs=5')
        assert answer.returncode == 1
        assert 'target "/elsewhere" is not enabled' in answer.stderr
        assert control('set', root.path, 'JoinDelayMs').returncode == 2
        assert sources(root.path) == before
        assert reason(listener) == ''


def test_a_target_of_a_file_comes_and_goes(root: Cgroup, daemon: Daemon) -> None:
    accepted = f'AcceptKernelIssues={" ".join(harness.every_issue())}'
    with root.inside(), traffic.listen() as listener:
        port = listener.getsockname()[1]
        section = f'{AT_ONCE}\n{accepted}\n[Target {root.path}]\nExcludePorts={port}\n'
        daemon.configure(section)
        assert harness.targets() == []
        daemon.reload()
        assert [(name, state) for name, state, _detail in harness.targets()] == [(root.path, 'active')]
        assert sources(root.path)['ExcludePorts'] == f'{port} # {daemon.config}:6'
        assert reason(listener) == 'excluded'
        # Whoever administers it by hand is told where it is from.
        for command in (['disable', root.path], ['set', root.path, 'ExcludePorts=']):
            answer = control(*command)
            assert answer.returncode == 1
            assert f'{daemon.config}:5' in answer.stderr
        assert control('disable', '--runtime', root.path).returncode == 0
        daemon.reload()
        assert harness.targets() == []
        assert control('enable', '--runtime', root.path).returncode == 0
        daemon.configure(section.replace('Exclude', 'Include'))
        daemon.reload()
        with contextlib.closing(traffic.connect(listener)) as made:
            assert decided(made.client.getsockname()[1]) == ''
            daemon.configure(f'{AT_ONCE}\n{accepted}\n')
            daemon.reload()
            assert harness.targets() == []
            wait_until(lambda: not traffic.is_member(made.client), 'it goes back to TCP')
        # A wrong section changes nothing.
        daemon.configure(f'[Target {root.path}]\nIncludePorts=x\n')
        answer = control('reload')
        assert answer.returncode == 1
        assert f'{daemon.config}:4: IncludePorts= "x" has "x", which is no port' in answer.stderr
        assert harness.targets() == []


def test_network_namespaces_are_kept_apart_unless_the_policy_says_otherwise(root: Cgroup, daemon: Daemon) -> None:
    def connect() -> traffic.Pair:
        with topology.inside(net.neighbour):
            client = socket.create_connection(address)
        server, _peer = listener.accept()
        for end in (client, server):
            end.setblocking(False)
        return traffic.Pair(client, server)

    def is_accelerated() -> bool:
        """A new connection from one namespace to the other; otherwise it counts as one to another host."""
        before = harness.call('TargetStats', 's', root.path)['connection_reason_not_local']
        with contextlib.closing(connect()) as made:
            if harness.call('TargetStats', 's', root.path)['connection_reason_not_local'] > before:
                return False
            return decided(made.client.getsockname()[1]) == ''

    def kept_apart() -> int:
        return int(harness.call('TargetStats', 's', root.path)['connection_reason_other_namespace'])

    with root.inside(), topology.Topology() as net:
        with topology.inside(net.server):
            listener = socket.create_server((topology.SERVER[0], 0))
        address = listener.getsockname()
        with listener:
            enable(root.path)
            assert not is_accelerated()
            change(root.path, 'OtherNamespaces=yes')
            assert is_accelerated()
            with contextlib.closing(connect()) as made:
                assert decided(made.client.getsockname()[1]) == ''
                before = kept_apart()
                change(root.path, 'OtherNamespaces=')
                wait_until(lambda: not traffic.is_member(made.client), 'what is open leaves too')
                assert kept_apart() == before + 1
                made.client.sendall(b'by TCP')
                assert traffic.read(made.server, 6) == b'by TCP'
            assert not is_accelerated()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_the_next_daemon_has_the_same_policies(root: Cgroup, tmp_path: Path, number: signal.Signals) -> None:
    """After a stop and after a crash: one target was enabled by hand, the other by a file."""
    issues = ' '.join(issues_of_this_kernel(root))
    with Cgroup('file', root) as of_file, root.inside(), traffic.listen() as listener, FdStore() as store:
        port = listener.getsockname()[1]
        settings = f'{AT_ONCE}\nAcceptKernelIssues={issues}\n[Target {of_file.path}]\nIncludePorts={port}\n'
        with Daemon(root.path, settings, state=tmp_path, store=store) as daemon:
            daemon.ready()
            enable(root.path)
            change(root.path, f'ExcludePorts={port}', 'JoinDelayMs=1')
            before = {name: without_files(sources(name)) for name in (root.path, of_file.path)}
            assert before[root.path]['JoinDelayMs'] == '1 # set'
            daemon.stop(number)
        with Daemon(root.path, settings, state=tmp_path, store=store) as daemon:
            daemon.ready()
            assert {name: without_files(sources(name)) for name in (root.path, of_file.path)} == before
            assert reason(listener) == 'excluded'
            with of_file.inside():
                assert reason(listener) == ''


def without_files(found: dict[str, str]) -> dict[str, str]:
    """Each daemon of a test has a file of its own."""
    return {key: text.rpartition('/')[2] for key, text in found.items()}


def issues_of_this_kernel(root: Cgroup) -> list[str]:
    """The names of the issues that this kernel has."""
    with Daemon(root.path) as daemon:
        daemon.ready()
        return harness.every_issue()
