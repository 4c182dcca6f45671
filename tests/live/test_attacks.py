# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody may try who knows the sequence numbers of a connection: nobody but its two ends ever meets.

The client is in the neighbour's network namespace, and in a target that allows other ones. In some of these tests
sockaccel does not see its server, as if that were on another host, and the client waits for its other end in vain.
The attacker sees the handshake on the bridge, and makes a socket with the numbers of that other end.
"""

import contextlib
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests.support import forger, harness, topology, traffic
from tests.support.harness import Cgroup, Daemon, stop
from tests.support.patience import PATIENCE_S, SLOWER
from tests.support.topology import SERVER, SERVER_PORTS, Topology

Stats = Callable[[], dict[str, int]]
SECRET = b'for the server alone'
FOREIGN_OWNER, OTHER_NAMESPACE, TWICE_CLAIMED = (
    f'connection_reason_{name}' for name in ('foreign_owner', 'other_namespace', 'twice_claimed')
)
# Debian's user for processes that own nothing.
NOBODY = 'nobody'
# linux/if_ether.h
ETH_P_ALL = 0x0003
SYN, ACK = forger.SYN, forger.ACK


@pytest.fixture(scope='module')
def towns() -> Iterator[Topology]:
    with Topology() as made:
        yield made


def allowing_target(root_cgroup: Cgroup, name: str) -> Cgroup:
    """A target whose connections may cross network namespaces. They join late, so that an attacker has time."""
    cgroup = Cgroup(name, root_cgroup)
    delay = str(int(3_000 * min(SLOWER, 5)))
    harness.enable(cgroup.path, *harness.every_issue(), OtherNamespaces='yes', JoinDelayMs=delay)
    return cgroup


@pytest.fixture(scope='session')
def allowing(daemon: Daemon, root_cgroup: Cgroup) -> Cgroup:
    return allowing_target(root_cgroup, 'allowing')


@pytest.fixture(scope='session')
def other_allowing(daemon: Daemon, root_cgroup: Cgroup) -> Cgroup:
    return allowing_target(root_cgroup, 'other-allowing')


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Stats:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


class Numbers(NamedTuple):
    """The initial sequence numbers of both ends of a connection."""

    client: int
    server: int


class Wiretap:
    """What a listener on the bridge learns of the next handshake. A context manager."""

    def __init__(self, towns: Topology) -> None:
        with topology.inside(towns.gateway):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.settimeout(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def numbers(self, port: int) -> Numbers:
        """Those of a connection to a port. Raises TimeoutError."""
        found: dict[int, int] = {}
        while len(found) < 2:
            packet = self._socket.recv(2000)
            segment = packet[(packet[0] & 15) * 4 :]
            if (
                packet[0] >> 4 != 4
                or packet[9] != socket.IPPROTO_TCP
                or port not in struct.unpack('!HH', segment[:4])
            ):
                continue
            sequence, flags = struct.unpack('!4xI5xB', segment[:14])
            if flags & SYN:
                found[flags & ACK] = sequence
        return Numbers(client=found[0], server=found[ACK])


class Victim:
    """A client that waits for its other end, and the server. A context manager.

    server_in: None for a server that sockaccel does not see.
    """

    def __init__(
        self, towns: Topology, client_in: Cgroup, server_in: Cgroup | None, *, port: int = 0, source_port: int = 0
    ) -> None:
        with Wiretap(towns) as wiretap:
            with server_in.inside() if server_in else contextlib.nullcontext(), topology.inside(towns.server):
                listener = socket.create_server(('', port))
            with listener, client_in.inside(), topology.inside(towns.neighbour):
                address, source = (SERVER[0], listener.getsockname()[1]), ('', source_port)
                client = socket.create_connection(address, source_address=source)
                server, _address = listener.accept()
                self.numbers = wiretap.numbers(listener.getsockname()[1])
        for end in (client, server):
            end.setblocking(False)
            traffic.no_delay(end)
        self.pair = traffic.Pair(client, server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.pair.close()

    def is_unharmed(self) -> None:
        """What it sends arrives at its server, by TCP."""
        for _message in range(10):
            before = traffic.sent_by_tcp(self.pair)
            traffic.write(self.pair.client, SECRET)
            assert traffic.read(self.pair.server, len(SECRET)) == SECRET
            assert traffic.sent_by_tcp(self.pair) == before + len(SECRET)


class Attacker:
    """A process that can have a forged socket. A context manager.

    role: see tests/support/forger.py. user: an ordinary one, who needs a user namespace of his own for it, or ''
    for root, whose network namespace belongs to the machine's.
    """

    def __init__(self, cgroup: Cgroup, node: Path, role: str, user: str = '') -> None:
        command = ['unshare', '--net', sys.executable, forger.__file__, str(node), role]
        if user:
            uid = pwd.getpwnam(user).pw_uid
            command[1:1] = ['--user', '--map-root-user']
            command[:0] = ['setpriv', f'--reuid={uid}', f'--regid={uid}', '--clear-groups']
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=cgroup.enter
        )
        assert self._process.stdout
        # Ready before its victim is there: what it then does takes a moment.
        assert self._process.stdout.readline() == 'ready\n'

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        stop(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()

    def _tell(self, line: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + '\n')
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def claims(self, sent: int, received: int) -> None:
        assert self._tell(f'{sent % 2**32} {received % 2**32}') == 'established'

    def has_received(self) -> bytes:
        return bytes.fromhex(self._tell('what do you have?'))


@pytest.fixture
def node() -> Iterator[Path]:
    """A node of /dev/net/tun that anybody may open, as on most machines."""
    made = Path(f'/dev/sockaccel-test-{os.getpid()}')
    os.mknod(made, stat.S_IFCHR, Path('/dev/net/tun').stat().st_rdev)
    made.chmod(0o666)
    yield made
    made.unlink()


def test_a_forged_end_in_a_user_namespace(towns: Topology, allowing: Cgroup, node: Path, stats: Stats) -> None:
    """It claims to be the accepting end, which nobody else can."""
    with Attacker(allowing, node, 'accepting', NOBODY) as attacker, Victim(towns, allowing, None) as victim:
        attacker.claims(victim.numbers.server + 1, victim.numbers.client)
        counted(stats, FOREIGN_OWNER)
        victim.is_unharmed()
        assert attacker.has_received() == b''


@pytest.mark.parametrize('role', ['connecting', 'fast-open'])
def test_a_forged_end_that_connects(
    towns: Topology, allowing: Cgroup, node: Path, stats: Stats, role: str
) -> None:
    """Two ends that both have connected are not the ends of one connection, whoever made them.

    One with data in its SYN looks for an end that was established before.
    """
    with Attacker(allowing, node, role) as attacker, Victim(towns, allowing, None) as victim:
        attacker.claims(victim.numbers.server, victim.numbers.client)
        assert candidates() == 2
        harness.wait_until(lambda: not candidates(), 'both are given up')
        assert stats()['connections'] == 0
        victim.is_unharmed()
        assert attacker.has_received() == b''


@pytest.mark.parametrize('role', ['connecting', 'accepting'])
def test_a_second_claimant(towns: Topology, allowing: Cgroup, node: Path, stats: Stats, role: str) -> None:
    """Root forges here, whose namespace is one that may be met: nobody can tell which end is the true one."""
    with Attacker(allowing, node, role) as attacker, Victim(towns, allowing, allowing) as victim:
        numbers = victim.numbers
        if role == 'connecting':
            attacker.claims(numbers.client, numbers.server)
        else:
            attacker.claims(numbers.server + 1, numbers.client)
        counted(stats, TWICE_CLAIMED)
        victim.is_unharmed()
        assert attacker.has_received() == b''


def test_a_claimant_who_comes_late(towns: Topology, allowing: Cgroup, node: Path) -> None:
    """The true ends have joined, and what they send goes from one to the other."""
    with Attacker(allowing, node, 'connecting') as attacker, Victim(towns, allowing, allowing) as victim:
        traffic.join(victim.pair)
        attacker.claims(victim.numbers.client, victim.numbers.server)
        traffic.exchange(victim.pair, 100)
        assert attacker.has_received() == b''


def test_an_end_of_another_target(towns: Topology, allowing: Cgroup, other_allowing: Cgroup, stats: Stats) -> None:
    with Victim(towns, allowing, other_allowing) as victim:
        counted(stats, OTHER_NAMESPACE)
        victim.is_unharmed()


def test_the_same_addresses_and_ports_twice(towns: Topology, allowing: Cgroup) -> None:
    """Both connections are accelerated, and each reads its own bytes."""
    with Topology() as others, Victim(towns, allowing, allowing, port=SERVER_PORTS[0]) as one:
        port = one.pair.client.getsockname()[1]
        with Victim(others, allowing, allowing, port=SERVER_PORTS[0], source_port=port) as two:
            assert names(one.pair) == names(two.pair)
            traffic.join(one.pair, two.pair)
            for number, pair in enumerate((one.pair, two.pair)):
                traffic.write(pair.client, b'question %d' % number)
                traffic.write(pair.server, b'answer %d' % number)
            for number, pair in enumerate((one.pair, two.pair)):
                assert traffic.read(pair.server, 10) == b'question %d' % number
                assert traffic.read(pair.client, 8) == b'answer %d' % number


def candidates() -> int:
    """How many ends wait for their other end."""
    return sum(
        state == 'candidate'
        for row in harness.connections()
        for state in (row['client_state'], row['server_state'])
    )


def counted(stats: Stats, name: str, least: int = 1) -> None:
    """Wait until it was counted. Raises AssertionError with what else was counted."""
    try:
        harness.wait_until(lambda: stats()[name] >= least, f'{name} is counted')
    except AssertionError as exc:
        exc.add_note(str({name: value for name, value in stats().items() if value}))
        raise


def names(pair: traffic.Pair) -> list[object]:
    return [name for end in (pair.client, pair.server) for name in (end.getsockname(), end.getpeername())]
