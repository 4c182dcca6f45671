# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces as a container engine makes them: a bridge, and address translation by nftables.

       neighbour 10.98.0.2 ──┐
                             ├── bridge 10.98.0.1 = gateway
          server 10.98.0.3 ──┘

The gateway publishes the server's ports, as `docker run --publish` does. The namespaces have no names. They are
descriptors of this process and of those that it forks, so they go with the last of them, however it ends.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.conformance.syscalls import CLONE_NEWNET, checked, libc, new_network

GATEWAY, NEIGHBOUR, SERVER = ('10.98.0.1', 'fd98::1'), ('10.98.0.2', 'fd98::2'), ('10.98.0.3', 'fd98::3')
# An address that no host has, as the services of a Kubernetes cluster have.
SERVICE = '10.96.0.10'
# The ports that the server's listeners get, so that each has a published one.
SERVER_PORTS = range(20_000, 22_000)
PUBLISHED_ABOVE = 10_000
# Connections of the neighbour to MESH_PORT are taken to the proxy in its own namespace, as a service mesh does it.
MESH_PORT, PROXY_PORT = 4_000, 15_001

_GATEWAY_RULES = """
table inet nat {{
  map ports {{ type inet_service : ipv4_addr . inet_service; elements = {{ {ipv4} }}; }}
  map ports6 {{ type inet_service : ipv6_addr . inet_service; elements = {{ {ipv6} }}; }}
  chain published {{
    ip daddr {{ 10.98.0.1, 10.96.0.10 }} dnat ip to tcp dport map @ports
    ip6 daddr fd98::1 dnat ip6 to tcp dport map @ports6
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; meta l4proto tcp jump published; }}
  chain output {{ type nat hook output priority -100; meta l4proto tcp jump published; }}
  chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
}}
"""
_NEIGHBOUR_RULES = f"""
table ip mesh {{
  chain output {{ type nat hook output priority -100; tcp dport {MESH_PORT} redirect to :{PROXY_PORT}; }}
}}
"""


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Sockets that this thread makes meanwhile, and processes that it starts, belong to the namespace."""
    before = _present()
    try:
        enter(namespace)
        try:
            yield
        finally:
            enter(before)
    finally:
        os.close(before)


def enter(namespace: int) -> None:
    """The same for good. Raises OSError."""
    checked(libc.setns(namespace, CLONE_NEWNET), 'setns')


def _present() -> int:
    return os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)


def _new() -> int:
    """A namespace whose loopback device is up. Raises OSError."""
    before = _present()
    try:
        new_network()
        made = _present()
        enter(before)
    finally:
        os.close(before)
    return made


class Topology:
    """The three namespaces above, as a context manager.

    Raises OSError or CalledProcessError where they cannot be made.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            made = [_new() for _namespace in range(3)]
            for namespace in made:
                stack.callback(os.close, namespace)
            self.gateway, self.neighbour, self.server = made
            self._connect()
            self._translate()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def _connect(self) -> None:
        """A bridge in the gateway, and a veth pair from it to each of the others."""
        ends = (('neighbour', self.neighbour, NEIGHBOUR), ('server', self.server, SERVER))
        with inside(self.gateway):
            links = (
                f'link add {name} master br0 up type veth peer name eth0 netns /proc/{os.getpid()}/fd/{namespace}'
                for name, namespace, _addresses in ends
            )
            # Else a namespace does not reach a port that it publishes itself.
            hairpin = (f'link set {name} type bridge_slave hairpin on' for name, _namespace, _addresses in ends)
            ip('link add br0 type bridge', *_addressed('br0', GATEWAY), *links, *hairpin)
            for setting in ('ipv4/ip_forward', 'ipv6/conf/all/forwarding'):
                _set(setting, '1')
        for _name, namespace, addresses in ends:
            with inside(namespace):
                ip(*_addressed('eth0', addresses), *(f'route add default via {gateway}' for gateway in GATEWAY))

    def _translate(self) -> None:
        published = {
            kind: ', '.join(f'{port + PUBLISHED_ABOVE} : {address} . {port}' for port in SERVER_PORTS)
            for kind, address in zip(('ipv4', 'ipv6'), SERVER, strict=True)
        }
        with inside(self.gateway):
            run(['nft', '-f', '-'], _GATEWAY_RULES.format(**published))
        with inside(self.neighbour):
            run(['nft', '-f', '-'], _NEIGHBOUR_RULES)
        with inside(self.server):
            _set('ipv4/ip_local_port_range', f'{SERVER_PORTS[0]} {SERVER_PORTS[-1]}')


def _addressed(device: str, addresses: tuple[str, str]) -> tuple[str, ...]:
    """Commands for ip(8) that give a device its addresses of both families."""
    ipv4, ipv6 = addresses
    return (
        f'addr add {ipv4}/24 dev {device}',
        f'addr add {ipv6}/64 dev {device} nodad',
        f'link set {device} up',
    )


def _set(setting: str, value: str) -> None:
    """A setting of the namespace that this thread is in."""
    Path('/proc/sys/net', setting).write_text(value)


def ip(*commands: str) -> None:
    """Run commands of ip(8). Raises CalledProcessError."""
    run(['ip', '-batch', '-'], '\n'.join(commands) + '\n')


def run(arguments: list[str], text: str = '') -> None:
    """Run a command with a text as its input. Raises CalledProcessError, with what it wrote as a note."""
    done = subprocess.run(arguments, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        error.add_note(done.stdout + done.stderr)
        raise error
