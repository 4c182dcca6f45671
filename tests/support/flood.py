# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that sends calls to the daemon as fast as the bus takes them; `main()` is that process.

It speaks to the bus in bytes: dbus-next makes a thousand calls a second, this a hundred times as many.
"""

import contextlib
import os
import random
import re
import select
import socket
import subprocess
import sys
from typing import Any, Self

from tests.support import harness
from tests.support.messages import raw

NO_REPLY = 1
BUS = 'org.freedesktop.DBus'
_INTROSPECTABLE, _PROPERTIES = 'org.freedesktop.DBus.Introspectable', 'org.freedesktop.DBus.Properties'
# So many calls go with one write.
_AT_ONCE = 200


def _listing() -> bytes:
    """An empty filter, listing 0, offset 0; the dictionary is aligned to 8."""
    return bytes(8 + 16)


KINDS: dict[str, bytes] = {
    'stats': raw('Stats', flags=NO_REPLY),
    'introspect': raw('Introspect', flags=NO_REPLY, interface=_INTROSPECTABLE),
    'targets': raw('ListTargets', flags=NO_REPLY),
    'change': raw('Disable', flags=NO_REPLY, signature='s', body=b'\2\0\0\0/x\0'),
    'garbage': raw('Enable', flags=NO_REPLY, signature='s', body=b'\2\0\0\0\xff\xfe\0'),
    'answered': raw('Stats'),
    'listings': raw('ListConnections', signature='a{sv}tt', body=_listing()),
}


def connect(address: str) -> socket.socket:
    """To the bus, as the user that this process is."""
    path = address.split('path=')[1].split(',')[0]
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\n')
    assert sock.recv(4096).startswith(b'OK')
    sock.sendall(b'BEGIN\r\n' + raw('Hello', path='/org/freedesktop/DBus', destination=BUS, interface=BUS))
    assert re.search(rb':1\.\d', sock.recv(4096))
    return sock


class Flood:
    """It, from a user of the bus of DBUS_SYSTEM_BUS_ADDRESS. A context manager.

    kind: one of KINDS, or `random`. reads: whether it reads answers.
    """

    def __init__(self, kind: str, user: int, *, reads: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.flood', kind, str(user), str(int(reads))],
            cwd=harness.ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        assert self.process.stdout
        assert self.process.stdout.readline() == b'flooding\n'
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def still_runs(self) -> bool:
        return self.process.poll() is None


def _some(chance: random.Random) -> bytes:
    """A call of any kind, sometimes with bytes that are no message's; the bus throws out who sends those."""
    message = bytearray(chance.choice(list(KINDS.values())))
    if chance.random() < 0.01:
        message[chance.randrange(len(message))] = chance.randrange(256)
    return bytes(message)


def main() -> None:
    kind, user, reads = sys.argv[1], int(sys.argv[2]), sys.argv[3] == '1'
    address, chance = os.environ['DBUS_SYSTEM_BUS_ADDRESS'], random.Random(kind)
    # From here on, because a checkout may be for root alone.
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    sock: Any = connect(address)
    print('flooding', flush=True)
    while True:
        calls = [_some(chance) if kind == 'random' else KINDS[kind] for _call in range(_AT_ONCE)]
        try:
            _send(sock, b''.join(calls), reads=reads)
        except (ConnectionError, AssertionError):
            # The bus has thrown us out.
            sock.close()
            with contextlib.suppress(ConnectionError, AssertionError):
                sock = connect(address)


def _send(sock: socket.socket, data: bytes, *, reads: bool) -> None:
    while data:
        readable, writable, _failed = select.select([sock] if reads else [], [sock], [])
        if readable and not sock.recv(1 << 20):
            raise ConnectionResetError
        if writable:
            data = data[sock.send(data, socket.MSG_DONTWAIT) :]


if __name__ == '__main__':
    main()
