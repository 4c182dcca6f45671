# SPDX-License-Identifier: GPL-2.0-or-later
"""Which two sockets are the ends of one connection, whatever addresses they see."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import harness, network, traffic
from tests.support.harness import Cgroup
from tests.support.traffic import Pair, exchange, no_delay, read, write

Stats = Callable[[], dict[str, int]]
# netinet/tcp.h
TCP_FASTOPEN = 23
# Linux lets servers do TCP Fast Open too (Documentation/networking/ip-sysctl.rst).
FAST_OPEN_BY_BOTH = '3'


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Stats:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own."""
    with network.namespace() as pool:
        yield pool


def run(*command: str) -> None:
    """In the network namespace of this thread."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f'{command}: {ended.stderr}'


def translate(rule: str) -> None:
    """Give what this network namespace's programs connect to another destination."""
    run('nft', 'add table ip nat')
    run('nft', 'add chain ip nat output { type nat hook output priority -100; }')
    run('nft', f'add rule ip nat output {rule}')


def connect_to(address: tuple[str, int], listener: socket.socket) -> Pair:
    client = socket.create_connection(address)
    server, _address = listener.accept()
    for end in (client, server):
        end.setblocking(False)
        no_delay(end)
    return Pair(client, server)


def ends_are_accelerated(made: Pair, stats: Stats) -> None:
    """Both ends join, and every message but the first of each direction is redirected."""
    harness.wait_until(lambda: _joined(made), 'both ends join')
    before = stats()['redirected_messages']
    exchange(made)
    assert stats()['redirected_messages'] >= before + 4
    made.close()


def _joined(made: Pair) -> bool:
    port = made.client.getsockname()[1]
    rows = [row for row in harness.connections() if row['client_port'] == port]
    return [(row['client_state'], row['server_state']) for row in rows] == [('joined', 'joined')]


def test_a_redirect_to_a_local_port(elsewhere: ThreadPoolExecutor, target: Cgroup, stats: Stats) -> None:
    """As in front of the proxy of a service mesh: the client believes that it speaks to another host."""

    def make() -> Pair:
        run('ip', 'addr', 'add', '198.51.100.1/32', 'dev', 'lo')
        run('ip', 'route', 'add', '192.0.2.0/24', 'dev', 'lo')
        with target.inside(), socket.create_server(('0.0.0.0', 0)) as listener:
            translate(f'ip daddr 192.0.2.1 tcp dport 80 redirect to :{listener.getsockname()[1]}')
            return connect_to(('192.0.2.1', 80), listener)

    made = elsewhere.submit(make).result()
    assert made.client.getpeername() == ('192.0.2.1', 80)
    ends_are_accelerated(made, stats)


@pytest.mark.parametrize('address', ['127.0.0.1', '127.0.0.9', '192.0.2.1'])
def test_a_published_port_on_the_same_host(
    elsewhere: ThreadPoolExecutor, target: Cgroup, stats: Stats, address: str
) -> None:
    def make() -> Pair:
        run('ip', 'addr', 'add', '192.0.2.1/32', 'dev', 'lo')
        with target.inside(), traffic.listen() as listener:
            translate(f'tcp dport 8080 dnat to 127.0.0.1:{listener.getsockname()[1]}')
            return connect_to((address, 8080), listener)

    ends_are_accelerated(elsewhere.submit(make).result(), stats)


@contextlib.contextmanager
def _fast_open(client_is_in: Cgroup, server_is_in: Cgroup) -> Iterator[Pair]:
    """The second connection's SYN carries data; the first one fetches the cookie."""
    Path('/proc/sys/net/ipv4/tcp_fastopen').write_text(FAST_OPEN_BY_BOTH)
    with server_is_in.inside():
        listener = traffic.listen()
    with listener:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)
        for connection in range(2):
            with client_is_in.inside():
                client = socket.socket()
                client.sendto(b'in the SYN', socket.MSG_FASTOPEN, listener.getsockname())
            server, _address = listener.accept()
            made = Pair(client, server)
            for end in (client, server):
                end.setblocking(False)
                no_delay(end)
            if connection:
                yield made
            made.close()


@pytest.mark.parametrize('read_first', [True, False])
def test_fast_open(
    elsewhere: ThreadPoolExecutor,
    target: Cgroup,
    stats: Stats,
    read_first: bool,  # noqa: FBT001
) -> None:
    """The accepting end is established before the connecting one."""

    def story() -> None:
        with _fast_open(target, target) as made:
            came = b'in the SYN, after'
            if read_first:
                assert read(made.server, 10) == came[:10]
                came = came[10:]
            harness.wait_until(lambda: _joined(made), 'both ends join')
            write(made.client, b', after')
            assert read(made.server, len(came)) == came
            ends_are_accelerated(made, stats)

    elsewhere.submit(story).result()
    assert stats()['connection_reason_fast_open'] == 0


def test_fast_open_to_a_server_outside(
    elsewhere: ThreadPoolExecutor, target: Cgroup, bystander: Cgroup, stats: Stats
) -> None:
    def story() -> None:
        with _fast_open(target, bystander) as made:
            write(made.client, b', after')
            assert read(made.server, 17) == b'in the SYN, after'

    elsewhere.submit(story).result()
    assert stats()['connection_reason_fast_open'] == 1
