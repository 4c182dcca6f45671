# SPDX-License-Identifier: GPL-2.0-or-later
"""What was set for packets keeps a connection with TCP: the message that follows it, then the connection."""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance import syscalls
from tests.conformance.behaviours import restriction
from tests.conformance.behaviours.restriction import blocking_policy
from tests.support import harness, network, traffic
from tests.support.harness import Cgroup
from tests.support.traffic import Pair, pair, read, write

Stats = Callable[[], dict[str, int]]
SOL_SOCKET, SOL_IP, SOL_TCP = socket.SOL_SOCKET, socket.SOL_IP, socket.IPPROTO_TCP
SO_TIMESTAMP, SO_TIMESTAMPING, SO_MAX_PACING_RATE = 29, 37, 47
TCP_INQ, TCP_TX_DELAY = 36, 37
TX_SOFTWARE = 1 << 1
# Takes every packet.
_TAKE = ctypes.create_string_buffer(struct.pack('=HBBI', 0x06, 0, 0, 1 << 18))
_FILTER = struct.pack('HxxxxxxP', 1, ctypes.addressof(_TAKE))
_KEY = struct.pack('=H6s120xBBHi80s', socket.AF_INET, bytes([0, 9, 127, 0, 0, 9]), 0, 0, 3, 0, b'key')
# An end, an option, and the reasons of message and connection.
OPTIONS = {
    'SO_ATTACH_FILTER': ('server', SOL_SOCKET, 26, _FILTER, 'filter', 'filter_end'),
    'SO_MARK': ('client', SOL_SOCKET, 36, 7, 'fwmark', 'fwmark_end'),
    'SO_MARK of the reader': ('server', SOL_SOCKET, 36, 7, 'fwmark', 'fwmark_end'),
    'SO_BINDTODEVICE': ('client', SOL_SOCKET, 25, b'lo', 'device', 'device_end'),
    'SO_BINDTODEVICE of the reader': ('server', SOL_SOCKET, 25, b'lo', 'device', 'device_end'),
    'IP_MINTTL': ('server', SOL_IP, 21, 64, 'hop_limit', 'hop_limit_end'),
    'IP_OPTIONS': ('client', SOL_IP, 4, bytes([7, 7, 4, 0, 0, 0, 0, 1]), 'ip_options', 'ip_options_end'),
    'TCP_MD5SIG': ('client', SOL_TCP, 14, _KEY, 'signed', 'signed_end'),
    'TCP_MD5SIG of the reader': ('server', SOL_TCP, 14, _KEY, 'signed', 'signed_end'),
    'SO_MAX_PACING_RATE': ('client', SOL_SOCKET, SO_MAX_PACING_RATE, 1 << 24, 'rate', 'rate_end'),
    'TCP_TX_DELAY': ('client', SOL_TCP, TCP_TX_DELAY, 1, 'rate', 'rate_end'),
    'SO_TIMESTAMPING': ('client', SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE, 'timestamps', 'option_end'),
    'SO_TIMESTAMPING of the reader': ('server', SOL_SOCKET, SO_TIMESTAMPING, 1 << 3, 'timestamps', 'option_end'),
    'SO_TIMESTAMP': ('server', SOL_SOCKET, SO_TIMESTAMP, 1, 'extras', 'option_end'),
    'SO_OOBINLINE': ('server', SOL_SOCKET, socket.SO_OOBINLINE, 1, 'extras', 'option_end'),
    'TCP_INQ': ('server', SOL_TCP, TCP_INQ, 1, 'extras', 'option_end'),
}


@pytest.fixture
def stats(sockaccel_stats: Stats) -> Callable[[], dict[str, int]]:
    """What was counted since the test began."""
    before = sockaccel_stats()
    return lambda: {name: value - before[name] for name, value in sockaccel_stats().items()}


@pytest.fixture
def own_network() -> Iterator[ThreadPoolExecutor]:
    with network.namespace() as pool:
        yield pool


def _goes_by_tcp(made: Pair, stats: Stats, message_reason: str, connection_reason: str) -> None:
    """The next message goes by TCP for one reason, and the connection leaves for the other."""
    before = stats()
    write(made.client, b'message')
    after = stats()
    assert after['redirected_messages'] == before['redirected_messages']
    assert after[f'message_reason_{message_reason}'] == 1
    harness.wait_until(lambda: not traffic.is_member(made.client), 'the connection leaves')
    harness.wait_until(lambda: not traffic.is_member(made.server), 'the connection leaves')
    assert stats()[f'connection_reason_{connection_reason}'] == 1


@pytest.mark.parametrize('option', OPTIONS)
def test_an_option_set_on_a_connection_in_use_takes_it_out(target: Cgroup, stats: Stats, option: str) -> None:
    end, level, name, value, message_reason, connection_reason = OPTIONS[option]
    with pair(target) as made:
        getattr(made, end).setsockopt(level, name, value)
        _goes_by_tcp(made, stats, message_reason, connection_reason)
        assert read(made.server, 7) == b'message'


@pytest.mark.parametrize('option', OPTIONS)
def test_an_option_set_before_keeps_a_connection_out(target: Cgroup, stats: Stats, option: str) -> None:
    end, level, name, value, _message_reason, connection_reason = OPTIONS[option]
    with target.inside(), traffic.listen() as listener:
        made = traffic.connect(listener)
        getattr(made, end).setsockopt(level, name, value)
    try:
        harness.wait_until(lambda: stats()[f'connection_reason_{connection_reason}'] == 1, 'it is left out')
    finally:
        made.close()


@pytest.mark.parametrize('end', ['client', 'server'])
def test_a_policy_of_a_socket_takes_it_out(target: Cgroup, stats: Stats, end: str) -> None:
    with pair(target) as made:
        policy = blocking_policy(socket.AF_INET, restriction.XFRM_OUT if end == 'client' else restriction.XFRM_IN)
        try:
            getattr(made, end).setsockopt(SOL_IP, restriction.IP_XFRM_POLICY, policy)
        except OSError as exc:
            pytest.skip(f'this kernel takes no IPsec policy: {exc}')
        _goes_by_tcp(made, stats, 'ipsec', 'ipsec_end')


def _with_policy_of_the_namespace(target: Cgroup, stats: Stats, family: str, direction: str) -> bool:
    """Whether a message is redirected although the namespace has an IPsec policy. It must leave otherwise."""
    with pair(target, family) as made:
        try:
            restriction.ip(f'xfrm policy add src ::/0 dst ::/0 dir {direction} action allow priority 9')
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f'this kernel takes no IPsec policy: {exc}')
        if family == 'ipv6':
            _goes_by_tcp(made, stats, 'ipsec', 'ipsec_end')
            return False
        before = stats()['redirected_messages']
        write(made.client, b'message')
        return stats()['redirected_messages'] > before


@pytest.mark.parametrize('direction', ['in', 'out'])
@pytest.mark.parametrize('family', ['ipv4', 'mapped', 'ipv6'])
def test_policies_of_a_namespace_hold_for_ipv6(
    target: Cgroup, stats: Stats, own_network: ThreadPoolExecutor, family: str, direction: str
) -> None:
    """The loopback device is exempt for IPv4."""
    redirected = own_network.submit(_with_policy_of_the_namespace, target, stats, family, direction).result()
    assert redirected == (family != 'ipv6')


@pytest.mark.parametrize('attach_type', [syscalls.CGROUP_INET_INGRESS, syscalls.CGROUP_INET_EGRESS])
@pytest.mark.parametrize('place', ['target', 'above it'])
def test_a_program_for_packets_of_the_cgroup_takes_it_out(
    target: Cgroup, root_cgroup: Cgroup, stats: Stats, attach_type: int, place: str
) -> None:
    cgroup = target if place == 'target' else root_cgroup
    with pair(target) as made, contextlib.ExitStack() as stack:
        program = syscalls.load_dropping_program(attach_type)
        stack.callback(os.close, program)
        link = syscalls.link_to_cgroup(program, cgroup.directory, attach_type)
        try:
            _goes_by_tcp(made, stats, 'cgroup_filter', 'cgroup_filter_end')
        finally:
            os.close(link)


@pytest.mark.parametrize('end', ['client', 'server'])
def test_a_checkpoint_takes_a_connection_out(target: Cgroup, stats: Stats, end: str) -> None:
    with pair(target) as made:
        sock = getattr(made, end)
        sock.setsockopt(SOL_TCP, restriction.TCP_REPAIR, 1)
        before = stats()
        with contextlib.suppress(OSError):
            made.client.send(b'message')
        after = stats()
        assert after['redirected_messages'] == before['redirected_messages']
        assert after['message_reason_repair_mode'] == 1
        sock.setsockopt(SOL_TCP, restriction.TCP_REPAIR, -1)
