# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program or an administrator sets to restrict traffic, on a connection in use."""

import contextlib
import ctypes
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conformance import cgroup, syscalls
from tests.conformance.bench import Bench, Pair, Unsupported
from tests.conformance.catalogue import NONBLOCKING, Observation, behaviour

SO_ATTACH_FILTER, SO_MARK = 26, 36
IP_XFRM_POLICY, IPV6_XFRM_POLICY, IP_MINTTL, IPV6_MINHOPCOUNT = 17, 35, 21, 73
TCP_MD5SIG, TCP_REPAIR = 14, 19
XFRM_IN, XFRM_OUT = 0, 1
# Source routes, which no host takes unless accept_source_route is set (net/ipv4/ip_options.c).
LOOSE_ROUTE_BY_LOOPBACK = bytes([131, 7, 4, 127, 0, 0, 1, 0])


def arrival(bench: Bench, pair: Pair) -> Observation:
    """What becomes of a message: it comes, or TCP keeps it, because it could not leave or is sent again."""
    before = syscalls.TcpInfo(pair.client).retransmissions
    gives = bench.write(pair.client, b'secret')

    def kept() -> bool:
        info = syscalls.TcpInfo(pair.client)
        return info.unsent_bytes > 0 or info.retransmissions > before

    bench.wait_until(
        lambda: bench.readable_now(pair.server) or bench.readable_now(pair.client, select.POLLIN) or kept()
    )
    arrives = bench.readable_now(pair.server)
    return {'send() gives': gives, 'the server reads': bench.read(pair.server) if arrives else 'nothing'}


def restricted(
    name: str, families: tuple[str, ...] = ('ipv4',)
) -> Callable[[Callable[[Bench, Pair], object]], Callable[[Bench, Pair], object]]:
    """Enter what becomes of a message after a restriction was set on a connection, in a network of its own."""

    def enter(restrict: Callable[[Bench, Pair], object]) -> Callable[[Bench, Pair], object]:
        @behaviour(name, readers=NONBLOCKING, families=families, control_fails=True)
        def message_after_it(bench: Bench) -> Observation:
            bench.private_network()
            pair = bench.pair()
            try:
                restrict(bench, pair)
            except (OSError, subprocess.CalledProcessError) as error:
                raise Unsupported(f'{name}: {error}') from error
            return arrival(bench, pair)

        return restrict

    return enter


def ip(arguments: str) -> None:
    """In the namespace that this thread is in. Raises CalledProcessError, OSError."""
    subprocess.run(['ip', *arguments.split()], check=True, capture_output=True)


@restricted('SO_ATTACH_FILTER: a filter of the reader that drops all', families=('ipv4', 'ipv6'))
def socket_filter(_bench: Bench, pair: Pair) -> None:
    drop = ctypes.create_string_buffer(struct.pack('=HBBI', 0x06, 0, 0, 0))
    program = struct.pack('HxxxxxxP', 1, ctypes.addressof(drop))
    pair.server.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def blocking_policy(family: int, direction: int) -> bytes:
    """struct xfrm_userpolicy_info (linux/xfrm.h) that blocks all packets of a socket."""
    selector = bytes(40) + struct.pack('HBBBxxxiI', family, 0, 0, 0, 0, 0)
    lifetime = struct.pack('8Q', *([2**64 - 1] * 4), 0, 0, 0, 0)
    policy = selector + lifetime + bytes(32) + struct.pack('IIBBBB', 0, 0, direction, 1, 0, 0)
    return policy.ljust(168, b'\0')


@restricted('IP_XFRM_POLICY: the sender blocks what leaves')
def policy_of_sender(_bench: Bench, pair: Pair) -> None:
    pair.client.setsockopt(socket.SOL_IP, IP_XFRM_POLICY, blocking_policy(socket.AF_INET, XFRM_OUT))


@restricted('IP_XFRM_POLICY: the reader blocks what comes in')
def policy_of_reader(_bench: Bench, pair: Pair) -> None:
    pair.server.setsockopt(socket.SOL_IP, IP_XFRM_POLICY, blocking_policy(socket.AF_INET, XFRM_IN))


@restricted('IPV6_XFRM_POLICY: the reader blocks what comes in', families=('ipv6',))
def policy_of_ipv6_reader(_bench: Bench, pair: Pair) -> None:
    policy = blocking_policy(socket.AF_INET6, XFRM_IN)
    pair.server.setsockopt(socket.IPPROTO_IPV6, IPV6_XFRM_POLICY, policy)


@restricted('IPsec: the network namespace blocks what comes in', families=('ipv6',))
def policy_of_namespace(bench: Bench, _pair: Pair) -> None:
    with bench.network.at_server():
        ip('xfrm policy add src ::/0 dst ::/0 dir in action block')


@restricted('SO_MARK: a routing rule keeps what has the mark from leaving')
def mark(_bench: Bench, pair: Pair) -> None:
    ip('rule add pref 100 lookup local')
    ip('rule add pref 50 fwmark 7 blackhole')
    ip('rule del pref 0')
    pair.client.setsockopt(socket.SOL_SOCKET, SO_MARK, 7)


@restricted('SO_BINDTODEVICE: the reader takes nothing from the device that it comes by')
def device(bench: Bench, pair: Pair) -> None:
    with bench.network.at_server():
        ip('link add other0 type veth peer name other1')
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'other0')


@restricted('IP_MINTTL: the reader takes nothing that has passed a router')
def least_hops(_bench: Bench, pair: Pair) -> None:
    pair.server.setsockopt(socket.SOL_IP, IP_MINTTL, 255)


@restricted('IPV6_MINHOPCOUNT: the reader takes nothing that has passed a router', families=('ipv6',))
def least_hops_of_ipv6(_bench: Bench, pair: Pair) -> None:
    pair.server.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255)


@restricted('IP_OPTIONS: a source route, which the receiving host refuses')
def source_route(_bench: Bench, pair: Pair) -> None:
    pair.client.setsockopt(socket.SOL_IP, socket.IP_OPTIONS, LOOSE_ROUTE_BY_LOOPBACK)


@restricted('TCP_MD5SIG: the reader takes nothing that is not signed')
def signature(_bench: Bench, pair: Pair) -> None:
    address, port = pair.server.getpeername()
    peer = struct.pack('=H2s4s120x', socket.AF_INET, port.to_bytes(2, 'big'), socket.inet_aton(address))
    pair.server.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, peer + struct.pack('=BBHi80s', 0, 0, 3, 0, b'key'))


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup below the present one, which this process is in for the length of the block."""
    line = next(line for line in Path('/proc/self/cgroup').read_text().splitlines() if line.startswith('0::'))
    parent = cgroup.mount_point() / line[len('0::/') :]
    child = parent / f'restricted-{os.getpid()}'
    child.mkdir()
    try:
        cgroup.join(child)
        yield child
    finally:
        cgroup.join(parent)
        child.rmdir()


def drops_packets(name: str, attach_type: int) -> None:
    """Enter what becomes of a message after a program that drops all was attached to the cgroup."""

    @behaviour(name, readers=NONBLOCKING, control_fails=True)
    def message_after_it(bench: Bench) -> Observation:
        with own_cgroup() as directory:
            pair = bench.pair()
            try:
                program = syscalls.load_dropping_program(attach_type)
                link = syscalls.link_to_cgroup(program, directory, attach_type)
            except OSError as error:
                raise Unsupported(f'a program of a cgroup: {error}') from error
            try:
                return arrival(bench, pair)
            finally:
                os.close(link)


drops_packets('IPAddressDeny=any: a program of the cgroup drops what comes in', syscalls.CGROUP_INET_INGRESS)
drops_packets('IPAddressDeny=any: a program of the cgroup drops what leaves', syscalls.CGROUP_INET_EGRESS)


def checkpoint(name: str, end: str) -> None:
    """Enter what a message does while one end is in repair mode, as for a checkpoint."""

    @behaviour(name, readers=NONBLOCKING, families=('ipv4',), control_fails=True)
    def message_in_repair(bench: Bench) -> Observation:
        pair = bench.pair()
        try:
            getattr(pair, end).setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError as error:
            raise Unsupported(f'TCP_REPAIR: {error}') from error
        gives = bench.write(pair.client, b'secret')
        if not isinstance(gives, int):
            return {'send() gives': gives}
        return {'send() gives': gives, 'the server reads': bench.read(pair.server)}


checkpoint('TCP_REPAIR: the sender is being checkpointed', 'client')
checkpoint('TCP_REPAIR: the reader is being checkpointed', 'server')
