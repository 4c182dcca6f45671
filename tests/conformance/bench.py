# SPDX-License-Identifier: GPL-2.0-or-later
"""What a behaviour works with: connected pairs of one family, read in one mode."""

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from tests.conformance import syscalls
from tests.conformance.networks import Network
from tests.support import patience
from tests.support.patience import PATIENCE_S

# A quarter is enough here of what is some 40 where the machine is emulated.
SLOWER = max(1.0, patience.SLOWER / 4)

Option = tuple[int, int, int]

# So many time-outs in a row, the last of seconds, say that a segment is thrown away each time.
_IN_VAIN = 4

# When a program sets an option: before it connects or listens, or when data has travelled.
AT_ONCE, IN_USE = 'set at once', 'set on a connection in use'


class Unsupported(Exception):
    """This kernel lacks what the behaviour is about; the text says what."""


class Pair(NamedTuple):
    client: socket.socket
    server: socket.socket


class Bench:
    """Makes the connections of one run of a behaviour and keeps its figures.

    joins: whether connections of non-blocking readers are accelerated; stays_tcp: but not those of this behaviour.
    """

    def __init__(
        self, family: str, reader: str, network: Network, *, joins: bool, stays_tcp: bool = False
    ) -> None:
        self.family = family
        self.network = network
        self.nonblocking = reader == 'nonblocking'
        self.figures: dict[str, Any] = {}
        self._joins = joins and self.nonblocking
        self._stays_tcp = stays_tcp
        self._open: list[socket.socket] = []

    # Connections

    def listen(
        self, *options: Option, backlog: int = 128, port: int = 0, protocol: int = socket.IPPROTO_TCP
    ) -> socket.socket:
        """A listener at the server's address, or on [::] for the mapped family."""
        family = socket.AF_INET if self.family == 'ipv4' else socket.AF_INET6
        with self.network.at_server():
            listener = socket.socket(family, socket.SOCK_STREAM, protocol)
        self._open.append(listener)
        if self.family == 'mapped':
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in options:
            listener.setsockopt(*option)
        listener.bind(('::' if self.family == 'mapped' else self.network.server_address(self.family), port))
        listener.listen(backlog)
        return listener

    def client(self, *options: Option, source_port: int = 0, protocol: int = socket.IPPROTO_TCP) -> socket.socket:
        """A socket that is not connected yet."""
        family = socket.AF_INET6 if self.family == 'ipv6' else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM, protocol)
        self._open.append(client)
        for option in options:
            client.setsockopt(*option)
        if source_port:
            client.bind((self.network.client_address(self.family), source_port))
        return client

    def address(self, listener: socket.socket) -> tuple[str, int]:
        """Where a client of this family reaches the listener."""
        return self.network.reached_at(self.family, listener.getsockname()[1])

    def connect(self, listener: socket.socket, *options: Option, source_port: int = 0) -> socket.socket:
        """A client in the reader's mode, connected to the listener and perhaps not accepted yet."""
        client = self.client(*options, source_port=source_port)
        client.connect(self.address(listener))
        self.set_mode(client)
        return client

    def accept(self, listener: socket.socket) -> socket.socket:
        """The next connection of the listener, in the reader's mode."""
        listener.settimeout(PATIENCE_S)
        server, _ = listener.accept()
        self._open.append(server)
        self.set_mode(server)
        return server

    def pair(
        self,
        *,
        warm: bool = True,
        nodelay: bool = True,
        client_options: Sequence[Option] = (),
        server_options: Sequence[Option] = (),
    ) -> Pair:
        """Both ends of a new connection, by default warm (see warm()). server_options are the listener's."""
        listener = self.listen(*server_options)
        client = self.connect(listener, *client_options)
        server = self.accept(listener)
        listener.close()
        if nodelay:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(client, server)
        if warm:
            self.warm(*pair)
        return pair

    def pair_with(self, moment: str, *, client: Sequence[Option] = (), server: Sequence[Option] = ()) -> Pair:
        """A warm pair whose ends have options, set at one of the moments. Raises Unsupported."""
        try:
            if moment == AT_ONCE:
                return self.pair(client_options=client, server_options=server)
            pair = self.pair()
            for sock, options in ((pair.client, client), (pair.server, server)):
                for option in options:
                    sock.setsockopt(*option)
            return pair
        except OSError as error:
            raise Unsupported(f'a socket option: {error}') from error

    def set_mode(self, sock: socket.socket) -> None:
        sock.setblocking(not self.nonblocking)

    def warm(self, one: socket.socket, other: socket.socket) -> None:
        """Exchange small messages until redirect has been taken both ways or will not be.

        The figure 'warm' says which way the last message of each direction took, as TCP's own count shows.
        """
        both = ['redirect', 'redirect']
        for _round in range(64 if self.nonblocking else 8):
            if (ways := self._exchange(one, other)) == both:
                break
        if self._joins and self._stays_tcp:
            # Another one that is accelerated, and is younger, shows that this one has been looked at.
            younger = self.pair(warm=False)
            self.wait_until(lambda: self._exchange(*younger) == both)
            ways = self._exchange(one, other)
        elif self._joins and ways != both:
            # Nothing that an application can see tells when it joins.
            self.wait_until(lambda: self._exchange(one, other) == both)
            ways = self._exchange(one, other)
        self.figures.setdefault('warm', []).append(ways)

    def _exchange(self, one: socket.socket, other: socket.socket) -> list[str]:
        """A message in each direction, and which way each took: 'redirect' or 'tcp'."""
        ways = []
        for sender, receiver in ((one, other), (other, one)):
            before = syscalls.TcpInfo(sender).bytes_sent
            sender.sendall(b'sixteen bytes...')
            if self.read_bytes(receiver, 16) != b'sixteen bytes...':
                raise RuntimeError('the warm-up was not echoed')
            ways.append('redirect' if syscalls.TcpInfo(sender).bytes_sent == before else 'tcp')
        return ways

    def close(self) -> None:
        for sock in self._open:
            sock.close()

    def private_network(self) -> None:
        """Go on in network namespaces of our own: their sysctls, ports and TIME_WAITs are ours alone."""
        try:
            self.network = self.network.private()
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unsupported(f'no network namespace: {error}') from error

    # Reading and writing in the reader's mode

    def readable(self, sock: socket.socket, events: int = select.POLLIN) -> bool:
        """Whether the events (or an error) come up at last: for what must happen."""
        poller = select.poll()
        poller.register(sock, events)
        return bool(poller.poll(PATIENCE_S * 1000))

    def readable_now(self, sock: socket.socket, events: int = select.POLLIN) -> bool:
        """Whether the events (or an error) are there: for what must not happen, asked after something later."""
        poller = select.poll()
        poller.register(sock, events)
        return bool(poller.poll(0))

    def arrives(self, sender: socket.socket) -> None:
        """Wait until all that was sent has arrived, or been redirected, and done what it does at the other end.

        TCP has it acknowledged then. The kernel announces that nowhere.
        """
        self.wait_until(lambda: not _outstanding(sender))

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Whether the condition comes true at last, for what the kernel announces nowhere."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def makes_room(self, sender: socket.socket) -> bool:
        """Whether a full socket takes more although nobody reads: not once all that TCP has sent is answered.

        Some kernels, 6.18.15 among them, throw a segment away for which they have promised room, also by plain
        TCP. It is never answered while nobody reads, and sent again after ever longer times.
        """

        def is_known() -> bool:
            found = syscalls.TcpInfo(sender)
            return not found.unacknowledged or found.backoff >= _IN_VAIN

        self.wait_until(lambda: self.readable_now(sender, select.POLLOUT) or is_known())
        return self.readable_now(sender, select.POLLOUT)

    def read(self, sock: socket.socket, count: int = 65536, flags: int = 0) -> str:
        """What one recv() gives: the text, 'EOF', an errno's name, or 'nothing' if no data comes."""
        if self.nonblocking and not self.readable(sock):
            return 'nothing'
        try:
            data = sock.recv(count, flags)
        except OSError as error:
            return syscalls.errno_name(error.errno or 0)
        return data.decode('latin-1') or 'EOF'

    def read_bytes(self, sock: socket.socket, count: int) -> bytes:
        """Up to count bytes; fewer at EOF, at an error, or if a non-blocking socket stays idle."""
        return self._read_until(sock, count)[0]

    def read_text(self, sock: socket.socket, count: int) -> str:
        return self.read_bytes(sock, count).decode('latin-1')

    def read_to_end(self, sock: socket.socket) -> tuple[bytes, str]:
        """Everything, and how it ended: 'EOF', an errno's name or 'nothing'."""
        return self._read_until(sock, None)

    def _read_until(self, sock: socket.socket, count: int | None) -> tuple[bytes, str]:
        pieces = bytearray()
        while count is None or len(pieces) < count:
            wanted = 1 << 18 if count is None else min(count - len(pieces), 1 << 18)
            try:
                if sock.gettimeout() == 0 and not self.readable(sock):
                    return bytes(pieces), 'nothing'
                data = sock.recv(wanted)
            except BlockingIOError:
                # A spurious wake-up. A blocking socket never says so, and this is how it is noticed.
                if sock.gettimeout() != 0:
                    return bytes(pieces), 'EAGAIN'
                continue
            except OSError as error:
                return bytes(pieces), syscalls.errno_name(error.errno or 0)
            if not data:
                return bytes(pieces), 'EOF'
            pieces += data
        return bytes(pieces), ''

    def write(self, sock: socket.socket, data: bytes, flags: int = 0) -> int | str:
        """What one send() gives: the count or the errno's name."""
        try:
            return sock.send(data, flags | socket.MSG_NOSIGNAL)
        except OSError as error:
            return syscalls.errno_name(error.errno or 0)

    def write_all(self, sock: socket.socket, data: bytes) -> str:
        """Send everything, waiting for room where the socket does not; 'all' or OSError."""
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                # A blocking socket never says so, unless something is wrong.
                if sock.gettimeout() != 0 or not self.readable(sock, select.POLLOUT):
                    raise
        return 'all'

    # Others who take part

    @contextlib.contextmanager
    def process(self, run: Callable[[], None]) -> Iterator[int]:
        """A forked process that runs the function, killed at the end if it still does; gives its pid."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                run()
                status = 0
            finally:
                os._exit(status)
        try:
            yield pid
        finally:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


class Call(threading.Thread):
    """One call in a thread of its own, such as a recv() that blocks."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = 'still blocked'

    def run(self) -> None:
        try:
            self._result = self._call()
        except OSError as error:
            self._result = syscalls.errno_name(error.errno or 0)

    def blocks_on(self, sock: socket.socket) -> Self:
        """Start, and come back when the thread sleeps in a call on the socket (or has already returned)."""
        self.start()
        self.settles(sock)
        return self

    def is_blocked_on(self, sock: socket.socket) -> bool:
        return self.is_alive() and syscalls.blocked_on(self.native_id or 0, sock.fileno())

    def settles(self, sock: socket.socket) -> Any:
        """What the call returned, an errno's name, or 'still blocked' if the thread sleeps in a call on it.

        For what must not wake it, after that has happened: a thread that the kernel wakes is runnable at once.
        The kernel announces nowhere that one sleeps, so /proc is asked until it says so.
        """
        while self.is_alive() and not self.is_blocked_on(sock):
            time.sleep(0.001)
        return 'still blocked' if self.is_alive() else self.result()

    def interrupted(self, sock: socket.socket, *, restart: bool = False) -> Any:
        """The same after a signal, whose handler has returned. restart: with SA_RESTART."""
        handled = threading.Event()
        before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
        signal.siginterrupt(signal.SIGUSR1, not restart)
        signal.pthread_kill(self.ident or 0, signal.SIGUSR1)
        # Python calls the function in the main thread, after the real handler has run in the other one. Nothing
        # wakes the main thread for it.
        end = time.monotonic() + PATIENCE_S
        while not handled.is_set() and time.monotonic() < end:
            time.sleep(0.001)
        signal.signal(signal.SIGUSR1, before)
        return self.settles(sock)

    def result(self) -> Any:
        """What the call returned, an errno's name, or 'still blocked' if it never returns."""
        self.join(PATIENCE_S)
        return self._result


def _outstanding(sock: socket.socket) -> bool:
    """Whether TCP has something that was not sent or not acknowledged."""
    info = syscalls.TcpInfo(sock)
    return bool(info.unacknowledged or info.unsent_bytes)


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returned, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return syscalls.errno_name(error.errno or 0)


def pattern(count: int, seed: int = 1) -> bytes:
    """Bytes of which no two places look alike."""
    return random.Random(seed).randbytes(count)


def verdict(received: bytes, sent: bytes) -> str:
    """How what was received compares with what was sent."""
    if received == sent:
        return 'as sent'
    if sent.startswith(received):
        return 'bytes are missing at the end'
    if len(received) == len(sent):
        return 'bytes are out of order or wrong'
    return 'bytes are missing or wrong'


def text(data: bytes | str) -> str:
    """Received bytes as text, no bytes as 'EOF', and an errno's name as it is."""
    return data if isinstance(data, str) else data.decode('latin-1') or 'EOF'
