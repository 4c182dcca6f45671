# SPDX-License-Identifier: GPL-2.0-or-later
"""Listeners, their queues, and ports that are used again."""

import select
import socket
import struct

from tests.conformance import syscalls
from tests.conformance.behaviours.ending import abort
from tests.conformance.bench import Bench, pattern, verdict
from tests.conformance.catalogue import BOTH, Observation, behaviour

REUSE_ADDRESS = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
REUSE_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def exchange(bench: Bench, client: socket.socket, server: socket.socket, number: int) -> bool:
    """Whether a question and its answer arrive as they were sent."""
    question, answer = b'question %d' % number, b'answer %d' % number
    bench.write_all(client, question)
    asked = bench.read_bytes(server, len(question))
    bench.write_all(server, answer)
    return (asked, bench.read_bytes(client, len(answer))) == (question, answer)


@behaviour('SO_REUSEPORT: two listeners on one port, 64 connections', readers=BOTH)
def reuse_port(bench: Bench) -> Observation:
    first = bench.listen(REUSE_PORT)
    listeners = [first, bench.listen(REUSE_PORT, port=first.getsockname()[1])]
    clients = {}
    for number in range(64):
        client = bench.connect(first)
        bench.write_all(client, b'%4d' % number)
        clients[client.getsockname()[1]] = client
    served = 0
    names = set()
    for listener in listeners:
        while bench.readable_now(listener):
            server = bench.accept(listener)
            names.add(bench.read_text(server, 4))
            served += exchange(bench, clients[server.getpeername()[1]], server, served)
    return {'connections served': served, 'each by its own data': len(names)}


@behaviour('port reuse: the same two ports 50 times, closed by RST', readers=BOTH)
def same_ports_after_rst(bench: Bench) -> Observation:
    bench.private_network()  # where nobody else takes the port in between
    listener = bench.listen(REUSE_ADDRESS)
    port = 0
    right = 0
    for number in range(50):
        client = bench.connect(listener, REUSE_ADDRESS, source_port=port)
        port = client.getsockname()[1]
        server = bench.accept(listener)
        right += all(exchange(bench, client, server, 10 * number + part) for part in range(4))
        abort(client)
        abort(server)
    return {'connections right': right}


@behaviour('port reuse: the same two ports 20 times, the server closes first', readers=BOTH)
def same_ports_in_time_wait(bench: Bench) -> Observation:
    bench.private_network()  # where nobody else takes the port in between
    listener = bench.listen(REUSE_ADDRESS)
    port = 0
    right = 0
    for number in range(20):
        client = bench.connect(listener, REUSE_ADDRESS, source_port=port)
        port = client.getsockname()[1]
        server = bench.accept(listener)
        right += all(exchange(bench, client, server, 10 * number + part) for part in range(4))
        server.close()
        right += bench.read(client) == 'EOF'
        client.close()
    return {'exchanges and ends right': right}


@behaviour('port reuse: a connection left with data unread, then the same two ports', readers=BOTH)
def same_ports_after_unread_data(bench: Bench) -> Observation:
    bench.private_network()  # where nobody else takes the port in between
    listener = bench.listen(REUSE_ADDRESS)
    port = 0
    right = 0
    for number in range(20):
        client = bench.connect(listener, REUSE_ADDRESS, source_port=port)
        port = client.getsockname()[1]
        server = bench.accept(listener)
        right += exchange(bench, client, server, number)
        bench.write_all(client, b'left over from %d' % number)
        bench.readable(server)
        abort(server)
        bench.readable(client, select.POLLERR)
        client.close()
    return {'connections right': right}


@behaviour('backlog: 32 connections wait with their data, then are accepted', readers=BOTH)
def backlog(bench: Bench) -> Observation:
    listener = bench.listen()
    clients = [bench.connect(listener) for _ in range(32)]
    sent = {client.getsockname()[1]: pattern(5_000, number) for number, client in enumerate(clients)}
    for client in clients:
        bench.write_all(client, sent[client.getsockname()[1]])
    right = 0
    for _ in clients:
        server = bench.accept(listener)
        message = sent[server.getpeername()[1]]
        right += verdict(bench.read_bytes(server, len(message)), message) == 'as sent'
    return {'connections right': right}


@behaviour('backlog: the listener is closed before the accept', readers=BOTH, control_fails=True)
def closed_before_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'never accepted')
    listener.close()
    bench.readable(client)
    return {'the client reads': bench.read(client), 'its send() gives': bench.write(client, b'x')}


@behaviour('options: what an accepted socket inherits', readers=BOTH)
def inherited_options(bench: Bench) -> Observation:
    sol, tcp = socket.SOL_SOCKET, socket.IPPROTO_TCP
    options = {
        'TCP_NODELAY': (tcp, socket.TCP_NODELAY, 1),
        'SO_KEEPALIVE': (sol, socket.SO_KEEPALIVE, 1),
        'TCP_KEEPIDLE': (tcp, socket.TCP_KEEPIDLE, 77),
        'SO_RCVBUF': (sol, socket.SO_RCVBUF, 100_000),
        'SO_SNDBUF': (sol, socket.SO_SNDBUF, 100_000),
        'SO_RCVLOWAT': (sol, socket.SO_RCVLOWAT, 3),
    }
    listener = bench.listen(*options.values())
    client = bench.connect(listener)
    server = bench.accept(listener)
    inherited = {name: server.getsockopt(level, option) for name, (level, option, _) in options.items()}
    server.setsockopt(sol, socket.SO_RCVLOWAT, 1)
    return inherited | {'exchanged': exchange(bench, client, server, 1)}


@behaviour('keepalive: probes and TCP_USER_TIMEOUT on an idle connection', readers=BOTH)
def keepalive(bench: Bench) -> Observation:
    pair = bench.pair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
    before = syscalls.TcpInfo(pair.client).segments_in
    # The answers to two of its probes, a second apart.
    probed = bench.wait_until(lambda: syscalls.TcpInfo(pair.client).segments_in - before >= 2)
    quiet = not bench.readable_now(pair.server)
    return {'probed': probed, 'stays quiet': quiet, 'exchanged': exchange(bench, pair.client, pair.server, 1)}


@behaviour('options: SO_LINGER, buffer sizes and TCP_NODELAY set on a connection in use', readers=BOTH)
def options_in_use(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 5))
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    right = [exchange(bench, pair.client, pair.server, number) for number in range(10)]
    pair.client.close()
    return {'exchanged': all(right), 'and then': bench.read(pair.server)}
