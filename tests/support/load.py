# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that echo and compare without pause, and others that hold unread bytes, while something happens."""

import contextlib
import random
import select
import socket
import threading
from collections.abc import Sequence
from typing import Self

from tests.support import harness, topology, traffic
from tests.support.harness import Cgroup
from tests.support.topology import GATEWAY, PUBLISHED_ABOVE, SERVER, Topology

NOISE = random.Random(7).randbytes(1 << 20)
LARGEST = 32768


class _End:
    """One end of an echoing connection, for one thread."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.unsent = b''
        self.echoes = 0

    @property
    def interest(self) -> int:
        raise NotImplementedError

    def proceed(self) -> None:
        raise NotImplementedError

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> bytes:
        try:
            data = self.socket.recv(LARGEST)
        except BlockingIOError:
            return b''
        if not data:
            raise AssertionError('the stream has ended')
        return data


class _Server(_End):
    @property
    def interest(self) -> int:
        # As a reader that takes no more than it can answer.
        return select.EPOLLOUT if self.unsent else select.EPOLLIN

    def proceed(self) -> None:
        self.send()
        if not self.unsent:
            self.unsent = self.receive()
            self.send()


class _Client(_End):
    def __init__(self, end: socket.socket, number: int) -> None:
        super().__init__(end)
        self._chance = random.Random(number)
        self._expected = b''
        self._ask()

    @property
    def interest(self) -> int:
        return select.EPOLLIN | (select.EPOLLOUT if self.unsent else 0)

    def _ask(self) -> None:
        start, size = self._chance.randrange(len(NOISE) - LARGEST), self._chance.randrange(1, LARGEST)
        self.unsent = self._expected = NOISE[start : start + size]

    def proceed(self) -> None:
        self.send()
        data = self.receive()
        if not self._expected.startswith(data):
            raise AssertionError(f'{len(data)} bytes came that were not sent, or not in this order')
        self._expected = self._expected[len(data) :]
        if not self._expected:
            self.echoes += 1
            self._ask()
            self.send()


class Load:
    """A context manager; at its end every byte has been compared, or it raises AssertionError.

    towns: where two thirds of the connections cross network namespaces, half of these by a published port.
    """

    def __init__(self, cgroup: Cgroup, echoing: int, idle: int, towns: Topology | None = None) -> None:
        with cgroup.inside():
            self._pairs, self._idle = (_connections(count, towns) for count in (echoing, idle))
        self._faults: list[str] = []
        self._stopping = threading.Event()
        self._clients = [_Client(pair.client, number) for number, pair in enumerate(self._pairs)]
        servers = [_Server(pair.server) for pair in self._pairs]
        self._threads = [threading.Thread(target=self._serve, args=(ends,)) for ends in (self._clients, servers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def accelerate_idle(self) -> None:
        """Leave redirected bytes unread on each idle connection, which must have joined."""
        traffic.join(*self._idle)
        for number, pair in enumerate(self._idle):
            traffic.write(pair.client, _unread(number))

    def go_on(self) -> None:
        """Return when every connection has echoed once more."""
        before = [client.echoes for client in self._clients]
        harness.wait_until(
            lambda: bool(self._faults)
            or all(client.echoes > echoes for client, echoes in zip(self._clients, before, strict=True)),
            'every connection goes on',
        )
        assert not self._faults, self._faults

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        try:
            for number, pair in enumerate(self._idle):
                assert traffic.read(pair.server, len(_unread(number))) == _unread(number)
            assert not self._faults, self._faults
        finally:
            for pair in (*self._pairs, *self._idle):
                pair.close()

    def _serve(self, ends: Sequence[_End]) -> None:
        by_number = {end.socket.fileno(): end for end in ends}
        with select.epoll() as epoll:
            for number, end in by_number.items():
                epoll.register(number, end.interest)
            while not self._stopping.is_set():
                for number, _events in epoll.poll(0.1):
                    try:
                        by_number[number].proceed()
                        epoll.modify(number, by_number[number].interest)
                    except (AssertionError, OSError) as exc:
                        self._faults.append(f'{type(by_number[number]).__name__}: {exc!r}')
                        epoll.unregister(number)


def _connections(count: int, towns: Topology | None) -> list[traffic.Pair]:
    with traffic.listen() as listener:
        made = [traffic.connect(listener) for _connection in range(count // 3 if towns else count)]
    if not towns:
        return made
    with topology.inside(towns.server):
        listener = socket.create_server(('', 0))
    port = listener.getsockname()[1]
    addresses = ((SERVER[0], port), (GATEWAY[0], port + PUBLISHED_ABOVE))
    with listener, topology.inside(towns.neighbour):
        while len(made) < count:
            made.append(traffic.connect_to(addresses[len(made) % 2], listener))
    return made


def _unread(number: int) -> bytes:
    return b'unread of %d;' % number * 50
