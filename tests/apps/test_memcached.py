# SPDX-License-Identifier: GPL-2.0-or-later
"""memcached: many values of all sizes, stored and fetched over several connections."""

import random
import socket

from tests.apps.place import NOBODY, Place, free_port
from tests.support import traffic

VALUES = 10_000
CONNECTIONS = 4
BATCH = 25
# memcached's default limit of an item is 1 MiB with its key and header.
LARGEST = (1 << 20) - 512


class Client:
    """A connection that never blocks in a system call, as event-driven clients do."""

    def __init__(self, port: int) -> None:
        self.end = socket.create_connection(('127.0.0.1', port))
        self.end.setblocking(False)
        self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def store(self, values: dict[str, bytes]) -> None:
        for key, value in values.items():
            traffic.write(self.end, f'set {key} 0 0 {len(value)}\r\n'.encode() + value + b'\r\n')
        expected = b'STORED\r\n' * len(values)
        answer = traffic.read(self.end, len(expected))
        assert answer == expected, answer[:200]

    def fetch(self, values: dict[str, bytes]) -> None:
        """Ask for all of them at once; the answer must be these values and nothing else."""
        traffic.write(self.end, f'get {" ".join(values)}\r\n'.encode())
        parts = [f'VALUE {key} 0 {len(value)}\r\n'.encode() + value + b'\r\n' for key, value in values.items()]
        for expected in (*parts, b'END\r\n'):
            answer = traffic.read(self.end, len(expected))
            assert answer == expected, f'asked for {expected[:40]!r} got {answer[:40]!r}'

    def delete(self, values: dict[str, bytes]) -> None:
        traffic.write(self.end, b''.join(f'delete {key}\r\n'.encode() for key in values))
        expected = b'DELETED\r\n' * len(values)
        assert traffic.read(self.end, len(expected)) == expected


def test_store_and_fetch(somewhere: Place) -> None:
    port = free_port()
    somewhere.serve(port, 'memcached', '-l', '127.0.0.1', '-p', str(port), '-U', '0', '-m', '256', user=NOBODY)
    chance = random.Random(1)
    fetched = 0
    with somewhere.cgroup.inside():
        clients = [Client(port) for _number in range(CONNECTIONS)]
    try:
        for start in range(0, VALUES, BATCH):
            values = {
                f'key-{number}': chance.randbytes(int(LARGEST ** chance.random()))
                for number in range(start, start + BATCH)
            }
            clients[start // BATCH % CONNECTIONS].store(values)
            # By another connection, so that each has both small and large messages in both directions.
            reader = clients[(start // BATCH + 1) % CONNECTIONS]
            reader.fetch(values)
            reader.delete(values)
            fetched += sum(len(value) for value in values.values())
    finally:
        for client in clients:
            client.end.close()
    somewhere.same('memcached', f'{VALUES} values, {fetched / 1e6:.0f} MB', fetched)
