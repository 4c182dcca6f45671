# SPDX-License-Identifier: GPL-2.0-or-later
"""Many connections, and readers that are slow or do not read."""

import asyncio
import contextlib
import functools
import hashlib
import resource
import socket
import threading
import time
from collections import Counter

from tests.conformance import syscalls
from tests.conformance.behaviours.send import CAP, CHUNK
from tests.conformance.bench import SLOWER, Bench, Call, pattern, verdict
from tests.conformance.catalogue import BOTH, NONBLOCKING, Observation, behaviour
from tests.support.patience import PATIENCE_S

STREAM = pattern(1 << 20)
LARGEST_SEGMENT = 65536


def stream(start: int, count: int) -> bytes:
    """A part of an endless stream that repeats a block of 1 MiB less a byte, so that no power of two fits."""
    period = len(STREAM) - 1
    start %= period
    return (STREAM[:period] * ((start + count) // period + 1))[start : start + count]


def drain(bench: Bench, sock: socket.socket, count: int) -> str:
    """Read count bytes of the stream from its start and compare."""
    position = 0
    while position < count:
        data = bench.read_bytes(sock, min(1 << 18, count - position))
        if data != stream(position, len(data)):
            return 'bytes are out of order or wrong'
        if not data:
            return 'bytes are missing at the end'
        position += len(data)
    return 'as sent'


def buffers(bench: Bench, sender: socket.socket, receiver: socket.socket) -> int:
    """What TCP may hold between the two ends, in bytes.

    It fills a segment where there is room for a byte of it (sk_stream_memory_free() in include/net/sock.h), and a
    segment between network namespaces is filled as on the loopback interface.
    """
    sizes = {
        'sndbuf': sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        'rcvbuf': receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
    }
    bench.figures |= sizes
    return sum(sizes.values()) + LARGEST_SEGMENT


def against_wall(bench: Bench, options: tuple[tuple[int, int, int], ...]) -> Observation:
    pair = bench.pair(client_options=options, server_options=options)
    accepted = 0
    end = 'the cap'
    while accepted < CAP:
        result = bench.write(pair.client, stream(accepted, CHUNK), socket.MSG_DONTWAIT)
        if isinstance(result, int):
            accepted += result
        elif result != 'EAGAIN' or not bench.makes_room(pair.client):
            end = result
            break
    limit = buffers(bench, pair.client, pair.server)
    bench.figures['accepted'] = accepted
    return {
        'send() ends with': end,
        'within SO_RCVBUF + SO_SNDBUF': accepted <= limit,
        'the server then reads': drain(bench, pair.server, accepted),
    }


@behaviour('no reader: a non-blocking sender until it is stopped', readers=BOTH, control_fails=True, alone=True)
def wall(bench: Bench) -> Observation:
    return against_wall(bench, ())


@behaviour(
    'no reader: the same with SO_RCVBUF and SO_SNDBUF of 128 KB', readers=BOTH, control_fails=True, alone=True
)
def small_wall(bench: Bench) -> Observation:
    sol = socket.SOL_SOCKET
    return against_wall(bench, ((sol, socket.SO_RCVBUF, 131072), (sol, socket.SO_SNDBUF, 131072)))


@behaviour('no reader: a blocking sender blocks, and goes on when it is read', readers=BOTH, control_fails=True)
def blocking_sender(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.setblocking(True)
    total = 16 << 20
    sent = 0

    def write() -> str:
        nonlocal sent
        while sent < total:
            pair.client.sendall(stream(sent, CHUNK))
            sent += CHUNK
        return 'all'

    call = Call(write)
    call.start()

    def is_stopped() -> bool:
        """Whether TCP has its answer to all that is out, and the sender sleeps all the same, or is done."""
        answered = not syscalls.TcpInfo(pair.client).unacknowledged
        return not call.is_alive() or (answered and call.is_blocked_on(pair.client))

    bench.wait_until(is_stopped)
    limit = buffers(bench, pair.client, pair.server)
    bench.figures['accepted'] = sent
    bounded = sent <= limit
    content = drain(bench, pair.server, total)
    return {'bounded by the buffers': bounded, 'the server reads': content, 'then sent': call.result()}


@behaviour('slow reader: 8 MB in pieces with pauses', readers=BOTH, alone=True)
def slow_reader(bench: Bench) -> Observation:
    pair = bench.pair()
    total = 8 << 20

    def write() -> str:
        for start in range(0, total, CHUNK):
            if (result := bench.write_all(pair.client, stream(start, CHUNK))) != 'all':
                return result
        return 'all'

    writer = Call(write)
    writer.start()
    digest, expected = hashlib.sha256(), hashlib.sha256()
    longest = 0.0
    for start in range(0, total, CHUNK):
        asked = time.monotonic()
        digest.update(bench.read_bytes(pair.server, CHUNK))
        longest = max(longest, time.monotonic() - asked)
        expected.update(stream(start, CHUNK))
        time.sleep(0.002)  # what makes the reader slow
    bench.figures['longest wait'] = longest
    return {
        'sent': writer.result(),
        'the server reads': 'as sent' if digest.digest() == expected.digest() else 'something else',
    }


@behaviour('slow reader: one small message at a time from a full socket', readers=NONBLOCKING, alone=True)
def sipping_reader(bench: Bench) -> Observation:
    pair = bench.pair()
    total = 100_000
    writer = Call(lambda: [bench.write_all(pair.client, stream(start, 100)) for start in range(0, total, 100)])
    writer.start()
    received = b''.join(bench.read_bytes(pair.server, min(37, total - start)) for start in range(0, total, 37))
    writer.result()
    return {'the server reads': verdict(received, stream(0, total))}


def short_connections(bench: Bench, threads: int, each: int) -> Observation:
    """Threads that connect, send, check the echo and close, again and again."""
    bench.private_network()  # for its TIME_WAITs
    listener = bench.listen(backlog=1024)
    address = bench.address(listener)
    family = socket.AF_INET6 if bench.family == 'ipv6' else socket.AF_INET
    seconds = PATIENCE_S if bench.nonblocking else None  # a time-out is what makes Python's sockets non-blocking
    listener.settimeout(None)
    faults: Counter[str] = Counter()

    def serve() -> None:
        while True:
            server, _ = listener.accept()
            with server:
                server.settimeout(seconds)
                while data := server.recv(65536):
                    server.sendall(data)

    def connect(thread: int) -> None:
        for number in range(each):
            message = b'%d/%d ' % (thread, number) + STREAM[number : number + 16 + (thread * 37 + number) % 1400]
            try:
                with socket.socket(family, socket.SOCK_STREAM) as client:
                    client.settimeout(seconds)
                    client.connect(address)
                    client.sendall(message)
                    echo = b''
                    while len(echo) < len(message) and (data := client.recv(65536)):
                        echo += data
                if echo != message:
                    faults['wrong echo'] += 1
            except OSError as error:
                faults[syscalls.errno_name(error.errno or 0) if error.errno else str(error)] += 1

    def serve_all() -> None:
        servers = [threading.Thread(target=serve, daemon=True) for _ in range(threads)]
        for thread in servers:
            thread.start()
        for thread in servers:
            thread.join()

    with bench.process(serve_all):
        clients = [threading.Thread(target=connect, args=(number,)) for number in range(threads)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    return {'connections': threads * each, 'faults': dict(faults)}


@behaviour('short connections: 64 threads, every echo checked', readers=BOTH, limit=90, alone=True)
def echo_threads(bench: Bench) -> Observation:
    return short_connections(bench, 64, int(300 / SLOWER))


@behaviour('asyncio: 50 connections, 40 echoes each', readers=NONBLOCKING, limit=20)
def asyncio_echo(bench: Bench) -> Observation:
    listener = bench.listen()
    address = bench.address(listener)
    listener.setblocking(False)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(number: int) -> int:
        reader, writer = await asyncio.open_connection(*address)
        right = 0
        for size in range(40):
            message = stream(number * 1000, 1 + size * 500)
            writer.write(message)
            right += await asyncio.wait_for(reader.readexactly(len(message)), PATIENCE_S) == message
        writer.close()
        await writer.wait_closed()
        return right

    async def everything() -> int:
        async with await asyncio.start_server(serve, sock=listener):
            return sum(await asyncio.gather(*(connect(number) for number in range(50))))

    return {'echoes right': asyncio.run(everything())}


def hold_many(bench: Bench, count: int, gate: socket.socket) -> None:
    """Open the connections, say so, and once all others are open too use each twice in both directions."""
    listener = bench.listen(backlog=1024)
    pairs = []
    for _ in range(count):
        client = bench.connect(listener)
        pairs.append((client, bench.accept(listener)))
    gate.send(b'open')
    gate.recv(10)
    right = 0
    for _ in range(2):
        for number, (client, server) in enumerate(pairs):
            for sender, receiver in ((client, server), (server, client)):
                message = b'%08d' % number
                bench.write_all(sender, message)
                right += bench.read_bytes(receiver, 8) == message
    ends = 0
    for client, server in pairs:
        client.close()
        ends += bench.read(server) == 'EOF'
        server.close()
    gate.send(b'%d %d' % (right, ends))


def many_connections(bench: Bench, count: int) -> Observation:
    """Connections that are open at once, in as many processes as the limit of descriptors asks for."""
    bench.private_network()  # for its ports
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    processes = -(-count // (limit // 2 - 100))
    shares = [count // processes + (number < count % processes) for number in range(processes)]
    gates = []
    with contextlib.ExitStack() as stack:
        for share in shares:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(bench.process(functools.partial(hold_many, bench, share, theirs)))
            theirs.close()
            gates.append(ours)
        opened = [gate.recv(10) for gate in gates]
        for gate in gates:
            gate.send(b'go')
        totals = [gate.recv(100).split() for gate in gates]
    held = sum(share for share, word in zip(shares, opened, strict=True) if word == b'open')
    right, ends = (sum(int(total[part]) for total in totals) for part in (0, 1))
    return {'open': held, 'messages wrong': 4 * held - right, 'ends wrong': held - ends}


@behaviour('many connections: 1000 open at once', readers=BOTH, limit=20, alone=True)
def thousand(bench: Bench) -> Observation:
    return many_connections(bench, 1000)


@behaviour(
    'many connections: 20000 open at once',
    readers=NONBLOCKING,
    families=('ipv4',),
    limit=120,
    alone=True,
    slow=True,
)
def twenty_thousand(bench: Bench) -> Observation:
    return many_connections(bench, 20_000)


@behaviour('many connections: closed one by one while the others talk', readers=BOTH)
def one_by_one(bench: Bench) -> Observation:
    listener = bench.listen()
    pairs = []
    for _ in range(100):
        client = bench.connect(listener)
        pairs.append((client, bench.accept(listener)))
    right = 0
    while pairs:
        client, server = pairs.pop()
        client.close()
        right += bench.read(server) == 'EOF'
        server.close()
        for number, (client, server) in enumerate(pairs):
            message = b'%08d' % number
            bench.write_all(client, message)
            right += bench.read_bytes(server, 8) == message
    return {'messages and ends right': right}
