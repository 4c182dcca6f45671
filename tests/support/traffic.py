# SPDX-License-Identifier: GPL-2.0-or-later
"""Connected pairs of sockets whose ends belong to a cgroup."""

import contextlib
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conformance.syscalls import TcpInfo
from tests.support import harness
from tests.support.harness import Cgroup
from tests.support.patience import PATIENCE_S

FAMILIES = ('ipv4', 'ipv6', 'mapped')


@dataclass
class Pair:
    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        self.client.close()
        self.server.close()


def listen(family: str = 'ipv4') -> socket.socket:
    """A listener on a free port. mapped: on [::], for clients that speak IPv4."""
    if family == 'ipv4':
        return socket.create_server(('127.0.0.1', 0))
    if family == 'ipv6':
        return socket.create_server(('::1', 0), family=socket.AF_INET6)
    return socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)


def address_of(listener: socket.socket, family: str) -> tuple[str, int]:
    return ('::1' if family == 'ipv6' else '127.0.0.1', listener.getsockname()[1])


def connect(listener: socket.socket, family: str = 'ipv4', *, blocking: bool = False) -> Pair:
    """Both ends of a new connection with TCP_NODELAY; O_NONBLOCK unless blocking."""
    return connect_to(address_of(listener, family), listener, blocking=blocking)


def connect_to(address: tuple[str, int], listener: socket.socket, *, blocking: bool = False) -> Pair:
    """The same for a client that has another address of the listener."""
    client = socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET)
    client.connect(address)
    server, _address = listener.accept()
    for end in (client, server):
        end.setblocking(blocking)
        no_delay(end)
    return Pair(client, server)


def is_member(end: socket.socket) -> bool:
    """Whether the daemon lists a socket as joined."""
    return ports(end) in members()


def members() -> set[tuple[int, int]]:
    """Local and remote port of every joined end."""
    found = set()
    for row in harness.connections():
        client, server = row['client_port'], row['server_port']
        found |= {(client, server)} if row['client_state'] == 'joined' else set()
        found |= {(server, client)} if row['server_state'] == 'joined' else set()
    return found


def ports(end: socket.socket) -> tuple[int, int]:
    return end.getsockname()[1], end.getpeername()[1]


def accelerate(*pairs: Pair) -> None:
    """Wait until the pairs have joined, and let each direction's first message pass, which goes by TCP."""
    ends = {ports(end) for pair in pairs for end in (pair.client, pair.server)}
    harness.wait_until(lambda: ends <= members(), 'the connection joins')
    for pair in pairs:
        exchange(pair, rounds=1)


def join(*pairs: Pair) -> None:
    """The same where the two ends see different addresses: exchange messages until none goes by TCP."""
    for pair in pairs:
        harness.wait_until(lambda pair=pair: _is_redirected(pair), 'the connection joins')


def _is_redirected(pair: Pair) -> bool:
    before = sent_by_tcp(pair)
    exchange(pair, rounds=1)
    return sent_by_tcp(pair) == before


def no_delay(end: socket.socket, *, on: bool = True) -> None:
    """Without it a small message behind unread ones goes by TCP, and hides what another rule would have done."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, on)


@contextlib.contextmanager
def pair(
    cgroup: Cgroup | None, family: str = 'ipv4', *, blocking: bool = False, joins: bool | None = None
) -> Iterator[Pair]:
    """A connection of a cgroup, None: of no cgroup that sockaccel sees.

    joins: whether it must be accelerated when it is handed out; by default if it can be.
    """
    with contextlib.ExitStack() as stack:
        if cgroup:
            stack.enter_context(cgroup.inside())
        listener = stack.enter_context(listen(family))
        made = connect(listener, family, blocking=blocking)
    try:
        if (cgroup is not None and not blocking) if joins is None else joins:
            accelerate(made)
        yield made
    finally:
        made.close()


def read(end: socket.socket, count: int) -> bytes:
    """Exactly count bytes, or fewer at the end of the stream. Raises TimeoutError."""
    got = bytearray()
    while len(got) < count:
        if not select.select([end], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f'{count - len(got)} of {count} bytes did not come within {PATIENCE_S} s')
        chunk = end.recv(count - len(got))
        if not chunk:
            break
        got += chunk
    return bytes(got)


def write(end: socket.socket, data: bytes) -> None:
    """All of data; waits while the socket is full. Raises TimeoutError, OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[end.send(view) :]
        except BlockingIOError:
            if not select.select([], [end], [], PATIENCE_S)[1]:
                raise TimeoutError(f'a reader did not read for {PATIENCE_S} s') from None


def exchange(pair: Pair, rounds: int = 3) -> None:
    """Small messages to and fro, all read: afterwards nothing speaks against a redirect in either direction."""
    for _round in range(rounds):
        for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
            write(sender, b'ping')
            assert read(receiver, 4) == b'ping'


def sent_by_tcp(pair: Pair) -> int:
    """How many bytes TCP has sent for both ends so far; redirected ones are not among them."""
    return TcpInfo(pair.client).bytes_sent + TcpInfo(pair.server).bytes_sent


def fill(sender: socket.socket, message: int = 65536, limit: int = 64 << 20) -> int:
    """Send without anybody reading, until EAGAIN; returns the bytes accepted, at most about limit."""
    sent, data = 0, b'x' * message
    while sent < limit:
        try:
            sent += sender.send(data)
        except BlockingIOError:
            if not makes_room(sender):
                break
    return sent


def makes_room(sender: socket.socket) -> bool:
    """Whether a full socket takes more although nobody reads: not once all that TCP has sent is answered."""

    def writable() -> bool:
        return bool(select.select([], [sender], [], 0)[1])

    harness.wait_until(
        lambda: writable() or not TcpInfo(sender).unacknowledged, 'TCP has an answer to all that it has sent'
    )
    return writable()
