# SPDX-License-Identifier: GPL-2.0-or-later
"""What poll(), select(), epoll and signals tell about a socket."""

import fcntl
import os
import select
import signal
import socket
import struct
import threading

from tests.conformance import syscalls
from tests.conformance.behaviours.ending import abort, event_names
from tests.conformance.behaviours.send import fill
from tests.conformance.bench import AT_ONCE, IN_USE, Bench, Call, outcome
from tests.conformance.catalogue import BOTH, NONBLOCKING, Observation, behaviour
from tests.support.patience import PATIENCE_S

F_SETOWN_EX, F_OWNER_TID = 15, 0
EVERYTHING = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP


def signals_come_here(sock: socket.socket) -> None:
    """Have the socket's signals sent to this thread: the worker's other one would swallow them, see fcntl(2)."""
    fcntl.fcntl(sock, F_SETOWN_EX, struct.pack('ii', F_OWNER_TID, threading.get_native_id()))


def events_now(sock: socket.socket) -> list[str]:
    poller = select.poll()
    poller.register(sock, EVERYTHING)
    return event_names(sum(events for _, events in poller.poll(0)))


@behaviour('poll(): before, with and after data', readers=BOTH)
def poll(bench: Bench) -> Observation:
    pair = bench.pair()
    before = events_now(pair.server)
    bench.write_all(pair.client, b'data')
    bench.readable(pair.server)
    data = events_now(pair.server)
    bench.read(pair.server, 2)
    half = events_now(pair.server)
    bench.read(pair.server, 2)
    return {'before': before, 'with data': data, 'half read': half, 'all read': events_now(pair.server)}


@behaviour('poll(): data sent before the accept', readers=BOTH)
def poll_after_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'data')
    server = bench.accept(listener)
    bench.readable(server)
    data = events_now(server)
    bench.read(server)
    return {'with data': data, 'all read': events_now(server)}


@behaviour('poll(): a thread that waits is woken by data', readers=BOTH)
def poll_wakes(bench: Bench) -> Observation:
    pair = bench.pair()
    read_end, write_end = os.pipe()

    def wait() -> bool:
        os.write(write_end, b'.')
        return bench.readable(pair.server)

    woken = []
    for _ in range(20):
        call = Call(wait)
        call.start()
        os.read(read_end, 1)
        bench.write_all(pair.client, b'data')
        woken.append(call.result())
        woken.append(bench.read(pair.server) == 'data')
    return {'woken each time': all(woken)}


@behaviour('select(): before, with and after data', readers=BOTH)
def select_call(bench: Bench) -> Observation:
    pair = bench.pair()
    before = bool(select.select([pair.server], [], [], 0)[0])
    bench.write_all(pair.client, b'data')
    data = bool(select.select([pair.server], [], [], PATIENCE_S)[0])
    bench.read(pair.server)
    return {'before': before, 'with data': data, 'all read': bool(select.select([pair.server], [], [], 0)[0])}


@behaviour('epoll: level-triggered, half read', readers=BOTH)
def epoll_level(bench: Bench) -> Observation:
    pair = bench.pair()
    seen = []
    with select.epoll() as epoll:
        epoll.register(pair.server, select.EPOLLIN)
        seen.append(bool(epoll.poll(0)))
        bench.write_all(pair.client, b'data')
        seen.append(bool(epoll.poll(PATIENCE_S)))
        bench.read(pair.server, 2)
        seen.append(bool(epoll.poll(0)))
        bench.read(pair.server, 2)
        seen.append(bool(epoll.poll(0)))
    return {'before, with data, half read, all read': seen}


@behaviour('epoll: edge-triggered, an edge for each arrival and none without', readers=BOTH)
def epoll_edge(bench: Bench) -> Observation:
    pair = bench.pair()
    seen = []
    with select.epoll() as epoll:
        epoll.register(pair.server, select.EPOLLIN | select.EPOLLET)
        seen.append(bool(epoll.poll(0)))
        for _ in range(3):
            bench.write_all(pair.client, b'data')
            seen.append(bool(epoll.poll(PATIENCE_S)))
            bench.arrives(pair.client)
            seen.append(bool(epoll.poll(0)))
        bench.read(pair.server, 4)
        seen.append(bool(epoll.poll(0)))
        pair.client.close()
        seen.append(bool(epoll.poll(PATIENCE_S)))
    return {'edges': seen}


@behaviour('epoll: one shot, armed again with data still unread', readers=BOTH)
def epoll_one_shot(bench: Bench) -> Observation:
    pair = bench.pair()
    seen: list[bool] = []
    with select.epoll() as epoll:
        epoll.register(pair.server, select.EPOLLIN | select.EPOLLONESHOT)
        for _ in range(2):
            bench.write_all(pair.client, b'data')
            bench.arrives(pair.client)
            seen.append(bool(epoll.poll(0)))
        epoll.modify(pair.server, select.EPOLLIN | select.EPOLLONESHOT)
        seen.append(bool(epoll.poll(PATIENCE_S)))
    return {'first, unarmed, armed again': seen}


@behaviour('epoll: room again after a full socket was drained', readers=NONBLOCKING, control_fails=True)
def epoll_room(bench: Bench) -> Observation:
    pair = bench.pair()
    with select.epoll() as epoll:
        epoll.register(pair.client, select.EPOLLOUT | select.EPOLLET)
        epoll.poll(0)
        accepted, end = fill(bench, pair.client)
        epoll.poll(0)
        full = 'OUT' not in events_now(pair.client)
        received = bench.read_bytes(pair.server, accepted)
        edge = bool(epoll.poll(PATIENCE_S))
    return {'send() ends with': end, 'full': full, 'all came': len(received) == accepted, 'an edge for room': edge}


@behaviour('poll(): after the peer has shut down writing, with data unread', readers=BOTH)
def after_fin(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'data')
    pair.client.shutdown(socket.SHUT_WR)
    bench.readable(pair.server, select.POLLRDHUP)
    unread = events_now(pair.server)
    bench.read(pair.server)
    return {'data unread': unread, 'all read': events_now(pair.server)}


@behaviour('poll(): after both have shut down writing', readers=BOTH)
def after_both_fins(bench: Bench) -> Observation:
    pair = bench.pair()
    for sock in pair:
        sock.shutdown(socket.SHUT_WR)
    for sock in pair:
        bench.readable(sock, select.POLLHUP)
    return {'the client': events_now(pair.client), 'the server': events_now(pair.server)}


@behaviour('poll(): after a RST', readers=BOTH)
def after_rst(bench: Bench) -> Observation:
    pair = bench.pair()
    abort(pair.client)
    bench.readable(pair.server, select.POLLERR)
    return {'events': events_now(pair.server)}


@behaviour('poll(): a thread that waits for data is woken by a RST', readers=BOTH)
def rst_wakes_poll(bench: Bench) -> Observation:
    pair = bench.pair()
    poller = select.poll()
    poller.register(pair.server, select.POLLIN)
    call = Call(lambda: event_names(sum(events for _, events in poller.poll(PATIENCE_S * 1000))))
    call.start()
    abort(pair.client)
    return {'poll() gives': call.result(), 'recv() gives': bench.read(pair.server)}


@behaviour('SIGIO: a signal for data', readers=BOTH)
def sigio(bench: Bench) -> Observation:
    pair = bench.pair()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    signals_come_here(pair.server)
    fcntl.fcntl(pair.server, fcntl.F_SETFL, fcntl.fcntl(pair.server, fcntl.F_GETFL) | os.O_ASYNC)
    for sock in pair:
        bench.arrives(sock)
    while signal.sigtimedwait([signal.SIGIO], 0):
        pass
    bench.write_all(pair.client, b'data')
    return {
        'SIGIO': bool(signal.sigtimedwait([signal.SIGIO], PATIENCE_S)),
        'recv() gives': bench.read(pair.server),
    }


@behaviour('MSG_OOB: an urgent byte between others', readers=BOTH, control_fails=True)
def out_of_band(bench: Bench) -> Observation:
    pair = bench.pair()
    bench.write_all(pair.client, b'ab')
    bench.write(pair.client, b'X', socket.MSG_OOB)
    bench.write_all(pair.client, b'cd')
    bench.arrives(pair.client)
    urgent = bench.readable_now(pair.server, select.POLLPRI)
    byte = outcome(lambda: pair.server.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT).decode())
    before = bench.read(pair.server, 2)
    at_mark = bool(syscalls.queued(pair.server, syscalls.SIOCATMARK))
    return {
        'POLLPRI': urgent,
        'recv(MSG_OOB) gives': byte,
        'before the mark': before,
        'SIOCATMARK': at_mark,
        'after the mark': bench.read(pair.server),
    }


def in_line(moment: str) -> None:
    """Enter what a reader of urgent data sees that sets SO_OOBINLINE at one moment."""

    @behaviour(
        f'MSG_OOB: an urgent byte kept in line (SO_OOBINLINE), {moment}', readers=BOTH, control_fails=True,
        stays_tcp=moment == AT_ONCE,
    )  # fmt: skip
    def out_of_band_in_line(bench: Bench) -> Observation:
        pair = bench.pair_with(moment, server=[(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)])
        bench.write_all(pair.client, b'ab')
        bench.write(pair.client, b'X', socket.MSG_OOB)
        bench.arrives(pair.client)
        urgent = bench.readable_now(pair.server, select.POLLPRI)
        return {
            'POLLPRI': urgent,
            'before the mark': bench.read(pair.server),
            'SIOCATMARK': bool(syscalls.queued(pair.server, syscalls.SIOCATMARK)),
        }


in_line(AT_ONCE)
in_line(IN_USE)


@behaviour('MSG_OOB: SIGURG', readers=BOTH, control_fails=True)
def sigurg(bench: Bench) -> Observation:
    pair = bench.pair()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
    signals_come_here(pair.server)
    bench.write(pair.client, b'X', socket.MSG_OOB)
    bench.arrives(pair.client)
    return {'SIGURG': bool(signal.sigtimedwait([signal.SIGURG], 0))}


@behaviour('SO_ERROR and TCP_INFO state: an open connection', readers=BOTH)
def open_state(bench: Bench) -> Observation:
    pair = bench.pair()
    return {
        'SO_ERROR': [sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in pair],
        'state': [syscalls.TcpInfo(sock).state for sock in pair],
        'linger': struct.unpack('ii', pair.client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)),
        'names match': pair.client.getpeername()[1] == pair.server.getsockname()[1],
    }
