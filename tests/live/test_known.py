# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are known to be hurt: their connections stay with TCP from the start, those of others join."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.ctl.client import count
from sockaccel.kernel import executables
from sockaccel.systemd import statefiles
from tests.support import harness, network, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.patience import PATIENCE_S

# Longer than what the kernel keeps of a name.
NAME = 'sockaccel-test-proxyd'
_SERVER = """\
import socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    end, _address = listener.accept()
    end.setblocking(False)
    kept = end
"""
# Opens a listener as systemd does for its services, and starts the program that accepts. argv: that.
_OPENER = """\
import socket, subprocess, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
script = '''
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
end, _address = listener.accept()
end.setblocking(False)
sys.stdin.read()
'''
fd = listener.fileno()
subprocess.run([sys.argv[1], '-S', '-c', script, str(fd)], pass_fds=[fd], stdin=sys.stdin)
"""
_CLIENT = """\
import socket, sys
for line in sys.stdin:
    end = socket.create_connection(('127.0.0.1', int(line)))
    end.setblocking(False)
    kept = end
"""


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-known-{os.getpid()}') as root:
        yield root


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable of its own, which is Python."""
    path = tmp_path / NAME
    shutil.copy(Path(sys.executable).resolve(), path)
    return path


class Peer:
    """A process of the program, in a cgroup: a server, or a client that connects to each port that it is told."""

    def __init__(self, program: Path, script: str, cgroup: Cgroup, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [program, '-S', '-c', script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=cgroup.enter, env={**os.environ, 'PYTHONHOME': sys.base_prefix},
        )  # fmt: skip

    def __enter__(self) -> 'Peer':
        return self

    def __exit__(self, *_exc: object) -> None:
        harness.stop(self.process, signal.SIGKILL)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()

    def port(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def connect(self, port: int) -> None:
        assert self.process.stdin
        print(port, file=self.process.stdin, flush=True)


def is_left_out(end: socket.socket) -> bool:
    """Whether a connection stays with TCP because its program is known; otherwise it joins."""
    port, peer_port = traffic.ports(end)

    def row() -> dict[str, object]:
        rows = [
            row for row in harness.connections()
            if {row['client_port'], row['server_port']} == {port, peer_port} and row['state'] in ('joined', 'left')
        ]  # fmt: skip
        return rows[0] if rows else {}

    harness.wait_until(row, 'the connection has joined or is left out')
    found = row()
    if found['state'] == 'joined':
        return False
    assert 'known_program' in (found['client_reason'], found['server_reason'])
    assert NAME[:15] in (found['client_program'], found['server_program'])
    return True


def accepts(program: Path, root: Cgroup) -> bool:
    """Whether a connection to a server that is the program is left out."""
    with (
        Peer(program, _SERVER, root) as server,
        socket.create_connection(('127.0.0.1', server.port()), PATIENCE_S) as client,
    ):
        client.setblocking(False)
        return is_left_out(client)


def accepts_for(opener: Path, program: Path, root: Cgroup) -> bool:
    """Whether a connection that the program accepts from another one's listener is left out."""
    with (
        Peer(opener, _OPENER, root, str(program)) as server,
        socket.create_connection(('127.0.0.1', server.port()), PATIENCE_S) as client,
    ):
        client.setblocking(False)
        return is_left_out(client)


def connects(program: Path, root: Cgroup) -> bool:
    """Whether a connection that the program makes is left out."""
    with Peer(program, _CLIENT, root) as client, traffic.listen() as listener:
        client.connect(listener.getsockname()[1])
        end, _address = listener.accept()
        with end:
            end.setblocking(False)
            return is_left_out(end)


def write_list(daemon: Daemon, *lines: str) -> None:
    daemon.list_programs('[Programs]\n' + '\n'.join(lines) + '\n')


def test_the_list(root: Cgroup, program: Path) -> None:
    with root.inside(), Daemon(root.path, 'JoinDelayMs=0\n') as daemon:
        daemon.ready()
        issues = harness.every_issue()
        # Where the kernel lets sockaccel see who splices, the list is not needed.
        blind = 'splice' in issues
        harness.enable(root.path, *issues)
        assert not accepts(program, root)
        assert not connects(program, root)
        before = harness.call('Stats')['connection_reason_known_program']
        for line in (f'Splices={NAME}', f'Splices={NAME[:15]}', f'Splices={program}'):
            write_list(daemon, line)
            assert accepts(program, root) is blind, line
            assert connects(program, root) is blind, line
        assert harness.call('Stats')['connection_reason_known_program'] - before == (6 if blind else 0)
        write_list(daemon, f'AsksFionread={NAME}')
        assert accepts(program, root) is ('fionread' in issues)
        write_list(daemon, 'Splices=another')
        assert not accepts(program, root)
        # What is wrong keeps what is in force.
        daemon.programs.write_text('[Programs]\nSplice=x\n')
        answer = harness.control('reload')
        assert answer.returncode == 1
        assert 'programs.conf:2: key "Splice" is unknown' in answer.stderr
        assert [row['name'] for row in harness.call('ListPrograms')] == ['another']


def test_an_audit_knows_the_list(root: Cgroup, program: Path) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        blind = 'splice' in harness.every_issue()
        with Peer(program, _SERVER, root) as server, Cgroup('audited', root) as audited:
            with audited.inside():
                client = socket.create_connection(('127.0.0.1', server.port()), PATIENCE_S)
            with client:
                for line, listed in (('', False), (f'Splices={NAME}', True)):
                    write_list(daemon, line)
                    report = harness.call('Audit', 'sa{sv}', audited.path, {'seconds': count(1)})
                    reasons = [row['reason'] for row in report['exchanges']]
                    assert reasons == ['known_program' if listed and blind else ''], line


def test_a_listener_that_another_program_opened(root: Cgroup, program: Path, tmp_path: Path) -> None:
    opener = tmp_path / 'opener-of-test'
    shutil.copy(program, opener)
    with root.inside(), Daemon(root.path, 'JoinDelayMs=0\n') as daemon:
        daemon.ready()
        issues = harness.every_issue()
        harness.enable(root.path, *issues)
        # By its name alone the opener tells nothing.
        write_list(daemon, f'Splices={NAME}')
        assert not accepts_for(opener, program, root)
        write_list(daemon, f'Splices={NAME}', f'Listens={opener.name}')
        assert accepts_for(opener, program, root) is ('splice' in issues)
        # Who accepts is found, and is not known to be hurt.
        write_list(daemon, f'Listens={opener.name}')
        assert not accepts_for(opener, program, root)


def test_what_is_remembered(root: Cgroup, program: Path, tmp_path: Path) -> None:
    """As a watcher has seen it and an earlier daemon has written it."""
    found = executables.find(str(program))
    assert found
    other = program.with_name('other')
    other.touch()
    entry = {'device': found.device, 'inode': found.inode, 'knows': ['splices'], 'since': 1_700_000_000}
    state = tmp_path / 'state' / 'programs.json'
    state.parent.mkdir()
    programs = [{'path': str(program), **entry}, {'path': str(other), **entry}]
    state.write_text(json.dumps({'version': statefiles.VERSION, 'programs': programs}))
    with root.inside(), Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        rows = {row['name']: row for row in harness.call('ListPrograms') if row['source'] == 'seen'}
        # The other path has another file now.
        assert rows.keys() == {str(program)}
        assert rows[str(program)]['since'] == 1_700_000_000
        assert connects(program, root)
        assert accepts(program, root)
        shown = harness.control('programs').stdout
        assert str(program) in shown
        assert 'it reads by splice()' in shown
        assert harness.control('programs', '--forget', str(other)).returncode == 1
        assert harness.control('programs', '--forget', str(program)).returncode == 0
        assert not connects(program, root)
        assert json.loads(state.read_text())['programs'] == []


def test_enable_says_which_programs_are_known(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        if not harness.every_issue():
            pytest.skip('this kernel has no issue')
        refused = harness.control('enable', root.path)
        everything = harness.control('enable', '*')
        assert refused.returncode == everything.returncode == 1
        expected = 'haproxy' if 'splice' in harness.every_issue() else 'nginx'
        assert expected in refused.stderr.partition('Known, and left to TCP: ')[2]
        assert 'Rather enable the units' not in refused.stderr
        assert 'Rather enable the units' in everything.stderr


def test_who_listens_at_a_published_port_is_not_who_answers(root: Cgroup, program: Path) -> None:
    """As docker-proxy does: the connection is translated on the way, and its server is another program."""

    def make() -> traffic.Pair:
        with Cgroup('proxy', root) as proxy, Peer(program, _SERVER, proxy) as published, root.inside():
            listener = traffic.listen()
            rule = f'tcp dport {published.port()} dnat to 127.0.0.1:{listener.getsockname()[1]}'
            ports.append(rule.split()[2])
            for command in (
                'add table ip nat', 'add chain ip nat output { type nat hook output priority -100; }',
                f'add rule ip nat output {rule}',
            ):  # fmt: skip
                subprocess.run(['nft', command], check=True)
            with listener:
                client = socket.create_connection(('127.0.0.1', int(ports[0])))
                server, _address = listener.accept()
            for end in (client, server):
                end.setblocking(False)
                traffic.no_delay(end)
            return traffic.Pair(client, server)

    ports: list[str] = []
    with network.namespace() as elsewhere, Daemon(root.path, 'JoinDelayMs=0\n') as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        write_list(daemon, f'Splices={NAME}')
        made = elsewhere.submit(make).result()
        port = made.client.getsockname()[1]
        joined = [('joined', port)]
        harness.wait_until(
            lambda: [(row['state'], row['client_port']) for row in harness.connections()] == joined, 'it joins'
        )
        made.close()
