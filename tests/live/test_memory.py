# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of receivers: where it is short, senders see what plain TCP would show them, and nothing is dropped."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import network, traffic
from tests.support.harness import Cgroup
from tests.support.traffic import Pair, accelerate, fill, read, write

Stats = Callable[[], dict[str, int]]
MEMORY_V1 = Path('/sys/fs/cgroup/memory')
TCP_CORK, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 3, 32, 33
MESSAGE = 16384
WARM_UP_MESSAGES = 16


class Confined:
    """A memory cgroup. What it accepts has its receive buffers charged to it.

    On cgroup v1 the limit is one for TCP alone and must be there before the sockets are. On v2 it is one for all
    memory, set when the sockets are there and their owner is no longer inside.
    """

    def __init__(self, parent: Cgroup, size: int) -> None:
        self._size = size
        self._v1 = (MEMORY_V1 / 'memory.kmem.tcp.limit_in_bytes').exists()
        if self._v1:
            lines = Path('/proc/self/cgroup').read_text().splitlines()
            own = next(line.split(':', 2)[2] for line in lines if line.split(':')[1] == 'memory')
            self._before = MEMORY_V1 / own.lstrip('/')
            self.directory = MEMORY_V1 / f'sockaccel-memory-{os.getpid()}'
            self.directory.mkdir()
            (self.directory / 'memory.kmem.tcp.limit_in_bytes').write_text(str(size))
            return
        if 'memory' not in (parent.mount / 'cgroup.controllers').read_text().split():
            pytest.skip(
                'this kernel has no memory controller: neither memory.kmem.tcp of cgroup v1 nor that of v2'
            )
        # The controller is handed down from the top.
        for above in reversed([parent.directory, *parent.directory.parents]):
            if above.is_relative_to(parent.mount):
                (above / 'cgroup.subtree_control').write_text('+memory')
        self._cgroup = Cgroup('confined', parent)
        self.directory = self._cgroup.directory

    def __enter__(self) -> 'Confined':
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._v1:
            self.directory.rmdir()
        else:
            self._cgroup.remove()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        if not self._v1:
            with self._cgroup.inside():
                yield
            return
        (self.directory / 'cgroup.procs').write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._before / 'cgroup.procs').write_text(str(os.getpid()))

    def tighten(self) -> None:
        if not self._v1:
            used = int((self.directory / 'memory.current').read_text())
            (self.directory / 'memory.max').write_text(str(used + self._size))

    def loosen(self) -> None:
        if self._v1:
            (self.directory / 'memory.kmem.tcp.limit_in_bytes').write_text('-1')
        else:
            (self.directory / 'memory.max').write_text('max')


def _flood(cgroup: Cgroup | None, parent: Cgroup, size: int) -> tuple[set[str], int]:
    """Flood receivers that share so many bytes of socket memory and do not read; then they get all of it.

    Returns what send() failed with, and the bytes that were accepted.
    """
    errors: set[str] = set()
    with Confined(parent, size) as confined, contextlib.ExitStack() as stack:
        made = []
        with cgroup.inside() if cgroup else contextlib.nullcontext(), traffic.listen() as listener:
            for _connection in range(16):
                client = socket.socket()
                # Of a fixed size, so that the senders are full soon.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                client.connect(listener.getsockname())
                with confined.inside():
                    server, _address = listener.accept()
                made.append(Pair(client, server))
                stack.callback(made[-1].close)
        for pair in made:
            pair.client.setblocking(False)
            pair.server.setblocking(False)
            pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if cgroup:
            accelerate(*made)
        confined.tighten()
        expected = [b''] * len(made)
        for message in range(24):
            for number, pair in enumerate(made):
                data = bytes([message]) * MESSAGE
                try:
                    expected[number] += data[: pair.client.send(data)]
                except OSError as exc:
                    errors.add(errno.errorcode[exc.errno or 0])
        confined.loosen()
        for pair, data in zip(made, expected, strict=True):
            assert read(pair.server, len(data)) == data
    return errors, sum(map(len, expected))


def test_a_receiver_whose_cgroup_is_full_gives_senders_no_enomem(
    target: Cgroup, root_cgroup: Cgroup, sockaccel_stats: Stats
) -> None:
    """A redirect charges the receiver from the sender's send(), which fails with ENOMEM where TCP waits."""
    size = 1 << 20
    errors_of_tcp, accepted_by_tcp = _flood(None, root_cgroup, size)
    before = sockaccel_stats()
    errors, accepted = _flood(target, root_cgroup, size)
    after = sockaccel_stats()
    assert errors == errors_of_tcp == {'EAGAIN'}
    assert accepted_by_tcp / 2 < accepted < 2 * accepted_by_tcp
    assert after['message_reason_memory'] > before['message_reason_memory']
    assert after['redirected_bytes'] > before['redirected_bytes']


def _dropped_while_late(cgroup: Cgroup | None, message: int) -> tuple[int, int]:
    """Fill a receive buffer of 8 MB, which TCP has come to promise in full, then read it all.

    Returns how many times the kernel dropped segments for want of room, and the bytes that were accepted.
    """
    with cgroup.inside() if cgroup else contextlib.nullcontext(), traffic.listen() as listener:
        # The kernel doubles it.
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        made = traffic.connect(listener)
    if cgroup:
        accelerate(made)
    # So that the sender uses the whole window.
    made.client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20)
    _open_the_window(made)
    before = network.dropped()
    accepted = fill(made.client, message)
    assert len(read(made.server, accepted)) == accepted
    dropped = network.dropped() - before
    made.close()
    return dropped, accepted


def _open_the_window(made: Pair) -> None:
    """Let TCP promise as much as the buffer takes: with TCP_CORK set nothing is redirected."""
    data, held_back = b'w' * (1 << 20), 65536
    made.client.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 1)
    for _message in range(WARM_UP_MESSAGES):
        write(made.client, data)
        assert len(read(made.server, len(data) - held_back)) == len(data) - held_back
    made.client.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 0)
    rest = WARM_UP_MESSAGES * held_back
    assert len(read(made.server, rest)) == rest


@pytest.fixture
def namespace() -> Iterator[ThreadPoolExecutor]:
    """A thread whose network counters nobody else touches."""
    with network.namespace() as pool:
        yield pool


@pytest.mark.parametrize('message', [16384, 65536])
def test_nothing_is_dropped_from_a_large_buffer_of_a_late_reader(
    target: Cgroup, sockaccel_stats: Stats, namespace: ThreadPoolExecutor, message: int
) -> None:
    dropped_by_tcp, accepted_by_tcp = namespace.submit(_dropped_while_late, None, message).result()
    before = sockaccel_stats()['redirected_bytes']
    dropped, accepted = namespace.submit(_dropped_while_late, target, message).result()
    assert sockaccel_stats()['redirected_bytes'] > before
    assert dropped == dropped_by_tcp == 0
    assert accepted_by_tcp / 2 < accepted < 2 * accepted_by_tcp
