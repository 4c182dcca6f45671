# SPDX-License-Identifier: GPL-2.0-or-later
"""recv() and its flags, options and relatives."""

import ctypes
import errno
import mmap
import os
import socket
import struct
import threading
import time

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Call, Unsupported, outcome, pattern, text, verdict
from tests.conformance.catalogue import BLOCKING, BOTH, NONBLOCKING, Observation, behaviour

PAGE = mmap.PAGESIZE
MSG_WAITFORONE = 0x10000


def timeval(seconds: float) -> bytes:
    return struct.pack('ll', int(seconds), int(seconds % 1 * 1e6))


@behaviour('MSG_PEEK: a message looked at in parts, then read', readers=BOTH)
def peek(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'abcdef')
    looks = [bench.read(pair.server, count, socket.MSG_PEEK) for count in (3, 6, 100)]
    reads = [bench.read(pair.server, 2), bench.read(pair.server, 100, socket.MSG_PEEK), bench.read(pair.server)]
    return {'peeks give': looks, 'read 2, peek, read give': reads}


@behaviour('MSG_PEEK: over two messages', readers=BOTH)
def peek_two(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'one,')
    bench.write_all(pair.client, b'two')
    bench.readable(pair.server)
    looks = [bench.read(pair.server, 100, socket.MSG_PEEK), bench.read(pair.server, 6, socket.MSG_PEEK)]
    return {'peeks give': looks, 'recv() gives': bench.read_text(pair.server, 7)}


@behaviour('MSG_PEEK: data from before the accept and from after it', readers=BOTH)
def peek_across_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'before ')
    server = bench.accept(listener)
    bench.write_all(client, b'after')
    return {'peek gives': bench.read(server, 100, socket.MSG_PEEK), 'recv() gives': bench.read_text(server, 12)}


@behaviour('SO_PEEK_OFF: peeks that go on where the last one ended', readers=BOTH, control_fails=True)
def peek_offset(bench: Bench) -> Observation:
    pair = bench.pair()
    try:
        pair.server.setsockopt(socket.SOL_SOCKET, syscalls.SO_PEEK_OFF, 0)
    except OSError as error:
        raise Unsupported(f'SO_PEEK_OFF on TCP: {error}') from error
    bench.write_all(pair.client, b'abcdef')
    looks = [bench.read(pair.server, 2, socket.MSG_PEEK) for _ in range(3)]
    return {'peeks of 2 give': looks, 'recv() gives': bench.read(pair.server)}


@behaviour('MSG_TRUNC: data thrown away without a buffer', readers=BOTH, control_fails=True)
def discard(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'abcdef')
    bench.readable(pair.server)
    thrown = syscalls.recv_discard(pair.server.fileno(), 4)
    return {'recv() gives': thrown, 'what is left': bench.read(pair.server)}


@behaviour('MSG_WAITALL: two messages of half the size', readers=BLOCKING, control_fails=True)
def wait_all(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'first')
    call = Call(lambda: pair.server.recv(10, socket.MSG_WAITALL).decode()).blocks_on(pair.server)
    bench.write_all(pair.client, b'other')
    return {'recv() gives': call.result()}


@behaviour('MSG_WAITALL: half before the accept, half after it', readers=BLOCKING, control_fails=True)
def wait_all_across_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'first')
    server = bench.accept(listener)
    call = Call(lambda: server.recv(10, socket.MSG_WAITALL).decode()).blocks_on(server)
    bench.write_all(client, b'other')
    return {'recv() gives': call.result()}


@behaviour('MSG_WAITALL: on a non-blocking socket', readers=NONBLOCKING)
def wait_all_nonblocking(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'first')
    return {'recv() gives': bench.read(pair.server, 10, socket.MSG_WAITALL)}


@behaviour('MSG_WAITALL: the receiver has just been switched to blocking', readers=NONBLOCKING, control_fails=True)
def wait_all_after_switch(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.setblocking(True)
    bench.write_all(pair.client, b'first')
    call = Call(lambda: pair.server.recv(10, socket.MSG_WAITALL).decode()).blocks_on(pair.server)
    bench.write_all(pair.client, b'other')
    return {'recv() gives': call.result()}


@behaviour('MSG_WAITALL: the peer closes half-way', readers=BLOCKING)
def wait_all_and_close(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'first')
    pair.client.close()
    reads = [pair.server.recv(10, socket.MSG_WAITALL).decode() for _ in range(2)]
    return {'recv() gives': reads}


@behaviour('SO_RCVLOWAT: poll() with less than the mark and with as much', readers=BOTH, control_fails=True)
def low_water_mark(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
    bench.write_all(pair.client, b'first')
    bench.arrives(pair.client)
    below = bench.readable_now(pair.server)
    bench.write_all(pair.client, b'other')
    return {'readable with 5 of 10': below, 'readable with 10': bench.readable(pair.server)}


@behaviour('SO_RCVLOWAT: recv() waits for the mark', readers=BLOCKING, control_fails=True)
def low_water_mark_blocks(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
    bench.write_all(pair.client, b'first')
    bench.arrives(pair.client)
    call = Call(lambda: pair.server.recv(100).decode())
    call.start()
    before = call.settles(pair.server)
    # recv() has taken the first 5 already, so that only 10 more wake it.
    bench.write_all(pair.client, b'ten others')
    return {'recv() with 5 of 10': before, 'recv() with 10 more': call.result()}


@behaviour('SO_RCVTIMEO: nothing comes, then something', readers=BLOCKING)
def receive_timeout(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(0.2))
    started = time.monotonic()
    result = text(syscalls.raw_recv(pair.server.fileno(), 10))
    waited = time.monotonic() - started
    bench.write_all(pair.client, b'data')
    return {'recv() gives': result, 'after its time': waited > 0.15, 'then': bench.read(pair.server)}


@behaviour('MSG_DONTWAIT: recv() with and without data', readers=BOTH)
def dont_wait(bench: Bench) -> Observation:
    pair = bench.pair()
    empty = text(syscalls.raw_recv(pair.server.fileno(), 10, socket.MSG_DONTWAIT))
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    return {'without': empty, 'with': text(syscalls.raw_recv(pair.server.fileno(), 10, socket.MSG_DONTWAIT))}


@behaviour('recv(): zero bytes asked for', readers=BOTH)
def zero_length(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    empty = syscalls.raw_recv(pair.server.fileno(), 0, socket.MSG_DONTWAIT)
    return {
        'recv() gives': len(empty) if isinstance(empty, bytes) else empty,
        'what is left': bench.read(pair.server),
    }


@behaviour('recv(): into an address that is not mapped', readers=BOTH)
def bad_buffer(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    result = syscalls.libc.recv(pair.server.fileno(), 4096, 4, 0)
    error = syscalls.errno_name(ctypes.get_errno()) if result < 0 else result
    return {'recv() gives': error, 'what is left': bench.read(pair.server)}


@behaviour('recvmsg(): scattered over many buffers', readers=BOTH)
def scatter(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(10_000)
    bench.write_all(pair.client, sent)
    bench.readable(pair.server)
    buffers = [bytearray(size) for size in range(1, 150)]
    count, _, flags, _ = pair.server.recvmsg_into(buffers)
    return {'it gives': [count, flags], 'the content': verdict(b''.join(buffers)[:count], sent)}


@behaviour('recvmmsg(): twelve bytes in buffers of four', readers=BOTH)
def many_messages(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'one,two,six,')
    bench.readable(pair.server)
    received = outcome(lambda: [m.decode() for m in syscalls.recvmmsg(pair.server.fileno(), 5, 4, MSG_WAITFORONE)])
    return {'it gives': received}


@behaviour('recv(): the error queue when it is empty', readers=BOTH)
def empty_error_queue(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    result = syscalls.raw_recv(pair.server.fileno(), 10, socket.MSG_ERRQUEUE)
    return {'MSG_ERRQUEUE gives': text(result), 'what is left': bench.read(pair.server)}


@behaviour('recv(): two threads share a socket, every byte goes to one of them', readers=NONBLOCKING)
def two_threads(bench: Bench) -> Observation:
    pair = bench.pair()
    total = 400_000
    counts = [0] * 256
    lock = threading.Lock()

    def read() -> None:
        while bench.readable(pair.server):
            try:
                data = pair.server.recv(1000)
            except BlockingIOError:
                continue
            if not data:
                return
            with lock:
                for byte in data:
                    counts[byte] += 1

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    sent = pattern(total)
    bench.write_all(pair.client, sent)
    pair.client.shutdown(socket.SHUT_WR)
    for thread in threads:
        thread.join()
    return {
        'bytes read': sum(counts),
        'each as often as sent': counts == [sent.count(byte) for byte in range(256)],
    }


@behaviour('splice(): from a socket into a pipe', readers=BOTH, control_fails=True)
def splice_out(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(30_000)
    bench.write_all(pair.client, sent)
    pair.client.shutdown(socket.SHUT_WR)
    read_end, write_end = os.pipe()
    received = b''
    while len(received) < len(sent):
        if not bench.readable(pair.server):
            return {'splice() gives': 'nothing'}
        try:
            count = os.splice(pair.server.fileno(), write_end, 65536)
        except OSError as error:
            return {'splice() gives': errno.errorcode[error.errno or 0]}
        if not count:
            break
        received += os.read(read_end, count)
    return {'splice() gives': verdict(received, sent)}


@behaviour('TCP_ZEROCOPY_RECEIVE: how much there is to receive', readers=BOTH, control_fails=True)
def zerocopy_receive(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, bytes(100))
    bench.readable(pair.server)
    size = 16 * PAGE
    area = syscalls.libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, pair.server.fileno(), 0)
    if area == ctypes.c_void_p(-1).value:
        raise Unsupported('mmap() of a TCP socket')
    # struct tcp_zerocopy_receive up to and with err
    request = ctypes.create_string_buffer(struct.pack('QIIIi', area, size, 0, 0, 0), 24)
    length = ctypes.c_uint32(24)
    fd, tcp = pair.server.fileno(), socket.IPPROTO_TCP
    result = syscalls.libc.getsockopt(fd, tcp, syscalls.TCP_ZEROCOPY_RECEIVE, request, ctypes.byref(length))
    if result < 0:
        return {'getsockopt() gives': syscalls.errno_name(ctypes.get_errno())}
    _, mapped, to_copy, _, _ = struct.unpack('QIIIi', request.raw)
    return {'mapped': mapped, 'to be read by recv()': to_copy}
