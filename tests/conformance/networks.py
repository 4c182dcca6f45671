# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies between the two ends of a connection: nothing, a bridge, or a bridge and address translation."""

import contextlib
from collections.abc import Iterator
from typing import Protocol, Self

from tests.conformance import syscalls
from tests.support import topology
from tests.support.topology import Topology

LOOPBACK = 'loopback'


class Network(Protocol):
    """Where behaviours make their sockets: clients in the namespace of the main thread, listeners at_server()."""

    def client_address(self, family: str) -> str:
        """What a client binds to."""

    def server_address(self, family: str) -> str:
        """What a listener binds to; families are ipv4 and ipv6."""

    def reached_at(self, family: str, port: int) -> tuple[str, int]:
        """Where a client reaches the listener of a port."""

    def at_server(self) -> contextlib.AbstractContextManager[None]:
        """Sockets made meanwhile, and commands that are run, belong to the server's namespace."""

    def private(self) -> Self:
        """Enter another one of the same kind, that nobody else uses. Raises OSError, CalledProcessError."""


class Loopback:
    def client_address(self, family: str) -> str:
        return '::1' if family == 'ipv6' else '127.0.0.1'

    def server_address(self, family: str) -> str:
        return self.client_address(family)

    def reached_at(self, family: str, port: int) -> tuple[str, int]:
        return self.client_address(family), port

    @contextlib.contextmanager
    def at_server(self) -> Iterator[None]:
        yield

    def private(self) -> Self:
        syscalls.new_network()
        return self


class Bridge:
    """Client and server in two namespaces on a bridge."""

    def __init__(self) -> None:
        # Open until the process ends, like the sockets in it.
        self._topology = Topology()
        topology.enter(self._topology.neighbour)

    def client_address(self, family: str) -> str:
        return topology.NEIGHBOUR[family == 'ipv6']

    def server_address(self, family: str) -> str:
        return topology.SERVER[family == 'ipv6']

    def reached_at(self, family: str, port: int) -> tuple[str, int]:
        return self.server_address(family), port

    @contextlib.contextmanager
    def at_server(self) -> Iterator[None]:
        with topology.inside(self._topology.server):
            yield

    def private(self) -> Self:
        return type(self)()


class Published(Bridge):
    """The client knows a published port alone: both addresses and one port are translated on the way."""

    def reached_at(self, family: str, port: int) -> tuple[str, int]:
        return topology.GATEWAY[family == 'ipv6'], port + topology.PUBLISHED_ABOVE


NETWORKS: dict[str, type[Loopback] | type[Bridge]] = {LOOPBACK: Loopback, 'bridge': Bridge, 'dnat': Published}
