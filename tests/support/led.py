# SPDX-License-Identifier: GPL-2.0-or-later
"""A network namespace in which an application is led to a proxy: by sockaccel, or by netfilter's REDIRECT."""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sockaccel.kernel import libbpf
from tests.support import harness
from tests.support.harness import Cgroup
from tests.support.network import namespace
from tests.support.patience import PATIENCE_S

OUTBOUND = 15001
# What the application wants: a port of these addresses, at which nobody listens.
PORT = 7000
ADDRESS, ADDRESS6 = '10.77.0.2', 'fd77::2'
# An address of another interface, and one on the network behind it.
OTHER, BEHIND = '10.78.0.1', '10.78.0.99'
# Addresses to which there is no route.
NOWHERE, NOWHERE6 = '203.0.113.9', '2001:db8::9'
SO_ORIGINAL_DST = 80
_RULES = """
table {family} led {{
  chain output {{
    type nat hook output priority -100
    tcp dport {port} redirect to :{outbound}
  }}
}}
"""
# For connections that come in: the target's port, and that of the proxy.
INSIDE, INBOUND = 8080, 15006
# The address of another host, behind the interface that has OTHER, and what it calls both in IPv6.
HOST, OTHER6, HOST6 = '10.78.0.2', 'fd78::1', 'fd78::2'
_RULES_IN = """
table {family} led {{
  chain prerouting {{
    type nat hook prerouting priority -100
    tcp dport {port} redirect to :{inbound}
  }}
}}
"""
_T = TypeVar('_T')


class Place:
    """app: whose connections are led. proxy: what takes them. Made by `place()`."""

    def __init__(self, pool: ThreadPoolExecutor, app: Cgroup, proxy: Cgroup) -> None:
        self.pool = pool
        self.app = app
        self.proxy = proxy
        thread = self.run(threading.get_native_id)
        self.network = f'/proc/{os.getpid()}/task/{thread}/ns/net'

    def inode(self) -> int:
        """The number by which the kernel knows the network namespace."""
        return os.stat(self.network).st_ino

    def start(self, *words: str, of: Cgroup) -> 'subprocess.Popen[bytes]':
        """A program of a cgroup there, whose output can be read."""
        return subprocess.Popen(
            ['nsenter', f'--net={self.network}', *words], stdout=subprocess.PIPE, preexec_fn=of.enter
        )

    def run(self, work: Callable[[], _T]) -> _T:
        """In the network namespace."""
        return self.pool.submit(work).result()

    def command(self, *words: str, text: str | None = None) -> None:
        """Run a program there."""
        subprocess.run(['nsenter', f'--net={self.network}', *words], input=text, text=True, check=True)

    def output(self, *words: str) -> str:
        """What a program there prints."""
        command = ['nsenter', f'--net={self.network}', *words]
        return subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE).stdout

    def make(
        self, family: socket.AddressFamily = socket.AF_INET, protocol: int = 0, *, of: Cgroup | None = None
    ) -> socket.socket:
        """A socket of the application, or of another cgroup."""
        with (of or self.app).inside():
            return self.run(lambda: socket.socket(family, socket.SOCK_STREAM, protocol))

    def listener(
        self, address: str = '127.0.0.1', port: int = OUTBOUND, *, of: Cgroup | None = None, dual: bool = False
    ) -> socket.socket:
        """A listener of the proxy, or of another cgroup."""
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        with (of or self.proxy).inside():
            made = self.run(
                lambda: socket.create_server((address, port), family=family, dualstack_ipv6=dual, backlog=64)
            )
        made.settimeout(PATIENCE_S)
        return made


@contextlib.contextmanager
def place(app: Cgroup, proxy: Cgroup, *, netfilter: bool = False) -> Iterator[Place]:
    """netfilter: whether REDIRECT leads; otherwise nobody does yet."""
    with namespace() as pool:
        made = Place(pool, app, proxy)
        for words in (
            f'ip addr add {ADDRESS}/32 dev lo', f'ip addr add {ADDRESS6}/128 dev lo nodad',
            'ip link add d0 type veth peer name d1', f'ip addr add {OTHER}/24 dev d0', 'ip link set d0 up',
            'ip link set d1 up', 'sysctl -qw net.ipv4.tcp_fastopen=3',
        ):  # fmt: skip
            made.command(*words.split())
        if netfilter:
            for family in ('ip', 'ip6'):
                rules = _RULES.format(family=family, port=PORT, outbound=OUTBOUND)
                made.command('nft', '-f', '-', text=rules)
        yield made


def original(accepted: socket.socket) -> Any:
    """What SO_ORIGINAL_DST says of an accepted socket: address and port, or the error."""
    v4 = accepted.family == socket.AF_INET or accepted.getpeername()[0].startswith('::ffff:')
    try:
        if v4:
            answer = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            return socket.inet_ntoa(answer[4:8]), struct.unpack_from('!H', answer, 2)[0]
        answer = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    except OSError as exc:
        return os.strerror(exc.errno or 0)
    return socket.inet_ntop(socket.AF_INET6, answer[8:24]), struct.unpack_from('!H', answer, 2)[0]


@contextlib.contextmanager
def foreign_connect(cgroup: Cgroup, port: int, instead: int) -> Iterator[None]:
    """A connect4 program of somebody else on a cgroup, which rewrites a port."""
    # r2 = ctx->user_port; if r2 != htons(port) goto out; ctx->user_port = htons(instead); out: r0 = 1; exit
    at = 24
    program = (
        (0x61, 0x12, at, 0), (0x55, 0x02, 2, socket.htons(port)), (0xB7, 0x02, 0, socket.htons(instead)),
        (0x63, 0x21, at, 0), (0xB7, 0x00, 0, 1), (0x95, 0, 0, 0),
    )  # fmt: skip
    code = b''.join(struct.pack('=BBhi', *instruction) for instruction in program)
    loaded = libbpf.load(b'foreign_connect', code, program_type=18, attach_type=10)
    directory = os.open(cgroup.directory, os.O_RDONLY | os.O_DIRECTORY)
    link = libbpf.attach_cgroup(loaded, directory, 10)
    os.close(directory)
    try:
        yield
    finally:
        os.close(link)
        os.close(loaded)


class Entered(Place):
    """Such a namespace to which another host is connected, whose sockets `make_there` makes."""

    host: ThreadPoolExecutor

    def make_there(self, family: socket.AddressFamily = socket.AF_INET, protocol: int = 0) -> socket.socket:
        made = self.host.submit(lambda: socket.socket(family, socket.SOCK_STREAM, protocol)).result()
        made.settimeout(PATIENCE_S)
        return made


@contextlib.contextmanager
def named(where: Place) -> Iterator[Path]:
    """A name in /run/netns for the namespace while it lasts, as "ip netns add" gives one."""
    directory = Path('/run/netns')
    directory.mkdir(exist_ok=True)
    path = directory / f'sockaccel-{os.getpid()}-{where.inode()}'
    path.touch()
    subprocess.run(['mount', '--bind', where.network, str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(['umount', str(path)], check=True)
        path.unlink()


@contextlib.contextmanager
def entered(app: Cgroup, proxy: Cgroup, *, netfilter: bool = False) -> Iterator[Entered]:
    """netfilter: whether REDIRECT leads what comes in from the other host; otherwise nobody does yet."""
    with namespace() as pool, namespace() as host:
        made = Entered(pool, app, proxy)
        made.host = host
        there = host.submit(threading.get_native_id).result()
        network = f'/proc/{os.getpid()}/task/{there}/ns/net'
        for words in (
            f'ip link add d0 type veth peer name d1 netns {network}', f'ip addr add {OTHER}/24 dev d0',
            f'ip addr add {OTHER6}/64 dev d0 nodad', 'ip link set d0 up', 'sysctl -qw net.ipv4.tcp_fastopen=3',
        ):  # fmt: skip
            made.command(*words.split())
        for words in (
            f'ip addr add {HOST}/24 dev d1', f'ip addr add {HOST6}/64 dev d1 nodad', 'ip link set d1 up',
            'sysctl -qw net.ipv4.tcp_fastopen=3',
        ):  # fmt: skip
            subprocess.run(['nsenter', f'--net={network}', *words.split()], check=True)
        if netfilter:
            for family in ('ip', 'ip6'):
                rules = _RULES_IN.format(family=family, port=INSIDE, inbound=INBOUND)
                made.command('nft', '-f', '-', text=rules)
        yield made


def counters(target: Cgroup) -> dict[str, int]:
    """What the daemon has counted of the connections of a target that is led."""
    (row,) = [row for row in harness.call('ListInterceptions') if row['target'] == target.path]
    return dict(row['counters'])


def error_of(work: Callable[[], object]) -> str:
    """The name of the error that a call ends with, '' for none."""
    try:
        work()
    except OSError as exc:
        return errno.errorcode[exc.errno or errno.ETIMEDOUT]
    return ''
