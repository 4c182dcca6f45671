# SPDX-License-Identifier: GPL-2.0-or-later
"""Integrity under stress: every connection carries a known stream both ways, at random sizes and times.

Faults are counted by name: a byte that is not the one that was sent ('wrong byte'), an end before all was
read ('early end'), a sender that TCP would have stopped ('unbounded'), a connection on which nothing moves
('stalled'), and every errno.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.conformance import cgroup, syscalls
from tests.conformance.bench import pattern
from tests.conformance.runner import CONTROL_PATIENCE_S
from tests.conformance.unchecked import REPOSITORY
from tests.support.patience import PATIENCE_S

# A stream repeats a block whose length no power of two divides, from a place of its own.
BLOCK = pattern((1 << 20) - 1)
LARGEST = 1 << 20
MOST_CONNECTIONS = 100_000
# Bytes sent and not yet read; the kernel's default limits keep TCP below 10 MiB.
OUTSTANDING_LIMIT = 24 << 20
LIFE_SECONDS = (0.3, 6.0)
BURST_SECONDS = 0.5
HELLO = struct.Struct('=Q')
FAMILIES = (('127.0.0.1', '127.0.0.1'), ('::1', '::1'), ('::', '127.0.0.1'))


@dataclasses.dataclass
class Report:
    """What a run carried and what went wrong."""

    connections: int
    transferred: int  # bytes, both directions
    faults: dict[str, int]


class Ledger:
    """For each connection and direction what was sent and what was read, shared by both processes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MOST_CONNECTIONS * 4 * 8)

    def _place(self, connection: int, direction: int, *, read: bool) -> int:
        return 8 * (connection * 4 + direction * 2 + read)

    def add(self, connection: int, direction: int, count: int, *, read: bool) -> None:
        place = self._place(connection, direction, read=read)
        (before,) = struct.unpack_from('=Q', self._memory, place)
        struct.pack_into('=Q', self._memory, place, before + count)

    def get(self, connection: int, direction: int, *, read: bool) -> int:
        value: int = struct.unpack_from('=Q', self._memory, self._place(connection, direction, read=read))[0]
        return value


def content(connection: int, direction: int, start: int, count: int) -> bytes:
    """A part of the stream of one direction; the client's begins with the number of the connection."""
    hello = HELLO.pack(connection)[start : start + count] if direction == 0 else b''
    offset = (connection * 7919 + direction * 104729 + start + len(hello)) % len(BLOCK)
    count -= len(hello)
    return hello + (BLOCK * ((offset + count) // len(BLOCK) + 1))[offset : offset + count]


def bursts(connection: int) -> bool:
    """Whether the client begins without pauses while the server reads nothing, for BURST_SECONDS."""
    return connection % 8 == 3


class End:
    """One end of a connection: sends its own stream and checks the other's."""

    def __init__(self, station: 'Station', sock: socket.socket, connection: int | None) -> None:
        self.station = station
        self.sock = sock
        self.connection = connection
        now = time.monotonic()
        self.ends_at = now + station.chance.uniform(*LIFE_SECONDS)
        self.write_at = self.read_at = self.born_at = now
        self.moved_at = now
        self.full = False  # send() said EAGAIN
        self.shut = False  # all is sent
        self.ended = False  # all is read
        self.faulty = False
        self._message = b''
        self._hello = b''
        self._sent = self._received = 0
        self.digests = [hashlib.sha256(), hashlib.sha256()]  # of what was sent and of what was read

    @property
    def direction(self) -> int:
        """That of what this end sends."""
        return 0 if self.station.is_client else 1

    def fault(self, name: str) -> None:
        """Count the fault and give the connection up."""
        self.station.faults[name] += 1
        self.faulty = True

    def write(self, now: float) -> None:
        chance = self.station.chance
        if self.connection is None:
            return
        if self._sent and not self._message and now >= min(self.ends_at, self.station.ends_at):
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self.shut = True
            return
        ledger = self.station.ledger
        if self._sent - ledger.get(self.connection, self.direction, read=True) > OUTSTANDING_LIMIT:
            self.fault('unbounded')
            return
        if not self._message:
            size = int(LARGEST ** chance.random())
            # The server needs the whole number to know what to expect.
            size = max(size, HELLO.size) if not self._sent else size
            self._message = content(self.connection, self.direction, self._sent, size)
        try:
            count = self.sock.send(self._message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self.full = True
            return
        except OSError as error:
            self.fault(f'send() {syscalls.errno_name(error.errno or 0)}')
            return
        ledger.add(self.connection, self.direction, count, read=False)
        self.digests[0].update(self._message[:count])
        self._sent += count
        self._message = self._message[count:]
        self.moved_at = now
        if not self._message:
            bursting = self.direction == 0 and bursts(self.connection) and now - self.born_at < BURST_SECONDS
            pausing = chance.random() < 0.8 and not bursting
            self.write_at = now + (chance.expovariate(1 / self.station.pause) if pausing else 0)
            # Whether the receiver's file blocks decides the path, so now and then it does, for one message.
            os.set_blocking(self.sock.fileno(), chance.random() < 0.01)

    def read(self, now: float) -> None:
        chance = self.station.chance
        try:
            data = self.sock.recv(int(LARGEST ** chance.uniform(0.3, 1)), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self.fault(f'recv() {syscalls.errno_name(error.errno or 0)}')
            return
        if not data:
            self._end()
            return
        self.moved_at = now
        if chance.random() < 0.05:
            self.read_at = now + chance.uniform(0.001, 0.2)
        if self.connection is None:
            data = self._greet(data)
            if self.connection is not None and bursts(self.connection):
                self.read_at = now + BURST_SECONDS
        if self.connection is None or not data:
            return
        if data != content(self.connection, 1 - self.direction, self._received, len(data)):
            self.fault('wrong byte')
            return
        self.digests[1].update(data)
        self._received += len(data)
        self.station.ledger.add(self.connection, 1 - self.direction, len(data), read=True)

    def _greet(self, data: bytes) -> bytes:
        """Learn the number of the connection; gives what there is to check."""
        self._hello += data
        if len(self._hello) < HELLO.size:
            return b''
        (connection,) = HELLO.unpack_from(self._hello)
        if connection >= MOST_CONNECTIONS or connection in self.station.seen:
            self.fault('wrong byte')
            return b''
        self.station.seen.add(connection)
        self.connection = connection
        return self._hello

    def _end(self) -> None:
        """The other end sends no more; this one finishes its message."""
        ledger = self.station.ledger
        if self.connection is None or self._received != ledger.get(
            self.connection, 1 - self.direction, read=False
        ):
            self.fault('early end')
            return
        self.ended = True
        self.read_at = float('inf')
        self.ends_at = 0.0

    def finished(self) -> bool:
        if self.shut and self.ended and self.connection is not None:
            self.station.digests[self.connection] = [digest.hexdigest() for digest in self.digests]
        return self.faulty or (self.shut and self.ended)


class Station:
    """The process at one side: all its ends in one poll() loop."""

    def __init__(self, side: str, ledger: Ledger, seed: int, seconds: float, pause: float, other: int) -> None:
        self.is_client = side == 'client'
        # Of a pipe: at its end when the process at the other side is done.
        self._other = other
        self.ledger = ledger
        self.chance = random.Random(f'{side} {seed}')
        self.pause = pause
        self.ends_at = time.monotonic() + seconds
        self.faults: Counter[str] = Counter()
        self.digests: dict[int, list[str]] = {}
        self.seen: set[int] = set()
        self.opened = 0
        self._ends: dict[int, End] = {}

    def run(self, listeners: list[socket.socket], connections: int) -> None:
        """Until the time is over, more were made than are open at a time, and all have ended, or stalled."""
        last = self.ends_at + PATIENCE_S
        while time.monotonic() < last:
            now = time.monotonic()
            if self.is_client and (now < self.ends_at or self.opened <= connections):
                while len(self._ends) < connections and self.opened < MOST_CONNECTIONS:
                    self._connect(listeners)
            if not self._ends and (now >= self.ends_at if self.is_client else self._other_is_done()):
                break
            self._step(listeners if not self.is_client else [], now)
        self.faults['stalled'] += len(self._ends)

    def _other_is_done(self) -> bool:
        return bool(select.select([self._other], [], [], 0)[0])

    def _connect(self, listeners: list[socket.socket]) -> None:
        listener = self.chance.choice(listeners)
        address = '::1' if listener.getsockname()[0] == '::1' else '127.0.0.1'
        client = socket.socket(socket.AF_INET6 if address == '::1' else socket.AF_INET, socket.SOCK_STREAM)
        if self.chance.random() < 0.2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect((address, listener.getsockname()[1]))
        self._add(client, self.opened)
        self.opened += 1

    def _add(self, sock: socket.socket, connection: int | None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.chance.random() < 0.8)
        self._ends[sock.fileno()] = End(self, sock, connection)

    def _step(self, listeners: list[socket.socket], now: float) -> None:
        poller = select.poll()
        by_fd = {listener.fileno(): listener for listener in listeners}
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        wake = now + 0.2
        for fd, end in self._ends.items():
            events = 0
            if now >= end.read_at:
                events |= select.POLLIN
            elif end.read_at < wake:
                wake = end.read_at
            if end.full:
                events |= select.POLLOUT
            elif not end.shut and end.connection is not None:
                wake = min(wake, end.write_at, max(end.ends_at, now))
            if events:
                poller.register(fd, events)
        ready = dict(poller.poll(max(0.0, wake - now) * 1000))
        now = time.monotonic()
        for fd, listener in by_fd.items():
            if fd in ready:
                with contextlib.suppress(BlockingIOError):
                    self._add(listener.accept()[0], None)
        for fd, end in list(self._ends.items()):
            events = ready.get(fd, 0)
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and now >= end.read_at:
                end.read(now)
            if events & (select.POLLOUT | select.POLLHUP | select.POLLERR):
                end.full = False
            if not end.faulty and not end.shut and not end.full and now >= min(end.write_at, end.ends_at):
                end.write(now)
            if not end.faulty and now - end.moved_at > PATIENCE_S:
                end.fault('stalled')
            if end.finished():
                del self._ends[fd]
                end.sock.close()


def _serve(
    side: str, ledger: Ledger, arguments: argparse.Namespace, listeners: list[socket.socket], out: int, other: int
) -> None:
    """One side's process: run, write the result to the descriptor and exit."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    station = Station(side, ledger, arguments.seed, arguments.seconds, arguments.pause, other)
    station.run(listeners, arguments.connections)
    with os.fdopen(out, 'w') as result:
        json.dump({'faults': station.faults, 'digests': station.digests, 'opened': station.opened}, result)
    os._exit(0)


def _listen() -> list[socket.socket]:
    """For each family a listener that accepts at once and one that waits for data."""
    listeners = []
    for address, _ in FAMILIES:
        for defer in (0, 1):
            listener = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM)
            if address == '::':
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if defer:
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
            listener.bind((address, 0))
            listener.listen(256)
            listener.setblocking(False)
            listeners.append(listener)
    return listeners


def _in_cgroup(arguments: argparse.Namespace) -> Report:
    """The whole stress, in this process and two of its children."""
    cgroup.join(arguments.cgroup)
    ledger = Ledger()
    listeners = _listen()
    outputs = []
    client_runs, client_ends = os.pipe()
    for side in ('server', 'client'):
        output, write_end = os.pipe()
        if os.fork() == 0:
            if side == 'server':
                os.close(client_ends)
            _serve(side, ledger, arguments, listeners, write_end, client_runs)
        os.close(write_end)
        outputs.append(output)
    os.close(client_ends)
    sides = []
    for output in outputs:
        with os.fdopen(output) as file:
            sides.append(json.loads(file.read() or '{"faults": {"process died": 1}, "digests": {}, "opened": 0}'))
    for _ in outputs:
        os.wait()
    faults: Counter[str] = Counter()
    for result in sides:
        faults.update(result['faults'])
    server, client = sides
    for connection in server['digests'].keys() & client['digests'].keys():
        # What the client sent and the server read, then the other way round.
        if server['digests'][connection] != client['digests'][connection][::-1]:
            faults['digests differ'] += 1
    opened = client['opened']
    transferred = sum(ledger.get(number, direction, read=True) for number in range(opened) for direction in (0, 1))
    return Report(opened, transferred, {name: count for name, count in faults.items() if count})


def run(
    directory: Path,
    *,
    seconds: float,
    connections: int = 16,
    seed: int | None = None,
    hook: Callable[[], None] | None = None,
    control: bool = False,
) -> Report:
    """Stress the connections of a cgroup for the given seconds, calling the hook at random times.

    control: its connections are known to stall.

    Raises RuntimeError with the text of the process that failed, and whatever the hook raises.
    """
    chance = random.Random(seed)
    command = [sys.executable, '-m', 'tests.conformance.stress', '--cgroup', str(directory)]
    command += ['--seconds', str(seconds), '--connections', str(connections)]
    command += ['--seed', str(chance.randrange(1 << 30) if seed is None else seed)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        env={**os.environ, **({'SOCKACCEL_PATIENCE': CONTROL_PATIENCE_S} if control else {})},
    )  # fmt: skip
    with process:
        try:
            ends_at = time.monotonic() + seconds
            while hook and time.monotonic() < ends_at:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.1, 1.0))
                    break
                hook()
            output, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise RuntimeError(errors)
    return Report(**json.loads(output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cgroup', type=Path, required=True, help='directory of the cgroup to run in')
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--connections', type=int, default=16, help='open at a time')
    parser.add_argument('--pause', type=float, default=0.03, help='mean seconds between two messages of an end')
    parser.add_argument('--seed', type=int, default=1)
    print(json.dumps(dataclasses.asdict(_in_cgroup(parser.parse_args()))))


if __name__ == '__main__':
    main()
