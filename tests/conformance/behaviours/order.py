# SPDX-License-Identifier: GPL-2.0-or-later
"""Every byte once, in the order in which it was sent."""

import contextlib
import fcntl
import os
import random
import socket
import threading
from pathlib import Path

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Unsupported, pattern, verdict
from tests.conformance.catalogue import BOTH, NONBLOCKING, Observation, behaviour

TCPI_OPT_SYN_DATA = 32
# From ip-sysctl: client and server, without a cookie in either direction, for every listener.
FAST_OPEN_WITHOUT_COOKIES = 0x1 | 0x2 | 0x4 | 0x200 | 0x400


@behaviour('order: messages of 1 B to 200 KB, each read before the next', readers=BOTH)
def read_each(bench: Bench) -> Observation:
    pair = bench.pair()
    sizes = random.Random(1)
    wrong = 0
    for number in range(60):
        message = pattern(int(200_000 ** sizes.random()), number)
        sender, receiver = pair if number % 3 else reversed(pair)
        writer = threading.Thread(target=bench.write_all, args=(sender, message))
        writer.start()
        wrong += bench.read_bytes(receiver, len(message)) != message
        writer.join()
    return {'messages that came wrong': wrong}


@behaviour('order: a stream of messages of 1 B to 200 KB, read as it comes', readers=BOTH)
def read_stream(bench: Bench) -> Observation:
    pair = bench.pair()
    sizes = random.Random(2)
    sent = pattern(6_000_000)

    def write() -> None:
        start = 0
        while start < len(sent):
            end = start + int(200_000 ** sizes.random())
            bench.write_all(pair.client, sent[start:end])
            start = end

    writer = threading.Thread(target=write)
    writer.start()
    received = bench.read_bytes(pair.server, len(sent))
    writer.join()
    return {'the server reads': verdict(received, sent)}


@behaviour('order: both directions full at once', readers=BOTH)
def full_duplex(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = {sock: pattern(3_000_000, seed) for seed, sock in enumerate(pair)}
    writers = [threading.Thread(target=bench.write_all, args=item) for item in sent.items()]
    received: dict[socket.socket, bytes] = {}

    def read(sock: socket.socket) -> None:
        received[sock] = bench.read_bytes(sock, 3_000_000)

    readers = [threading.Thread(target=read, args=(sock,)) for sock in pair]
    for thread in writers + readers:
        thread.start()
    for thread in writers + readers:
        thread.join()
    return {
        'the server reads': verdict(received[pair.server], sent[pair.client]),
        'the client reads': verdict(received[pair.client], sent[pair.server]),
    }


@behaviour('order: small writes with Nagle on', readers=BOTH)
def nagle(bench: Bench) -> Observation:
    pair = bench.pair(nodelay=False)
    sent = pattern(20_000)
    for start in range(0, len(sent), 50):
        bench.write_all(pair.client, sent[start : start + 50])
    return {'the server reads': verdict(bench.read_bytes(pair.server, len(sent)), sent)}


@behaviour('order: every socket option that decides the path switched at random', readers=NONBLOCKING)
def path_switches(bench: Bench) -> Observation:
    pair = bench.pair()
    chance = random.Random(3)
    sent, received = bytearray(), bytearray()
    tcp = socket.IPPROTO_TCP

    def receive(count: int) -> None:
        with contextlib.suppress(BlockingIOError):
            received.extend(pair.server.recv(count, socket.MSG_DONTWAIT))

    for step in range(3000):
        match chance.randrange(12):
            case 0:
                pair.server.setblocking(chance.random() < 0.5)
            case 1:
                pair.client.setsockopt(tcp, socket.TCP_CORK, chance.randrange(2))
            case 2:
                pair.client.setsockopt(tcp, socket.TCP_NODELAY, chance.randrange(2))
            case 3:
                pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, chance.choice((1, 10)))
            case 4:
                pair.client.setsockopt(socket.SOL_SOCKET, syscalls.SO_ZEROCOPY, chance.randrange(2))
            case 5 | 6 | 7 | 8 if len(sent) - len(received) < 60_000:
                message = pattern(int(20_000 ** chance.random()), step)
                count = pair.client.send(message, socket.MSG_DONTWAIT)
                sent += message[:count]
            case _:
                receive(int(50_000 ** chance.random()))
    pair.client.setsockopt(tcp, socket.TCP_CORK, 0)
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    pair.server.setblocking(False)
    received += bench.read_bytes(pair.server, len(sent) - len(received))
    bench.figures['bytes'] = len(sent)
    return {'the server reads': verdict(bytes(received), bytes(sent))}


@behaviour('order: data sent before the accept, and more after it', readers=BOTH)
def before_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'before ')
    server = bench.accept(listener)
    bench.write_all(client, b'after')
    return {'the server reads': bench.read_text(server, 12)}


@behaviour('order: 200 KB before the accept, read in pieces while more comes', readers=BOTH)
def much_before_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    sent = pattern(400_000)
    bench.write_all(client, sent[:200_000])
    server = bench.accept(listener)
    received = b''
    for start in range(200_000, 400_000, 10_000):
        received += bench.read_bytes(server, 7_000)
        bench.write_all(client, sent[start : start + 10_000])
    received += bench.read_bytes(server, len(sent) - len(received))
    return {'the server reads': verdict(received, sent)}


@behaviour(
    'order: TCP_DEFER_ACCEPT, the second message sent before the server reads', readers=BOTH, control_fails=True
)
def defer_accept(bench: Bench) -> Observation:
    listener = bench.listen((socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1))
    client = bench.connect(listener)
    bench.write_all(client, b'first ')
    server = bench.accept(listener)
    bench.write_all(client, b'second ')
    bench.write_all(client, b'third')
    first = bench.read_text(server, 18)
    bench.warm(client, server)
    return {'the server reads': first}


@behaviour('order: Fast Open, the second message sent before the server reads', readers=BOTH, control_fails=True)
def fast_open(bench: Bench) -> Observation:
    bench.private_network()
    setting = Path('/proc/sys/net/ipv4/tcp_fastopen')
    try:
        setting.write_text(str(FAST_OPEN_WITHOUT_COOKIES))
        with bench.network.at_server():
            setting.write_text(str(FAST_OPEN_WITHOUT_COOKIES))
    except OSError as error:
        raise Unsupported(f'Fast Open cannot be switched on: {error}') from error
    listener = bench.listen((socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16))
    client = bench.client()
    client.sendto(b'in the SYN, ', syscalls.MSG_FASTOPEN, bench.address(listener))
    bench.set_mode(client)
    server = bench.accept(listener)
    bench.write_all(client, b'after it')
    in_syn = bool(syscalls.TcpInfo(client).options & TCPI_OPT_SYN_DATA)
    return {'data in the SYN': in_syn, 'the server reads': bench.read_text(server, 20)}


@behaviour('order: both sides write before either reads', readers=BOTH)
def both_write_first(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'client 1 ')
    server = bench.accept(listener)
    bench.write_all(server, b'server 1 ')
    bench.write_all(client, b'client 2')
    bench.write_all(server, b'server 2')
    return {'the server reads': bench.read_text(server, 17), 'the client reads': bench.read_text(client, 17)}


@behaviour('order: four threads send on one socket', readers=BOTH)
def four_senders(bench: Bench) -> Observation:
    # Room for all: of a message for which there is none, send() takes a part, and another thread's may come next.
    pair = bench.pair(client_options=((socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20),))
    size, each = 512, 50

    def send(thread: int) -> None:
        for number in range(each):
            bench.write_all(pair.client, bytes([thread, number]) * (size // 2))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    received = bench.read_bytes(pair.server, 4 * each * size)
    for thread in threads:
        thread.join()
    messages = [received[start : start + size] for start in range(0, len(received), size)]
    seen = {thread: [message[1] for message in messages if message[0] == thread] for thread in range(4)}
    return {
        'messages torn apart': sum(message != message[:2] * (size // 2) for message in messages),
        "each thread's messages in order": all(seen[thread] == list(range(each)) for thread in range(4)),
    }


@behaviour('order: a receiver that turns blocking and back with data unread', readers=NONBLOCKING)
def changing_mode(bench: Bench) -> Observation:
    pair = bench.pair()
    sent, received = b'', b''
    for number in range(40):
        flags = fcntl.fcntl(pair.server, fcntl.F_GETFL)
        fcntl.fcntl(pair.server, fcntl.F_SETFL, flags ^ os.O_NONBLOCK)
        for part in range(3):
            message = f'{number}.{part} '.encode()
            bench.write_all(pair.client, message)
            sent += message
        received += pair.server.recv(5, socket.MSG_DONTWAIT)
    pair.server.setblocking(False)
    received += bench.read_bytes(pair.server, len(sent) - len(received))
    return {'the server reads': verdict(received, sent)}
