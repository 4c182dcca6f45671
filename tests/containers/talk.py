# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs in a container: serves echoes, or asks for them and says which way its messages went.

talk.py serve PORT
talk.py ask HOST PORT SECONDS   prints {"redirected": N, "tcp": N}, the ways of its last messages, as JSON

It asks until a message was redirected, for SECONDS at most, and then a hundred times more. A wrong echo ends it,
and one that does not come.
"""

import json
import random
import select
import socket
import sys
import time

ROUNDS = 100
LARGEST = 30_000
# Seconds. Containers do not see tests/support/patience.py.
PATIENCE_S = 120
# struct tcp_info (linux/tcp.h)
BYTES_SENT = slice(200, 208)


def serve(port: int) -> None:
    with socket.create_server(('', port)) as listener:
        poller = select.poll()
        ends = {listener.fileno(): listener}
        poller.register(listener, select.POLLIN)
        while True:
            for number, _events in poller.poll():
                if number == listener.fileno():
                    end, _address = listener.accept()
                    end.setblocking(False)
                    ends[end.fileno()] = end
                    poller.register(end, select.POLLIN)
                elif not echo(ends[number]):
                    poller.unregister(number)
                    ends.pop(number).close()


def echo(end: socket.socket) -> bool:
    """False at the end of the stream."""
    try:
        data = end.recv(65536)
    except BlockingIOError:
        return True
    if data:
        write(end, data)
    return bool(data)


def write(end: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[end.send(data) :]
        except BlockingIOError:
            select.select([], [end], [])


def ask(host: str, port: int, seconds: float) -> dict[str, int]:
    chance = random.Random(port)
    until = time.monotonic() + seconds
    ways = {'redirected': 0, 'tcp': 0}
    with connected(host, port, until) as end:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while exchange(end, b'hello') == 'tcp' and time.monotonic() < until:
            time.sleep(0.01)
        for _round in range(ROUNDS):
            ways[exchange(end, chance.randbytes(chance.randrange(1, LARGEST)))] += 1
    return ways


def connected(host: str, port: int, until: float) -> socket.socket:
    """Nobody tells when the server in another container has begun to listen. Raises OSError."""
    while True:
        try:
            return socket.create_connection((host, port))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def exchange(end: socket.socket, message: bytes) -> str:
    """Send a message and compare its echo; gives the way that the message went."""
    before = sent_by_tcp(end)
    write(end, message)
    way = 'redirected' if sent_by_tcp(end) == before else 'tcp'
    got = b''
    while len(got) < len(message):
        if not select.select([end], [], [], PATIENCE_S)[0]:
            raise SystemExit(f'{len(got)} of {len(message)} bytes came back in {PATIENCE_S} s; they went: {way}')
        came = end.recv(65536)
        if not came:
            raise SystemExit(f'{len(got)} of {len(message)} bytes came back before the end; they went: {way}')
        got += came
    if got != message:
        raise SystemExit(f'{len(message)} bytes came back changed')
    return way


def sent_by_tcp(end: socket.socket) -> int:
    return int.from_bytes(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[BYTES_SENT], 'little')


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
