# SPDX-License-Identifier: GPL-2.0-or-later
"""send() and its flags, options and relatives."""

import os
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable

from tests.conformance import syscalls
from tests.conformance.behaviours.receive import timeval
from tests.conformance.bench import (
    AT_ONCE,
    IN_USE,
    Bench,
    Call,
    Pair,
    outcome,
    pattern,
    verdict,
)
from tests.conformance.catalogue import BOTH, Observation, behaviour

# A sender that meets no back-pressure stops here, so that it cannot take the machine's memory.
CAP = 64 << 20
CHUNK = 65536


def completions(bench: Bench, sock: socket.socket) -> list[list[int]]:
    """The ranges of MSG_ZEROCOPY sends that the error queue reports once all has arrived and been read."""
    bench.arrives(sock)
    ranges: list[list[int]] = []
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ranges
        for _, _, data in ancillary:
            _, _, _, _, _, first, last = struct.unpack('=IBBBBII', data[:16])
            ranges.append([first, last])


def zerocopy(moment: str) -> None:
    """Enter what a sender without copies sees that sets SO_ZEROCOPY at one moment."""

    @behaviour(
        f'MSG_ZEROCOPY: one completion for each send(), {moment}', readers=BOTH, control_fails=True,
        stays_tcp=moment == AT_ONCE,
    )  # fmt: skip
    def completed_sends(bench: Bench) -> Observation:
        pair = bench.pair_with(moment, client=[(socket.SOL_SOCKET, syscalls.SO_ZEROCOPY, 1)])
        sends, completed, content = [], [], []
        for seed in range(3):
            # Little enough that TCP takes it in one piece, however small its segments are.
            sent = pattern(CHUNK // 2, seed)
            sends.append(bench.write(pair.client, sent, syscalls.MSG_ZEROCOPY))
            content.append(verdict(bench.read_bytes(pair.server, len(sent)), sent))
            completed.append(completions(bench, pair.client))
        return {'send() gives': sends, 'completions': completed, 'the server reads': content}


zerocopy(AT_ONCE)
zerocopy(IN_USE)


def held_back(bench: Bench, write: Callable[[Pair], object]) -> tuple[Pair, bool]:
    """A pair with a message that its sender has asked TCP to hold back, and whether TCP does.

    TCP sends a partial segment after 200 ms (TCP_RTO_MIN) all the same: a try that took longer shows nothing.
    """
    while True:
        pair = bench.pair()
        began = time.monotonic()
        write(pair)
        held = syscalls.TcpInfo(pair.client).unsent_bytes > 0 and not bench.readable_now(pair.server)
        if held or time.monotonic() - began < 0.2:
            return pair, held


@behaviour('TCP_CORK: held back, then sent', readers=BOTH, control_fails=True)
def cork(bench: Bench) -> Observation:
    def write(pair: Pair) -> None:
        pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        bench.write_all(pair.client, b'head ')

    pair, held = held_back(bench, write)
    bench.write_all(pair.client, b'body')
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return {'held back': held, 'one recv() gives': bench.read(pair.server)}


@behaviour('MSG_MORE: held back, then sent', readers=BOTH, control_fails=True)
def more(bench: Bench) -> Observation:
    pair, held = held_back(bench, lambda pair: bench.write(pair.client, b'head ', socket.MSG_MORE))
    bench.write_all(pair.client, b'body')
    return {'held back': held, 'the server reads': bench.read_text(pair.server, 9)}


@behaviour('sendfile(): 300 KB of a file', readers=BOTH)
def sendfile(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(300_000)
    with tempfile.TemporaryFile() as file:
        file.write(sent)
        file.flush()

        def send() -> str:
            offset = 0
            while offset < len(sent):
                try:
                    offset += os.sendfile(pair.client.fileno(), file.fileno(), offset, len(sent) - offset)
                except BlockingIOError:
                    bench.readable(pair.client, select.POLLOUT)
            return 'all'

        call = Call(send)
        call.start()
        received = bench.read_bytes(pair.server, len(sent))
        result = call.result()
    return {'sendfile() sends': result, 'the server reads': verdict(received, sent)}


@behaviour('sendfile(): a header by send(), then the file', readers=BOTH)
def sendfile_after_header(bench: Bench) -> Observation:
    pair = bench.pair()
    header, sent = b'HTTP/1.1 200 OK\r\n\r\n', pattern(20_000)
    with tempfile.TemporaryFile() as file:
        file.write(sent)
        file.flush()
        bench.write(pair.client, header, socket.MSG_MORE)
        os.sendfile(pair.client.fileno(), file.fileno(), 0, len(sent))
    pair.client.close()
    received, end = bench.read_to_end(pair.server)
    return {'the server reads': verdict(received, header + sent), 'and then': end}


def into_socket(bench: Bench, sock: socket.socket, pipe: int, count: int) -> str:
    """splice() count bytes from a pipe into the socket."""
    while count:
        try:
            count -= os.splice(pipe, sock.fileno(), count)
        except BlockingIOError:
            if not bench.readable(sock, select.POLLOUT):
                return 'stuck'
    return 'all'


@behaviour('splice(): from a pipe into a socket', readers=BOTH)
def splice_in(bench: Bench) -> Observation:
    pair = bench.pair()
    read_end, write_end = os.pipe()
    sent = pattern(200_000)
    results, received = [], b''
    for start in range(0, len(sent), 50_000):
        os.write(write_end, sent[start : start + 50_000])
        results.append(into_socket(bench, pair.client, read_end, 50_000))
        received += bench.read_bytes(pair.server, 50_000)
    return {'splice() sends': results, 'the server reads': verdict(received, sent)}


@behaviour('vmsplice(): memory through a pipe into a socket', readers=BOTH)
def vmsplice(bench: Bench) -> Observation:
    pair = bench.pair()
    read_end, write_end = os.pipe()
    sent = pattern(40_000)
    given = outcome(lambda: syscalls.vmsplice(write_end, sent))
    result = into_socket(bench, pair.client, read_end, given) if isinstance(given, int) else given
    received = bench.read_bytes(pair.server, len(sent))
    return {'vmsplice() gives': given, 'splice() sends': result, 'the server reads': verdict(received, sent)}


@behaviour('splice(): a proxy that splices from one socket to another', readers=BOTH, control_fails=True)
def splice_proxy(bench: Bench) -> Observation:
    front, back = bench.pair(), bench.pair()
    read_end, write_end = os.pipe()
    sent = pattern(30_000)
    bench.write_all(front.client, sent)
    moved = 0
    while moved < len(sent):
        if not bench.readable(front.server):
            return {'the proxy': 'nothing to splice'}
        try:
            count = os.splice(front.server.fileno(), write_end, 65536)
        except OSError as error:
            return {'the proxy': syscalls.errno_name(error.errno or 0)}
        into_socket(bench, back.client, read_end, count)
        moved += count
    return {'the proxy': verdict(bench.read_bytes(back.server, len(sent)), sent)}


@behaviour('sendmmsg(): three messages', readers=BOTH)
def many_messages(bench: Bench) -> Observation:
    pair = bench.pair()
    count = outcome(lambda: syscalls.sendmmsg(pair.client.fileno(), [b'one,', b'two,', b'three']))
    return {'it gives': count, 'the server reads': bench.read_text(pair.server, 13)}


@behaviour('sendmsg(): gathered from 1000 buffers', readers=BOTH)
def gather(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(20_000)
    count = pair.client.sendmsg([sent[start : start + 20] for start in range(0, len(sent), 20)])
    return {'it gives': count, 'the server reads': verdict(bench.read_bytes(pair.server, len(sent)), sent)}


@behaviour('send(): 8 MB in one call while the peer reads', readers=BOTH)
def large(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(8 << 20)
    call = Call(lambda: bench.write_all(pair.client, sent))
    call.start()
    received = bench.read_bytes(pair.server, len(sent))
    return {'sent': call.result(), 'the server reads': verdict(received, sent)}


@behaviour('send(): zero bytes', readers=BOTH)
def zero_length(bench: Bench) -> Observation:
    pair = bench.pair()
    result = bench.write(pair.client, b'')
    bench.arrives(pair.client)
    quiet = not bench.readable_now(pair.server)
    bench.write_all(pair.client, b'data')
    return {'it gives': result, 'the server stays quiet': quiet, 'and then reads': bench.read(pair.server)}


@behaviour('send(): from an address that is not mapped', readers=BOTH, control_fails=True)
def bad_buffer(bench: Bench) -> Observation:
    pair = bench.pair()
    result = syscalls.send_from_address(pair.client.fileno(), 4096, 100)
    bench.write_all(pair.client, b'data')
    return {'it gives': result, 'the server reads': bench.read(pair.server)}


def fill(bench: Bench, sock: socket.socket) -> tuple[int, str]:
    """Send without waiting until the socket takes no more: the bytes, and the errno's name or 'the cap'."""
    accepted = 0
    while accepted < CAP:
        result = bench.write(sock, bytes(CHUNK), socket.MSG_DONTWAIT)
        if isinstance(result, int):
            accepted += result
        elif result != 'EAGAIN' or not bench.makes_room(sock):
            return accepted, result
    return accepted, 'the cap'


@behaviour('MSG_DONTWAIT: send() until the socket is full', readers=BOTH, control_fails=True)
def dont_wait(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.figures['accepted'], end = fill(bench, pair.client)
    return {'send() ends with': end}


@behaviour('SO_SNDTIMEO: the peer does not read', readers=BOTH, control_fails=True)
def send_timeout(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.setblocking(True)
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(0.3))
    accepted = 0
    while accepted < CAP:
        started = time.monotonic()
        result = bench.write(pair.client, bytes(CHUNK))
        if not isinstance(result, int):
            return {'send() gives': result, 'after its time': time.monotonic() - started > 0.25}
        accepted += result
    return {'send() gives': 'no end'}


@behaviour('send(): a signal while it waits for room', readers=BOTH, control_fails=True)
def interrupted(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.setblocking(True)
    buffer = bytes(CAP // 2)
    call = Call(lambda: syscalls.raw_send(pair.client.fileno(), buffer)).blocks_on(pair.client)
    result = call.interrupted(pair.client) if call.is_alive() else call.result()
    return {'send() of 32 MB gives': 'a part' if result in range(1, len(buffer)) else result}
