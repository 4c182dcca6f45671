# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets that leave the map, or must not join it: nobody loses a byte, and nobody stays who should not."""

import asyncio
import contextlib
import ctypes
import hashlib
import os
import random
import resource
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sockaccel.ctl.client import Client
from tests.conformance.syscalls import blocked_on
from tests.support import harness, network, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.patience import PATIENCE_S
from tests.support.traffic import Pair, accelerate, exchange, no_delay, read, write

SO_TIMESTAMP = 29
Stats = Callable[[], dict[str, int]]


def _stats() -> dict[str, int]:
    return dict(harness.call('Stats'))


def _total() -> int:
    """How many ends are joined."""
    return len(traffic.members())


def _inside(cgroup: Cgroup | None) -> contextlib.AbstractContextManager[None]:
    return cgroup.inside() if cgroup else contextlib.nullcontext()


def _evicted(pair: Pair) -> bool:
    return not {traffic.ports(pair.client), traffic.ports(pair.server)} & traffic.members()


def _take_over_a_refused_connection(cgroup: Cgroup | None) -> bytes:
    """A connect() is refused, another socket takes its port and gets bytes, the first one connects after all.

    Returns what the other socket reads then.
    """
    with contextlib.ExitStack() as stack:
        with _inside(cgroup):
            listener = stack.enter_context(socket.socket())
            listener.bind(('127.0.0.1', 0))
            address = listener.getsockname()
            refused = stack.enter_context(socket.socket())
            # The port is bound, and nobody listens yet.
            with pytest.raises(ConnectionRefusedError):
                refused.connect(address)
            source = refused.getsockname()
            assert source[1], 'this kernel forgets which port a refused socket had'
            listener.listen()
            client = socket.create_connection(address, source_address=source)
        server, _address = listener.accept()
        made = Pair(client, server)
        stack.callback(made.close)
        made.client.setblocking(False)
        made.server.setblocking(False)
        if cgroup:
            accelerate(made)
        write(made.server, b'precious')
        refused.connect(address)
        return read(made.client, 8)


def test_a_refused_socket_that_retries_leaves_who_took_its_port_alone(
    target: Cgroup, sockaccel_stats: Stats
) -> None:
    """In network namespaces of their own, where nobody else takes that port."""
    with network.namespace() as pool:
        assert pool.submit(_take_over_a_refused_connection, None).result() == b'precious'
    before = sockaccel_stats()['redirected_bytes']
    with network.namespace() as pool:
        assert pool.submit(_take_over_a_refused_connection, target).result() == b'precious'
    assert sockaccel_stats()['redirected_bytes'] - before == 8


@contextlib.contextmanager
def _daemon(settings: str) -> Iterator[Cgroup]:
    """The root cgroup of a daemon with settings of its own, enabled as the only target."""
    with Cgroup(f'sockaccel-eviction-{os.getpid()}') as root, PrivateBus(), Daemon(root.path, settings) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        yield root


def test_without_events_sockets_join_and_leave_all_the_same() -> None:
    with _daemon('EventsPerSecond=0\nJoinDelayMs=0\n') as root, traffic.pair(root) as made:
        made.server.setblocking(True)
        write(made.client, b'x')
        harness.wait_until(lambda: _evicted(made), 'a pair with a blocking end is evicted')
        assert _stats()['connection_reason_blocking_end'] == 1
        assert _stats()['events_suppressed'] > 0


def test_why_a_connection_stays_out_is_counted_once() -> None:
    """Of three that never become suitable; they are looked at for half a minute."""
    with _daemon('JoinDelayMs=0\n') as root, contextlib.ExitStack() as stack:
        # A listener that the daemon's program does not see.
        unseen = stack.enter_context(traffic.listen())
        with root.inside():
            stack.enter_context(socket.create_connection(unseen.getsockname()))
            unaccepted = stack.enter_context(traffic.listen())
            stack.enter_context(socket.create_connection(unaccepted.getsockname()))
        stack.enter_context(traffic.pair(root, blocking=True))
        reasons = {'lonely': 1, 'unaccepted': 1, 'blocking_end': 1}

        def counted() -> dict[str, int]:
            return {name: _stats()[f'connection_reason_{name}'] for name in (*reasons, 'short')}

        harness.wait_until(lambda: sum(counted().values()) >= 3, 'all three are given up')
        assert counted() == {**reasons, 'short': 0}
        assert _total() == 0


def _attached(cgroup: Cgroup) -> bool:
    shown = subprocess.run(
        ['bpftool', 'cgroup', 'show', cgroup.directory], capture_output=True, text=True, check=True
    )
    return 'sockaccel_join' in shown.stdout


def _draining() -> list[str]:
    return [detail for _name, state, detail in harness.targets() if state == 'draining']


def _reconnect(
    cgroup: Cgroup | None, before_disconnect: Callable[[], None], before_connect: Callable[[], None]
) -> bytes:
    """Disconnect a socket with unread bytes and connect it anew; returns what it reads of the new connection."""
    with _inside(cgroup), traffic.listen() as listener:
        made = traffic.connect(listener)
        if cgroup:
            accelerate(made)
        write(made.server, b'old')
        before_disconnect()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.connect(made.client.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) == 0
        made.server.close()
        before_connect()
        made.client.setblocking(True)
        made.client.connect(listener.getsockname())
        made.client.setblocking(False)
        server, _address = listener.accept()
    with made.client, server:
        write(server, b'new')
        server.shutdown(socket.SHUT_WR)
        return read(made.client, 6)


def _nothing() -> None:
    pass


@pytest.mark.parametrize('after_a_sweep', [False, True])
def test_after_disable_a_reconnected_socket_reads_only_what_is_new(
    own_daemon: Cgroup,
    after_a_sweep: bool,  # noqa: FBT001
) -> None:
    """What it had not read keeps it in the map until it connects; then the daemon has nothing left to do."""
    with contextlib.ExitStack() as stack:

        def disable() -> None:
            assert _stats()['redirected_bytes'] - before == 3 + 4 * after_a_sweep
            harness.call('Disable', 's', own_daemon.path)
            assert _draining() == [f'{1 + after_a_sweep} sockets hold unread bytes']
            assert _attached(own_daemon)

        def sweep() -> None:
            # The one that is closed meanwhile shows that a sweep has been.
            stack.close()
            harness.wait_until(lambda: _draining() == ['1 sockets hold unread bytes'], 'there is a sweep')

        assert _reconnect(None, _nothing, _nothing) == b'new'
        before = _stats()['redirected_bytes']
        harness.enable(own_daemon.path, *harness.every_issue())
        if after_a_sweep:
            write(stack.enter_context(traffic.pair(own_daemon)).client, b'late')
        assert _reconnect(own_daemon, disable, sweep if after_a_sweep else _nothing) == b'new'
    harness.wait_until(lambda: not _attached(own_daemon), 'the daemon lets go of the cgroup')
    assert not _draining()


@pytest.mark.parametrize('last', ['target', 'bystander'])
def test_a_port_shared_by_two_cgroups_joins_nobody_outside_the_target(
    target: Cgroup, bystander: Cgroup, last: str
) -> None:
    """SO_REUSEPORT: which listener answers shows only when the client has joined. last: who listened last."""
    cgroups = [bystander, target] if last == 'target' else [target, bystander]
    with contextlib.ExitStack() as stack:
        listeners: dict[Cgroup, socket.socket] = {}
        port = 0
        for cgroup in cgroups:
            with cgroup.inside():
                listener = stack.enter_context(socket.create_server(('127.0.0.1', port), reuse_port=True))
            listener.setblocking(False)
            port = listener.getsockname()[1]
            listeners[cgroup] = listener
        made: dict[Cgroup, list[Pair]] = {target: [], bystander: []}
        while not all(len(pairs) >= 5 for pairs in made.values()):
            assert sum(map(len, made.values())) < 200
            with bystander.inside():
                client = stack.enter_context(socket.create_connection(('127.0.0.1', port)))
            ready, _, _ = select.select(listeners.values(), [], [], PATIENCE_S)
            answered = next(cgroup for cgroup, listener in listeners.items() if listener in ready)
            server = stack.enter_context(listeners[answered].accept()[0])
            client.setblocking(False)
            server.setblocking(False)
            made[answered].append(Pair(client, server))
        # The target's listener is found first, and its connections join if it is the one that answers.
        accelerate(*made[target])
        with traffic.pair(target):
            joined = traffic.members()
        for cgroup, pairs in made.items():
            for pair in pairs:
                exchange(pair)
                for end in (pair.client, pair.server):
                    assert (traffic.ports(end) in joined) == (cgroup is target)


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Stats:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * MANY + 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], needed), max(before[1], needed)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


MANY, UNREAD = 1500, 10


def test_of_many_connections_none_is_forgotten(many_files: None) -> None:
    """More than fit into one buffer of the walk over the members, and into one reply on the bus."""
    with _many() as (root, made):
        assert _stats()['connections'] == MANY
        assert _total() == 2 * MANY
        for pair in made[:UNREAD]:
            write(pair.client, b'unread')
        redirected = _stats()['redirected_bytes']
        assert redirected >= 6 * UNREAD
        harness.call('Disable', 's', root.path)
        assert _total() == UNREAD
        assert _draining() == [f'{UNREAD} sockets hold unread bytes']
        assert _stats()['connection_reason_drained'] == MANY
        for pair in made[:UNREAD]:
            assert read(pair.server, 6) == b'unread'
        # select() takes no fd above 1023.
        for pair in made[:300:10]:
            exchange(pair)
        assert _stats()['redirected_bytes'] == redirected


def test_who_follows_the_events_is_told_of_every_eviction_or_how_many_it_lost(many_files: None) -> None:
    with _many() as (root, made):
        ends = {traffic.ports(end) for pair in made for end in (pair.client, pair.server)}
        told, lost = _disable_and_follow(root.path, len(ends))
        assert len(told) + lost == len(ends)
        assert len(told) == len(set(told))
        assert set(told) <= ends
        assert _total() == 0


@contextlib.contextmanager
def _many() -> Iterator[tuple[Cgroup, list[Pair]]]:
    """With a limit near their number buckets of the map have more than one member, as the walk must be fit for."""
    with _daemon(f'MaximumConnections={MANY + 100}\nJoinDelayMs=0\n') as root, contextlib.ExitStack() as stack:
        made = []
        with root.inside(), traffic.listen() as listener:
            for _connection in range(MANY):
                made.append(traffic.connect(listener))
                stack.callback(made[-1].close)
        harness.wait_until(lambda: _total() == 2 * MANY, 'all join')
        for pair in made[:UNREAD]:
            exchange(pair)
        yield root, made


def _disable_and_follow(name: str, count: int) -> tuple[list[tuple[int, int]], int]:
    """Disable a target; returns local and remote port of the ends told of as evicted, and how many are lost.

    count: of both together.
    """

    async def follow() -> tuple[list[tuple[int, int]], int]:
        told: list[tuple[int, int]] = []
        lost = 0
        async with Client() as client, Client() as caller:
            events = await client.subscribe({})
            await caller.call('Disable', 's', name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while len(told) + lost < count:
                        event = await anext(events)
                        lost += event.get('lost', 0)
                        if event.get('kind') == 'evicted':
                            told.append((event['local_port'], event['remote_port']))
        return told, lost

    return asyncio.run(follow())


NOISE = random.Random(1).randbytes(1 << 20)
PAIRS, TURNS, STEP, DIGEST = 20, 20, 200_000, 32


class _End:
    """One end of a stream: sends bytes and their digest, receives the same of the other end.

    ending: whether it may send the digest.
    """

    def __init__(self, end: socket.socket, chance: random.Random) -> None:
        self.ending = False
        self.socket = end
        self._chance = chance
        data = NOISE[: chance.randrange(100_000, len(NOISE))]
        self._unsent = memoryview(data + hashlib.sha256(data).digest())
        self._got = bytearray()

    def proceed(self, events: int) -> bool:
        """Send and receive something; returns whether there is more to be done."""
        if events & select.EPOLLOUT and self._sendable:
            count = min(self._sendable, self._chance.randrange(1, 100_000))
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self.socket.send(self._unsent[:count]) :]
            if not self._unsent:
                self.socket.shutdown(socket.SHUT_WR)
        if events & select.EPOLLIN:
            with contextlib.suppress(BlockingIOError):
                chunk = self.socket.recv(self._chance.randrange(1, 100_000))
                if not chunk and not self._unsent:
                    return False
                self._got += chunk
        return True

    @property
    def _sendable(self) -> int:
        return len(self._unsent) - (0 if self.ending else DIGEST)

    @property
    def interest(self) -> int:
        return select.EPOLLIN | (select.EPOLLOUT if self._sendable else 0)

    def check(self) -> None:
        assert hashlib.sha256(self._got[:-DIGEST]).digest() == self._got[-DIGEST:], f'{len(self._got)} bytes came'


def _stream(sockets: list[socket.socket], seed: int, may_end: threading.Event) -> None:
    """Serve one end each of some streams until both directions have ended, which they do not before they may."""
    chance = random.Random(seed)
    ends = {end.fileno(): _End(end, chance) for end in sockets}
    left = set(ends)
    ending = False
    with select.epoll() as epoll:
        for number, end in ends.items():
            epoll.register(number, end.interest)
        while left:
            happened = epoll.poll(PATIENCE_S if ending else 0.01)
            assert happened or not ending, f'{len(left)} streams stand still'
            if may_end.is_set() and not ending:
                ending = True
                for number in left:
                    ends[number].ending = True
                    epoll.modify(number, ends[number].interest)
            for number, events in happened:
                if ends[number].proceed(events):
                    epoll.modify(number, ends[number].interest)
                else:
                    epoll.unregister(number)
                    left.remove(number)
    for end in ends.values():
        end.check()


def test_streams_lose_nothing_while_their_target_comes_and_goes(own_daemon: Cgroup) -> None:
    """The clients are one thread, the servers another, so that an end is sent to while it is read and evicted."""
    with ThreadPoolExecutor(2) as pool:
        for turn in range(TURNS):
            harness.enable(own_daemon.path, *harness.every_issue())
            before = _stats()['redirected_bytes']
            with contextlib.ExitStack() as stack:
                with own_daemon.inside(), traffic.listen() as listener:
                    made = [traffic.connect(listener) for _connection in range(PAIRS)]
                for pair in made:
                    stack.callback(pair.close)
                accelerate(*made)
                may_end = threading.Event()
                stack.callback(may_end.set)
                clients = pool.submit(_stream, [pair.client for pair in made], 2 * turn, may_end)
                servers = pool.submit(_stream, [pair.server for pair in made], 2 * turn + 1, may_end)
                # A little later in the life of the streams every time, at the latest when nothing moves any more.
                moved = -1
                while not (clients.done() or servers.done()):
                    counted = _stats()
                    last, moved = moved, counted['redirected_bytes'] + counted['tcp_bytes']
                    if counted['redirected_bytes'] - before > turn * STEP or moved == last:
                        break
                harness.call('Disable', 's', own_daemon.path)
                may_end.set()
                servers.result()
                clients.result()
    counted = _stats()
    assert counted['connections'] == TURNS * PAIRS
    assert counted['redirected_bytes'] > TURNS * STEP
    assert counted['connection_reason_drained'] == TURNS * PAIRS


def test_a_reader_that_slept_before_its_socket_joined_is_woken() -> None:
    """It sleeps in TCP's own receive function, which looks at TCP's queue alone (sk_wait_data())."""
    with (
        _daemon('JoinDelayMs=300\nBlockingReaders=yes\n') as root,
        ThreadPoolExecutor(1) as pool,
        traffic.pair(root, blocking=True) as made,
    ):
        task = pool.submit(threading.get_native_id).result()
        answer = pool.submit(made.server.recv, 10)
        harness.wait_until(lambda: blocked_on(task, made.server.fileno()), 'the reader sleeps')
        assert not traffic.members()
        harness.wait_until(lambda: len(traffic.members()) == 2, 'both join')
        assert not answer.done()
        made.client.sendall(b'wake up')
        try:
            assert answer.result(PATIENCE_S) == b'wake up'
        finally:
            made.client.close()


@pytest.mark.parametrize('delay', [True, False])
def test_a_blocking_reader_that_waits_for_all_gets_all(delay: bool) -> None:  # noqa: FBT001
    """The first part comes by TCP, and the reader then sleeps inside TCP's own receive function."""
    parts = [bytes([number]) * 5 for number in range(6)]
    with (
        _daemon('JoinDelayMs=0\nBlockingReaders=yes\n') as root,
        ThreadPoolExecutor(1) as pool,
        traffic.pair(root, blocking=True) as made,
    ):
        harness.wait_until(lambda: len(traffic.members()) == 2, 'both join')
        no_delay(made.client, on=not delay)
        task = pool.submit(threading.get_native_id).result()
        answer = pool.submit(made.server.recv, 30, socket.MSG_WAITALL)
        try:
            for part in parts:
                harness.wait_until(lambda: blocked_on(task, made.server.fileno()), 'the reader sleeps')
                made.client.sendall(part)
            assert answer.result(PATIENCE_S) == b''.join(parts)
        finally:
            made.client.close()


def test_an_end_whose_peer_is_left_out_leaves_too() -> None:
    """The accepting end, or the connecting one, may have joined already when the other one is found unsuitable."""
    with _daemon('JoinDelayMs=0\n') as root, contextlib.ExitStack() as stack:
        kept = []
        with root.inside(), traffic.listen() as listener:
            for _connection in range(20):
                made = traffic.connect(listener)
                stack.callback(made.close)
                # SO_TIMESTAMP, as soon as there may have been a walk.
                made.server.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
                kept.append(made)
        with traffic.pair(root), traffic.pair(root) as last:
            ends = {traffic.ports(last.client), traffic.ports(last.server)}
            harness.wait_until(lambda: len(traffic.members()) <= 4, 'only who can be accelerated is in the map')
            assert ends <= traffic.members()
        counted = _stats()
        assert counted['connection_reason_option_end'] == len(kept)
        assert counted['connection_reason_lonely'] == 0
