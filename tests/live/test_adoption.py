# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that were there before their target was enabled."""

import contextlib
import hashlib
import os
import random
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from sockaccel.kernel import libbpf
from sockaccel.kernel.abi import PAIR_KEY
from tests.support import harness, network, traffic
from tests.support.foreign import Foreign
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.patience import PATIENCE_S
from tests.support.traffic import Pair, exchange, is_member, read, write

# The last bytes of what a busy sender has sent when it waits for its reader.
MARK = b'caught up?'


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-adoption-{os.getpid()}') as cgroup:
        yield cgroup


def plain_pair(client: Cgroup, server: Cgroup, *, blocking: bool = False) -> Pair:
    """A connection that nobody accelerates yet."""
    with server.inside():
        listener = traffic.listen()
    with listener, client.inside():
        made = traffic.connect(listener, blocking=blocking)
    exchange(made) if not blocking else None
    return made


def redirected() -> int:
    return int(harness.call('Stats')['redirected_messages'])


def is_accelerated(made: Pair) -> bool:
    before = redirected()
    exchange(made)
    return redirected() >= before + 4


@pytest.mark.parametrize('listener_is', ['open', 'closed'])
def test_a_connection_is_adopted_when_its_target_is_enabled(own_daemon: Cgroup, listener_is: str) -> None:
    with Cgroup('target', own_daemon) as target, contextlib.ExitStack() as stack:
        with target.inside():
            listener = stack.enter_context(traffic.listen())
            made = traffic.connect(listener)
        stack.callback(made.close)
        exchange(made)
        if listener_is == 'closed':
            listener.close()
        # Bytes that nobody has read yet come first.
        write(made.client, b'before')
        assert 'Adopted 1 connections' in harness.enable_by_command(target)
        assert is_member(made.client)
        write(made.client, b', after')
        assert read(made.server, 13) == b'before, after'
        assert is_accelerated(made)
        (row,) = harness.connections()
        assert row['adopted']
        assert (row['client_port'], row['server_port']) == traffic.ports(made.client)
        assert harness.call('TargetStats', 's', target.path)['connection_reason_missed'] == 0


@pytest.mark.parametrize('inside', ['client', 'server'])
def test_one_end_in_the_target_is_enough(own_daemon: Cgroup, inside: str) -> None:
    with Cgroup('target', own_daemon) as target, Cgroup('other', own_daemon) as other:
        made = plain_pair(*((target, other) if inside == 'client' else (other, target)))
        assert 'Adopted 1 ' in harness.enable_by_command(target)
        assert is_accelerated(made)
        made.close()


def test_what_was_enabled_before_is_adopted_again(own_daemon: Cgroup) -> None:
    with Cgroup('target', own_daemon) as target:
        made = plain_pair(target, target)
        for _round in range(3):
            assert 'Adopted 1 ' in harness.enable_by_command(target)
            assert is_accelerated(made)
            write(made.client, b'unread')
            harness.call('Disable', 's', target.path)
            assert read(made.server, 6) == b'unread'
            # What a marked end sends lets the daemon look again.
            exchange(made)
            harness.wait_until(lambda: not harness.targets(), 'the end that held bytes leaves')
        made.close()


def test_new_only(own_daemon: Cgroup) -> None:
    with Cgroup('target', own_daemon) as target:
        made = plain_pair(target, target)
        assert 'Adopted' not in harness.enable_by_command(target, '--new-only')
        exchange(made)
        assert not is_member(made.client)
        made.close()


def test_a_blocking_reader_is_left_alone(own_daemon: Cgroup) -> None:
    with Cgroup('target', own_daemon) as target:
        made = plain_pair(target, target, blocking=True)
        assert 'Adopted' not in harness.enable_by_command(target)
        assert not is_member(made.client)
        made.close()


def test_connections_of_every_namespace_and_translation(own_daemon: Cgroup) -> None:
    def make() -> Pair:
        return plain_pair(target, target)

    with Cgroup('target', own_daemon) as target, network.namespace() as pool:
        made = [pool.submit(make).result(), make()]
        assert 'Adopted 2 ' in harness.enable_by_command(target)
        for each in made:
            assert is_accelerated(each)
            each.close()


def test_a_restart_adopts_what_came_meanwhile(root: Cgroup, tmp_path: Path) -> None:
    with Cgroup('target', root) as target, FdStore() as store:
        with Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon:
            daemon.ready()
            harness.enable_by_command(target)
            first = plain_pair(target, target)
            harness.wait_until(lambda: is_member(first.client), 'it joins')
            daemon.stop(9)
        store.clear()
        between = plain_pair(target, target)
        with Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon:
            daemon.ready()
            harness.wait_until(lambda: is_member(between.client), 'it is adopted')
            assert is_accelerated(between)
            exchange(first)
        between.close()
        first.close()


class Busy:
    """Random bytes both ways over a connection, from threads of their own, compared by their digests.

    A context manager, which ends them however far they are.
    """

    def __init__(self, made: Pair, seed: int) -> None:
        self.made = made
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._sent, self._got = [], []
        for sender, reader in ((made.client, made.server), (made.server, made.client)):
            has_read = threading.Semaphore(0)
            self._sent.append(self._pool.submit(self._send, sender, seed, has_read))
            self._got.append(self._pool.submit(self._receive, reader, has_read))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for end in (self.made.client, self.made.server):
            # It may have ended as it should.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown()
        self.made.close()

    def _send(self, end: socket.socket, seed: int, has_read: threading.Semaphore) -> str:
        chance, digest = random.Random(seed), hashlib.sha256()
        while not self._stop.is_set():
            data = chance.randbytes(chance.choice((1, 100, 4000, 40000)))
            write(end, data)
            digest.update(data)
            # To a reader that never catches up nothing would be redirected.
            if chance.random() < 0.25:
                write(end, MARK)
                digest.update(MARK)
                assert has_read.acquire(timeout=PATIENCE_S), 'the reader has not caught up'
        end.shutdown(socket.SHUT_WR)
        return digest.hexdigest()

    def _receive(self, end: socket.socket, has_read: threading.Semaphore) -> str:
        digest, last = hashlib.sha256(), b''
        while data := self._some(end):
            digest.update(data)
            last = (last + data)[-len(MARK) :]
            if last == MARK:
                has_read.release()
        return digest.hexdigest()

    def _some(self, end: socket.socket) -> bytes:
        assert select.select([end], [], [], PATIENCE_S)[0], 'nothing comes'
        return end.recv(65536)

    def finish(self) -> None:
        self._stop.set()
        assert [job.result() for job in self._got] == [job.result() for job in self._sent]


def test_busy_connections_lose_nothing_whatever_happens(root: Cgroup, tmp_path: Path) -> None:
    with Cgroup('target', root) as target, FdStore() as store, contextlib.ExitStack() as stack:
        with Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon:
            # In an emulated machine it would take minutes beside them.
            daemon.ready()
            busy = [stack.enter_context(Busy(plain_pair(target, target), 2 * number)) for number in range(3)]
            harness.enable_by_command(target)
            harness.wait_until(lambda: harness.call('Stats')['adopted'] == len(busy), 'all are adopted')
            harness.call('Disable', 's', target.path)
            harness.enable_by_command(target)
            daemon.stop(9)
        with Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon:
            daemon.ready()
            before = redirected()
            harness.wait_until(lambda: redirected() > before, 'messages are redirected after the crash')
            for each in busy:
                each.finish()


def test_nothing_is_left_where_somebody_switches_callbacks_off(root: Cgroup, tmp_path: Path) -> None:
    """A rude program clears the callback flags: nobody tells sockaccel_join that a connection is closed."""
    with (
        Cgroup('target', root) as target,
        FdStore() as store,
        Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon,
    ):
        daemon.ready()
        harness.enable_by_command(target)
        (peers,) = (fd for name, fd in store.fds.items() if name.endswith('-sa_peers'))
        with Foreign(root, 'rude'):
            for _connection in range(20):
                with traffic.pair(target) as made:
                    exchange(made)
        assert libbpf.map_keys(peers, PAIR_KEY.size) == []
        assert harness.call('TargetStats', 's', target.path)['connections_closed'] == 40


@pytest.mark.parametrize('closed_first', ['client', 'listener'])
def test_one_that_nobody_accepts_leaves_nothing(root: Cgroup, tmp_path: Path, closed_first: str) -> None:
    """The same program, and a server that accepts nothing: nobody closes its ends."""
    with (
        Cgroup('target', root) as target,
        FdStore() as store,
        Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon,
    ):
        daemon.ready()
        harness.enable_by_command(target)
        (peers,) = (fd for name, fd in store.fds.items() if name.endswith('-sa_peers'))
        with Foreign(root, 'rude'), target.inside():
            listener = traffic.listen()
            clients = [socket.create_connection(listener.getsockname()) for _connection in range(20)]
        assert len(libbpf.map_keys(peers, PAIR_KEY.size)) == 2 * len(clients)
        for end in [*clients, listener] if closed_first == 'client' else [listener, *clients]:
            end.close()
        assert libbpf.map_keys(peers, PAIR_KEY.size) == []
