# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that look alike and have nothing to do with each other."""

import contextlib
import functools
import json
import socket

from tests.conformance.bench import Bench, Option, outcome
from tests.conformance.catalogue import BOTH, Observation, behaviour

SERVER_PORT, CLIENT_PORT = 20_500, 5_001


class Station:
    """One network namespace with the one connection."""

    def __init__(self, bench: Bench, name: str, *options: Option) -> None:
        bench.private_network()
        self._bench = bench
        self._name = name
        self._listener = bench.listen(*options, port=SERVER_PORT)
        self._client = bench.connect(self._listener, source_port=CLIENT_PORT)
        self._server: socket.socket | None = None
        if not options:
            self._server = bench.accept(self._listener)
            bench.warm(self._client, self._server)

    def obey(self, order: str) -> str:
        """Carry out one order; the answer is what was read."""
        match order:
            case 'client writes':
                return self._bench.write_all(self._client, f'client {self._name}'.encode())
            case 'server writes':
                return self._bench.write_all(self._server, f'server {self._name}'.encode()) if self._server else ''
            case 'client reads':
                return self._whatever_comes(self._client)
            case _:
                if not self._server and self._bench.readable(self._listener):
                    self._server = self._bench.accept(self._listener)
                return self._whatever_comes(self._server) if self._server else 'nothing'

    def _whatever_comes(self, sock: socket.socket) -> str:
        return self._bench.read(sock) if self._bench.readable(sock) else 'nothing'


def run_station(bench: Bench, name: str, orders: socket.socket, options: tuple[Option, ...]) -> None:
    station = Station(bench, name, *options)
    orders.send(json.dumps(bench.figures.get('warm', [])).encode())
    while order := orders.recv(100).decode():
        orders.send(str(outcome(functools.partial(station.obey, order))).encode())


def in_two_namespaces(bench: Bench, *options_of_the_second: Option) -> Observation:
    """What is read in each of two namespaces where both ends write, twice."""
    bench.private_network()  # fails here, where it can be told, if there are no namespaces
    stations: list[socket.socket] = []
    seen: dict[str, list[str]] = {}
    with contextlib.ExitStack() as stack:
        for name, options in (('one', ()), ('two', options_of_the_second)):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(bench.process(functools.partial(run_station, bench, name, theirs, options)))
            theirs.close()
            stations.append(ours)
            bench.figures.setdefault('warm', []).extend(json.loads(ours.recv(1000)))
        for order in 2 * ('client writes', 'server reads', 'server writes', 'client reads'):
            for station in stations:
                station.send(order.encode())
                seen.setdefault(order, []).append(station.recv(100).decode())
    return {'the servers read': seen['server reads'], 'the clients read': seen['client reads']}


@behaviour('network namespaces: the same addresses and ports in two of them', readers=BOTH, alone=True)
def same_names(bench: Bench) -> Observation:
    return in_two_namespaces(bench)


@behaviour(
    'network namespaces: the same, one of them with TCP_DEFER_ACCEPT', readers=BOTH, control_fails=True, alone=True
)
def same_names_deferred(bench: Bench) -> Observation:
    return in_two_namespaces(bench, (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1))
