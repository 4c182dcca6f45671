# SPDX-License-Identifier: GPL-2.0-or-later
"""How connections end: FIN, RST, shutdown() and close(), and what wakes a blocked reader."""

import os
import select
import signal
import socket
import struct
import time

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Call, outcome, pattern, text, verdict
from tests.conformance.catalogue import BLOCKING, BOTH, NONBLOCKING, Observation, behaviour
from tests.support.patience import PATIENCE_S

EVENTS = {
    select.POLLIN: 'IN',
    select.POLLOUT: 'OUT',
    select.POLLPRI: 'PRI',
    select.POLLERR: 'ERR',
    select.POLLHUP: 'HUP',
    select.POLLRDHUP: 'RDHUP',
}


def event_names(events: int) -> list[str]:
    return [name for bit, name in EVENTS.items() if events & bit]


def abort(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


@behaviour('half-close: the server answers after the client has shut down writing', readers=BOTH)
def half_close(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'request')
    pair.client.shutdown(socket.SHUT_WR)
    request, end = bench.read_to_end(pair.server)
    answers = [bench.write(pair.server, b'answer 1 '), bench.write(pair.server, b'answer 2')]
    pair.server.close()
    answer, answer_end = bench.read_to_end(pair.client)
    return {
        'the server reads': [text(request), end],
        'its sends': answers,
        'the client reads': [text(answer), answer_end],
    }


@behaviour('half-close: the client goes on after the server has shut down writing', readers=BOTH)
def half_close_of_server(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.server, b'banner')
    pair.server.shutdown(socket.SHUT_WR)
    banner, end = bench.read_to_end(pair.client)
    sent = pattern(300_000)
    call = Call(lambda: bench.write_all(pair.client, sent))
    call.start()
    received = bench.read_bytes(pair.server, len(sent))
    written = call.result()
    pair.client.close()
    return {
        'the client reads': [text(banner), end],
        'it then sends': written,
        'the server reads': verdict(received, sent),
        'and then': bench.read(pair.server),
    }


@behaviour('shutdown: send() after shutting down writing', readers=BOTH, control_fails=True)
def send_after_shutdown(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.shutdown(socket.SHUT_WR)
    end = bench.read(pair.server)
    result = bench.write(pair.client, b'too late')
    return {'the server reads': end, 'send() gives': result, 'the server then reads': bench.read(pair.server)}


@behaviour('shutdown: SIGPIPE from send() after shutting down writing', readers=BOTH, control_fails=True)
def sigpipe_after_shutdown(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.client.shutdown(socket.SHUT_WR)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    result = outcome(lambda: pair.client.send(b'too late'))
    caught = signal.sigtimedwait([signal.SIGPIPE], 0)
    return {'send() gives': result, 'SIGPIPE': caught is not None}


@behaviour('shutdown: the peer writes to one that has shut down reading', readers=BOTH)
def shut_down_reading(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.shutdown(socket.SHUT_RD)
    at_once = bench.read(pair.server)
    result = bench.write(pair.client, b'unwanted')
    return {'it reads': at_once, 'send() gives': result, 'it then reads': bench.read(pair.server)}


@behaviour('close: write and close at once, read later', readers=BOTH)
def write_and_close(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(50_000)
    bench.write_all(pair.client, sent)
    pair.client.close()
    received, end = bench.read_to_end(pair.server)
    return {'the server reads': verdict(received, sent), 'and then': end}


@behaviour('close: write and close before the accept', readers=BOTH)
def write_and_close_before_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'all of it')
    client.close()
    server = bench.accept(listener)
    received, end = bench.read_to_end(server)
    return {'the server reads': text(received), 'and then': end}


@behaviour('close: 500 connections that write and close at once', readers=BOTH)
def write_and_close_often(bench: Bench) -> Observation:
    listener = bench.listen()
    wrong = 0
    for number in range(500):
        client = bench.connect(listener)
        server = bench.accept(listener)
        message = pattern(1 + number * 7 % 3000, number)
        bench.write_all(client, message)
        client.close()
        wrong += bench.read_to_end(server) != (message, 'EOF')
        server.close()
    return {'connections that ended wrong': wrong}


@behaviour('close: the reader closes with data unread', readers=BOTH, control_fails=True)
def close_with_unread_data(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'never read')
    bench.readable(pair.server)
    pair.server.close()
    bench.readable(pair.client)
    first = bench.read(pair.client)
    return {'the sender reads': first, 'its sends give': [bench.write(pair.client, b'x') for _ in range(2)]}


@behaviour('close: send() after the peer has closed', readers=BOTH, control_fails=True)
def send_after_close(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.close()
    end = bench.read(pair.client)
    first = bench.write(pair.client, b'x')
    bench.readable(pair.client, select.POLLERR)
    return {'the sender reads': end, 'its sends give': [first, bench.write(pair.client, b'x')]}


@behaviour('close: SO_LINGER of one second while the peer does not read', readers=NONBLOCKING, control_fails=True)
def linger(bench: Bench) -> Observation:
    pair = bench.pair()
    for _ in range(1024):
        if bench.write(pair.client, bytes(65536)) == 'EAGAIN' and not bench.makes_room(pair.client):
            break
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 1))
    pair.client.setblocking(True)
    started = time.monotonic()
    pair.client.close()
    waited = time.monotonic() - started
    bench.figures['waited'] = waited
    return {'close() waits': waited > 0.8}


@behaviour('close: both sides shut down at once', readers=BOTH)
def close_together(bench: Bench) -> Observation:
    pair = bench.pair()
    for sock, message in zip(pair, (b'from the client', b'from the server'), strict=True):
        bench.write_all(sock, message)
        sock.shutdown(socket.SHUT_WR)
    ends = [bench.read_to_end(sock) for sock in pair]
    return {
        'the client reads': [text(ends[0][0]), ends[0][1]],
        'the server reads': [text(ends[1][0]), ends[1][1]],
    }


@behaviour('close: the sending process is killed', readers=BOTH)
def sender_killed(bench: Bench) -> Observation:
    pair = bench.pair()
    written, tell = os.pipe()

    def send_and_wait() -> None:
        pair.server.close()
        bench.write_all(pair.client, b'last words')
        os.write(tell, b'.')
        signal.pause()

    with bench.process(send_and_wait) as pid:
        pair.client.close()
        os.read(written, 1)
        os.kill(pid, signal.SIGKILL)
        received, end = bench.read_to_end(pair.server)
    return {'the server reads': text(received), 'and then': end}


@behaviour('reset: SO_LINGER 0 with data under way', readers=BOTH)
def reset(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    abort(pair.client)
    bench.readable(pair.server, select.POLLERR)
    received, end = bench.read_to_end(pair.server)
    return {'the server reads': text(received), 'and then': end, 'and then again': bench.read(pair.server)}


@behaviour('reset: what poll() and SO_ERROR show', readers=BOTH, control_fails=True)
def reset_events(bench: Bench) -> Observation:
    pair = bench.pair()
    abort(pair.client)
    poller = select.poll()
    poller.register(pair.server, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    events = poller.poll(PATIENCE_S * 1000)
    error = pair.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return {
        'events': event_names(events[0][1] if events else 0),
        'SO_ERROR': syscalls.errno_name(error),
        'send() gives': bench.write(pair.server, b'x'),
        'recv() gives': bench.read(pair.server),
    }


def blocked_recv(bench: Bench) -> tuple[socket.socket, socket.socket, Call]:
    """A thread blocked in recv() on the second socket; the first is its peer."""
    pair = bench.pair()
    call = Call(lambda: text(syscalls.raw_recv(pair.server.fileno(), 100)))
    return pair.client, pair.server, call.blocks_on(pair.server)


@behaviour('blocked recv(): a RST from the peer', readers=BLOCKING, control_fails=True)
def rst(bench: Bench) -> Observation:
    client, server, call = blocked_recv(bench)
    abort(client)
    return {
        'recv() gives': call.result(),
        'the next recv() gives': text(syscalls.raw_recv(server.fileno(), 100)),
    }


@behaviour('blocked recv(): shutdown() by another thread', readers=BLOCKING, control_fails=True)
def shutdown(bench: Bench) -> Observation:
    _, server, call = blocked_recv(bench)
    server.shutdown(socket.SHUT_RDWR)
    return {
        'recv() gives': call.result(),
        'the next recv() gives': text(syscalls.raw_recv(server.fileno(), 100)),
    }


@behaviour('blocked recv(): a FIN from the peer', readers=BLOCKING)
def fin(bench: Bench) -> Observation:
    client, _, call = blocked_recv(bench)
    client.close()
    return {'recv() gives': call.result()}


@behaviour('blocked recv(): a signal without SA_RESTART', readers=BLOCKING, control_fails=True)
def interrupted(bench: Bench) -> Observation:
    client, server, call = blocked_recv(bench)
    result = call.interrupted(server)
    bench.write_all(client, b'data')
    return {'recv() gives': result, 'the next recv() gives': text(syscalls.raw_recv(server.fileno(), 100))}


@behaviour('blocked recv(): a signal with SA_RESTART', readers=BLOCKING, control_fails=True)
def restarted(bench: Bench) -> Observation:
    client, server, call = blocked_recv(bench)
    before = call.interrupted(server, restart=True)
    bench.write_all(client, b'data')
    return {'recv() after the signal': before, 'recv() after data': call.result()}


@behaviour('blocked recv(): two readers and one message', readers=BLOCKING, control_fails=True)
def two_readers(bench: Bench) -> Observation:
    client, server, one = blocked_recv(bench)
    other = Call(lambda: text(syscalls.raw_recv(server.fileno(), 100))).blocks_on(server)
    bench.write_all(client, b'one message')
    bench.wait_until(lambda: not (one.is_alive() and other.is_alive()))
    results = sorted([one.settles(server), other.settles(server)])
    bench.write_all(client, b'another')
    return {'their recv()s give': results, 'after another message': sorted([one.result(), other.result()])}


@behaviour('blocked recv(): shutdown(SHUT_WR) by another thread', readers=BLOCKING, control_fails=True)
def half_close_beside(bench: Bench) -> Observation:
    client, server, call = blocked_recv(bench)
    server.shutdown(socket.SHUT_WR)
    end = bench.read(client)
    before = call.settles(server)
    bench.write_all(client, b'answer')
    return {'the peer reads': end, 'recv() then': before, 'recv() after the answer': call.result()}


@behaviour('blocked recv(): another thread that sends until it blocks', readers=BLOCKING)
def sender_beside(bench: Bench) -> Observation:
    client, server, call = blocked_recv(bench)
    sent = bytes(16 << 20)
    Call(lambda: bench.write_all(server, sent)).blocks_on(server)
    received = bench.read_bytes(client, len(sent))
    before = call.settles(server)
    bench.write_all(client, b'answer')
    return {'sent': verdict(received, sent), 'recv() then': before, 'recv() after the answer': call.result()}


@behaviour('blocked recv(): a peer that was killed', readers=BLOCKING)
def peer_killed(bench: Bench) -> Observation:
    pair = bench.pair()
    with bench.process(signal.pause) as pid:
        pair.client.close()
        pair.server.set_inheritable(False)
        call = Call(lambda: text(syscalls.raw_recv(pair.server.fileno(), 100))).blocks_on(pair.server)
        os.kill(pid, signal.SIGKILL)
        return {'recv() gives': call.result()}


@behaviour(
    'blocked recv(): a signal after the socket was switched to blocking', readers=NONBLOCKING, control_fails=True
)
def signal_after_switch(bench: Bench) -> Observation:
    pair = bench.pair()
    pair.server.setblocking(True)
    call = Call(lambda: text(syscalls.raw_recv(pair.server.fileno(), 100))).blocks_on(pair.server)
    return {'recv() gives': call.interrupted(pair.server)}


@behaviour('disconnect: connect() to AF_UNSPEC and to another listener', readers=BOTH, control_fails=True)
def disconnect(bench: Bench) -> Observation:
    pair = bench.pair()
    syscalls.disconnect(pair.client)
    end = bench.read(pair.server)
    listener = bench.listen()
    pair.client.setblocking(True)
    pair.client.connect(bench.address(listener))
    bench.set_mode(pair.client)
    server = bench.accept(listener)
    answers = []
    for number in range(20):
        bench.write_all(pair.client, b'question %d' % number)
        answers.append(bench.read(server) == f'question {number}')
        bench.write_all(server, b'answer %d' % number)
        answers.append(bench.read(pair.client) == f'answer {number}')
    pair.client.close()
    return {
        'the first server reads': end,
        'the second exchanges': all(answers),
        'and then reads': bench.read(server),
    }
