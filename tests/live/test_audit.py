# SPDX-License-Identifier: GPL-2.0-or-later
"""An audit names what it saw, changes nothing about the sockets, and leaves nothing behind."""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sockaccel.ctl.client import Client, Refused, count, integer
from tests.support import harness, traffic
from tests.support.harness import Cgroup
from tests.support.network import TwoHosts
from tests.support.patience import PATIENCE_S, SLOWER
from tests.support.traffic import Pair, no_delay

Row = dict[str, Any]
# In which programs that have nothing else to do say something.
SECONDS = int(2 * min(SLOWER, 10))


def audit(target: str, seconds: int = SECONDS) -> Row:
    return dict(harness.call('Audit', 'sa{sv}', target, {'seconds': count(seconds)}))


def exchange(report: Row, pair: Pair) -> Row:
    """What is said of a connection, by its port."""
    port = pair.server.getsockname()[1]
    (found,) = [row for row in report['exchanges'] if row['port'] == port]
    return dict(found)


@contextlib.contextmanager
def busy(*work: Callable[[], None]) -> Iterator[None]:
    """Each again and again, meanwhile."""
    ended = threading.Event()

    def go() -> None:
        # A pause, because the daemon shall find a CPU; not a matter of time.
        while not ended.wait(0.01):
            for each in work:
                each()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def talk(pair: Pair) -> Callable[[], None]:
    return lambda: traffic.exchange(pair, rounds=1)


def stream(pair: Pair) -> Callable[[], None]:
    """To the server."""

    def send() -> None:
        # No more than fits into the buffers.
        traffic.write(pair.client, bytes(100_000))
        traffic.read(pair.server, 100_000)

    return send


@pytest.fixture
def watched(own_daemon: Cgroup) -> Iterator[Cgroup]:
    with Cgroup('watched', own_daemon) as cgroup:
        yield cgroup


@pytest.fixture
def elsewhere(own_daemon: Cgroup) -> Iterator[Cgroup]:
    with Cgroup('elsewhere', own_daemon) as cgroup:
        yield cgroup


class Open(Pair):
    """A pair whose listener stays open: it tells who the server is."""

    def __init__(self, server_in: Cgroup, client_in: Cgroup, **options: Any) -> None:
        with server_in.inside():
            self._listener = traffic.listen()
        with client_in.inside():
            pair = traffic.connect(self._listener, **options)
        super().__init__(pair.client, pair.server)

    def close(self) -> None:
        super().close()
        self._listener.close()


def test_each_connection_is_named_rightly(watched: Cgroup, elsewhere: Cgroup) -> None:
    pairs = {name: Open(watched, elsewhere) for name in ('requests', 'streaming', 'option', 'urgent')}
    pairs['blocking'] = Open(elsewhere, watched, blocking=True)
    pairs['idle'] = Open(watched, watched)
    unconcerned = Open(elsewhere, elsewhere)
    pairs['option'].server.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    pairs['urgent'].client.send(b'!', socket.MSG_OOB)
    with contextlib.ExitStack() as stack:
        for pair in (*pairs.values(), unconcerned):
            stack.callback(pair.close)
        talking = [talk(pairs[name]) for name in ('requests', 'option', 'urgent')]
        with busy(*talking, talk(unconcerned), stream(pairs['streaming'])):
            report = audit(watched.path)
        seen = {name: exchange(report, pair) for name, pair in pairs.items()}
        assert {name: row['traffic'] for name, row in seen.items()} == {
            'requests': 'requests', 'streaming': 'stream', 'option': 'requests', 'blocking': 'idle',
            'urgent': 'requests', 'idle': 'idle',
        }  # fmt: skip
        assert {name: row['reason'] for name, row in seen.items()} == {
            'requests': '', 'streaming': '', 'option': 'fwmark_end', 'blocking': 'blocking_end', 'urgent': '',
            'idle': '',
        }  # fmt: skip
        assert 'MSG_OOB' in seen['urgent']['sentence']
        assert report['connections'] == len(pairs)
        assert report['remote_bytes'] == 0
        assert report['local_bytes'] == sum(
            row['to_server_bytes'] + row['to_client_bytes'] for row in seen.values()
        )
        name = Path('/proc/self/comm').read_text().strip()
        assert {row['client'] for row in seen.values()} == {row['server'] for row in seen.values()} == {name}
        # It is not to be enabled: somebody uses urgent data.
        assert report['command'] == ''


def test_nothing_is_changed_and_nothing_left(watched: Cgroup) -> None:
    before, objects = dict(harness.call('Stats')), harness.objects()
    pair = Open(watched, watched)
    with contextlib.closing(pair):
        with busy(talk(pair)):
            report = audit(watched.path)
        assert report['command'].endswith(watched.path)
        assert exchange(report, pair)['reason'] == ''
        assert harness.connections() == []
        assert harness.targets() == []
        assert dict(harness.call('Stats')) == before
        assert harness.objects() == objects
        assert traffic.members() == set()


def splice(pair: Pair) -> Callable[[], None]:
    """The server reads so what the client sends."""

    def read() -> None:
        read_end, write_end = os.pipe()
        traffic.write(pair.client, b'x')
        select.select([pair.server], [], [], PATIENCE_S)
        assert os.splice(pair.server.fileno(), write_end, 1) == 1
        os.close(read_end)
        os.close(write_end)

    return read


def ask_fionread(pair: Pair) -> Callable[[], None]:
    def ask() -> None:
        traffic.exchange(pair, rounds=1)
        fcntl.ioctl(pair.server, termios.FIONREAD, bytes(4))

    return ask


def test_what_programs_do(watched: Cgroup) -> None:
    """No target is enabled, and the watchers are there for the audit alone."""
    severity = {row['name']: row['severity'] for row in harness.call('ListFindings')}
    blind, objects = severity['splice'] == 'issue', harness.objects()
    # Who asks is of no interest where the answer is right.
    expected = {
        splice: '' if blind else 'splice_end',
        ask_fionread: '' if blind or severity['fionread'] == 'ok' else 'fionread_end',
        talk: '',
    }
    pair = Open(watched, watched)
    with contextlib.closing(pair):
        for way, reason in expected.items():
            with busy(way(pair)):
                report = audit(watched.path)
            assert exchange(report, pair)['reason'] == reason, way
            assert bool(report['command']) is not bool(reason)
            assert any('splice() cannot be seen' in sentence for sentence in report['unseen']) is blind
        assert harness.objects() == objects


def test_sizes_and_directions(watched: Cgroup, elsewhere: Cgroup) -> None:
    pair = Open(watched, elsewhere)

    def ask() -> None:
        traffic.write(pair.client, bytes(100))
        traffic.read(pair.server, 100)
        traffic.write(pair.server, bytes(3000))
        traffic.read(pair.client, 3000)

    with contextlib.closing(pair):
        with busy(ask):
            seen = exchange(audit(watched.path), pair)
        # What is on its way at a look may be in one number and not in the other.
        assert 80 <= seen['to_server_size'] <= 125
        assert 2400 <= seen['to_client_size'] <= 3750


def test_another_network_namespace(watched: Cgroup) -> None:
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(TwoHosts())
        listener = stack.enter_context(there.submit(socket.create_server, ('10.99.0.2', 0)).result())
        with watched.inside():
            client = here.submit(socket.create_connection, listener.getsockname()).result()
        server, _address = listener.accept()
        pair = Pair(client, server)
        stack.callback(pair.close)
        for end in (client, server):
            end.setblocking(False)
        with busy(talk(pair)):
            report = audit(watched.path)
        assert exchange(report, pair)['reason'] == 'other_namespace'
        assert report['remote_bytes'] == 0
        assert report['local_bytes'] > 0


def test_a_connection_to_another_host(watched: Cgroup) -> None:
    """No program on this host has the other end."""
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(TwoHosts())
        listener = stack.enter_context(there.submit(socket.create_server, ('10.99.0.2', 0)).result())
        with watched.inside():
            client = stack.enter_context(here.submit(socket.create_connection, listener.getsockname()).result())
        with busy(lambda: client.sendall(b'x')):
            report = audit(watched.path)
        assert report['local_bytes'] == 0
        assert report['remote_bytes'] > 0
        assert [row['reason'] for row in report['exchanges']] == ['not_local']


def test_an_accepted_socket_of_a_listener_from_elsewhere(watched: Cgroup, elsewhere: Cgroup) -> None:
    """As with socket activation: listener and accepted socket are of the cgroup that opened it."""
    with elsewhere.inside():
        listener = traffic.listen()
    child = os.fork()
    if not child:
        watched.enter()
        server, _address = listener.accept()
        while data := server.recv(1000):
            server.sendall(data)
        os._exit(0)
    with elsewhere.inside():
        client = socket.create_connection(listener.getsockname())
    with listener, client:
        no_delay(client)

        def ask() -> None:
            client.sendall(b'x')
            assert client.recv(1) == b'x'

        with busy(ask):
            report = audit(watched.path)
    os.waitpid(child, 0)
    assert report['connections'] == 1
    assert report['local_bytes'] > 0


def test_a_client_that_leaves_ends_its_audit(watched: Cgroup) -> None:
    async def story() -> None:
        async with Client() as client:
            waiting = asyncio.ensure_future(client.wait_for(600, 'Audit', 'sa{sv}', watched.path, {}))
            # Answered after the first call was begun.
            await client.call('Stats')
            with pytest.raises(Refused, match='as many audits|is being audited already'):
                await client.call('Audit', 'sa{sv}', watched.path, {'seconds': count(1)})
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(story())

    def free() -> bool:
        try:
            audit(watched.path, 1)
        except Refused as exc:
            assert 'being audited' in str(exc)
            return False
        return True

    harness.wait_until(free, 'the audit ends with its client')


@pytest.mark.parametrize(
    ('target', 'options', 'said'),
    [
        ('{root}/nowhere', {}, 'does not exist'),
        ('nonsense', {}, 'neither a unit name'),
        ('*', {'seconds': count(0)}, 'from 1 to 3600'),
        ('*', {'seconds': integer(1)}, 'is of type'),
        ('*', {'minutes': count(1)}, 'is unknown'),
    ],
)
def test_what_is_wrong_is_named(own_daemon: Cgroup, target: str, options: Row, said: str) -> None:
    with pytest.raises(Refused, match=said):
        harness.call('Audit', 'sa{sv}', target.format(root=own_daemon.path), options)


def test_an_enabled_target(own_daemon: Cgroup, watched: Cgroup) -> None:
    harness.enable(watched.path, *harness.every_issue())
    with pytest.raises(Refused, match='is enabled'):
        audit(watched.path)
    # One above it: what is accelerated is told as that.
    pair = Open(watched, watched)
    with contextlib.closing(pair):
        traffic.accelerate(pair)
        with busy(talk(pair)):
            seen = exchange(audit(own_daemon.path), pair)
        assert seen['reason'] == ''
        assert seen['to_server_bytes'] > 0


def test_probation(watched: Cgroup) -> None:
    def state() -> tuple[str, str]:
        ((_name, state, detail),) = harness.targets()
        return state, detail

    def over() -> bool:
        return state()[0] != 'probation'

    accept = [f'--accept={issue}' for issue in harness.every_issue()]
    if accept:
        assert harness.control('enable', '--probation=1h', watched.path).returncode == 1
    long = harness.control('enable', '--probation=1h', *accept, watched.path)
    assert long.stdout.startswith('Probation of'), long.stderr
    assert state()[0] == 'probation'
    assert harness.control('disable', watched.path).returncode == 0
    command = ['enable', f'--probation={SECONDS}s', *accept, watched.path]
    assert harness.control(*command).returncode == 0
    harness.wait_until(over, 'its probation ends')
    assert state()[0] == 'refused'
    assert 'nothing is known' in state()[1]
    pair = Open(watched, watched)
    with contextlib.closing(pair), busy(talk(pair)):
        assert harness.control(*command).returncode == 0
        harness.wait_until(over, 'its probation ends')
        assert state()[0] == 'active'


def test_a_probation_sees_who_splices(watched: Cgroup) -> None:
    """It enables the target, and who splices is left alone; others are accelerated."""
    issues = harness.every_issue()
    if 'splice' in issues:
        pytest.skip('this kernel takes no watchers')
    pair = Open(watched, watched)
    with contextlib.closing(pair), busy(splice(pair)):
        harness.control(
            'enable', f'--probation={SECONDS}s', *(f'--accept={each}' for each in issues), watched.path
        )
        harness.wait_until(lambda: harness.targets()[0][1] != 'probation', 'its probation ends')
        assert harness.targets()[0][1] == 'active'
        harness.wait_until(lambda: 'splice_end' in reasons(pair), 'its connection stays with TCP')


def reasons(pair: Pair) -> set[str]:
    port = pair.client.getsockname()[1]
    return {
        str(row[side]) for row in harness.connections() if row['client_port'] == port
        for side in ('client_reason', 'server_reason')
    }  # fmt: skip


def test_the_command(watched: Cgroup) -> None:
    pair = Open(watched, watched)
    with contextlib.closing(pair), busy(talk(pair)):
        printed = harness.control('audit', watched.path, '--for=1s')
    assert printed.returncode == 0
    accept = ''.join(f'--accept {issue} ' for issue in harness.every_issue())
    assert f'\n  sockaccelctl enable {accept}{watched.path}\n' in printed.stdout
    assert 'request/response' in printed.stdout
