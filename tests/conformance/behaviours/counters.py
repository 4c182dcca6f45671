# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers that the kernel gives about a connection."""

import socket
import struct

from tests.conformance import syscalls
from tests.conformance.behaviours.send import fill
from tests.conformance.bench import AT_ONCE, IN_USE, Bench
from tests.conformance.catalogue import BOTH, NONBLOCKING, Observation, behaviour


def unread_after(bench: Bench, client: socket.socket, server: socket.socket) -> Observation:
    bench.write_all(client, b'data')
    bench.readable(server)
    unread = syscalls.queued(server, syscalls.SIOCINQ)
    bench.read(server, 1)
    left = syscalls.queued(server, syscalls.SIOCINQ)
    bench.read(server)
    return {'4 unread': unread, '3 unread': left, 'all read': syscalls.queued(server, syscalls.SIOCINQ)}


@behaviour('FIONREAD: data on a connection in use', readers=BOTH)
def bytes_unread(bench: Bench) -> Observation:
    return unread_after(bench, *bench.pair())


@behaviour('FIONREAD: data sent before the accept', readers=BOTH)
def bytes_unread_at_accept(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'data')
    server = bench.accept(listener)
    bench.readable(server)
    unread = syscalls.queued(server, syscalls.SIOCINQ)
    bench.read(server)
    return {'4 unread': unread, 'all read': syscalls.queued(server, syscalls.SIOCINQ)}


@behaviour('FIONREAD: data that TCP carried, unread, before a message of the other path', readers=NONBLOCKING)
def bytes_unread_mixed(bench: Bench) -> Observation:
    listener = bench.listen()
    client = bench.connect(listener)
    bench.write_all(client, b'data')
    server = bench.accept(listener)
    bench.write_all(client, b'more')
    bench.readable(server)
    return {'8 unread': syscalls.queued(server, syscalls.SIOCINQ), 'recv() gives': bench.read_text(server, 8)}


@behaviour('SIOCOUTQ: a full socket, and after the peer has read', readers=NONBLOCKING, control_fails=True)
def bytes_unsent(bench: Bench) -> Observation:
    pair = bench.pair()
    accepted, _ = fill(bench, pair.client)
    full = syscalls.queued(pair.client, syscalls.SIOCOUTQ)
    bench.read_bytes(pair.server, accepted)
    bench.arrives(pair.client)
    return {'when full': full > 0, 'when read': syscalls.queued(pair.client, syscalls.SIOCOUTQ)}


@behaviour('TCP_INFO: bytes and segments of one message', readers=BOTH, control_fails=True)
def tcp_info(bench: Bench) -> Observation:
    pair = bench.pair()
    before = [syscalls.TcpInfo(sock) for sock in pair]
    bench.write_all(pair.client, bytes(1000))
    bench.read_bytes(pair.server, 1000)
    after = [syscalls.TcpInfo(sock) for sock in pair]
    return {
        'bytes sent': after[0].bytes_sent - before[0].bytes_sent,
        'bytes received': after[1].bytes_received - before[1].bytes_received,
        'segments sent': after[0].data_segments_out > before[0].data_segments_out,
        'segments received': after[1].data_segments_in > before[1].data_segments_in,
    }


def time_of_a_message(bench: Bench, sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether recvmsg() gives a time with a message."""
    bench.write_all(sender, b'data')
    bench.readable(receiver)
    _, ancillary, _, _ = receiver.recvmsg(100, 64)
    return bool(ancillary)


def extras(moment: str) -> None:
    """Enter what recvmsg() tells beside the data, for an option set at one moment."""

    @behaviour(
        f'TCP_INQ: what is left, told with each recvmsg(), {moment}', readers=BOTH, control_fails=True,
        stays_tcp=moment == AT_ONCE,
    )  # fmt: skip
    def tcp_inq(bench: Bench) -> Observation:
        pair = bench.pair_with(moment, server=[(socket.IPPROTO_TCP, syscalls.TCP_INQ, 1)])
        bench.write_all(pair.client, b'abcdef')
        bench.readable(pair.server)
        told = []
        for count in (2, 4):
            data, ancillary, _, _ = pair.server.recvmsg(count, 64)
            left = [struct.unpack('i', value)[0] for _, kind, value in ancillary if kind == syscalls.TCP_INQ]
            told.append([data.decode(), left])
        return {'recvmsg() gives': told}

    @behaviour(
        f'SO_TIMESTAMPNS: a receive time with each recvmsg(), {moment}', readers=BOTH, control_fails=True,
        stays_tcp=moment == AT_ONCE,
    )  # fmt: skip
    def receive_time(bench: Bench) -> Observation:
        pair = bench.pair_with(moment, server=[(socket.SOL_SOCKET, syscalls.SO_TIMESTAMPNS, 1)])
        # The kernel begins to note times a while after a socket has asked for them, for all sockets: another one
        # that TCP carries shows when.
        other = bench.pair(warm=False, server_options=[(socket.SOL_SOCKET, syscalls.SO_TIMESTAMPNS, 1)])
        bench.wait_until(lambda: time_of_a_message(bench, *other))
        return {'a time with the message': time_of_a_message(bench, *pair)}


extras(AT_ONCE)
extras(IN_USE)


@behaviour('SO_MEMINFO: memory of a receiver that does not read', readers=NONBLOCKING, control_fails=True)
def receive_memory(bench: Bench) -> Observation:
    pair = bench.pair()
    fill(bench, pair.client)
    memory = struct.unpack('=4I', pair.server.getsockopt(socket.SOL_SOCKET, syscalls.SO_MEMINFO, 16))
    bench.figures |= {'rmem_alloc': memory[0], 'rcvbuf': memory[1]}
    return {'within twice SO_RCVBUF': memory[0] <= 2 * memory[1]}
