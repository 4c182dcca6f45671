# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard tools, unmodified: a server per way that stays for all rounds, a client per measurement."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.samples import Case, Sample
from bench.ways import CONTAINERS, PLAIN, SOCKACCEL, UNCHECKED, UNIX, Way
from tests.apps import test_nginx as nginx
from tests.apps import test_postgresql as postgresql
from tests.apps.place import NOBODY, Place, Results, free_port
from tests.support import harness
from tests.support.harness import Cgroup

ALL = (PLAIN, UNIX, UNCHECKED, SOCKACCEL)
TCP = (PLAIN, UNCHECKED, SOCKACCEL)
PAIR = (PLAIN, SOCKACCEL)
# Of wrk.
CLIENTS = 32


class PinnedCgroup(Cgroup):
    """A cgroup whose processes run on one CPU; where the scheduler puts them else is chance, and makes 70 %."""

    def __init__(self, name: str, parent: Cgroup, cpu: int) -> None:
        super().__init__(name, parent)
        self._cpu = cpu

    def enter(self) -> None:
        super().enter()
        os.sched_setaffinity(0, {self._cpu})


@dataclass
class Server:
    """A server of one way. unix: the path of its Unix socket."""

    place: Place
    port: int
    unix: Path

    def address(self, way: Way, unix: Sequence[str], tcp: Sequence[str]) -> list[str]:
        """The client's options; {port}, {path} and {directory} are filled in."""
        words = unix if way.name == UNIX else tcp
        return [word.format(port=self.port, path=self.unix, directory=self.unix.parent) for word in words]


class Tools:
    """Starts servers when they are first asked for; all of them end with `close()`."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._stack = contextlib.ExitStack()
        self._places: dict[tuple[str, str], Place] = {}
        self._servers: dict[tuple[str, str], Server] = {}

    def close(self) -> None:
        self._stack.close()

    def server(self, way: Way, start: Callable[[Place], Server], name: str = '') -> Server:
        """name: of what start starts, by default its own."""
        # With the module: servers of one kind are started in several places.
        key = way.cgroup.path, name or f'{start.__module__}.{start.__qualname__}'
        if key not in self._servers:
            self._servers[key] = start(self._place(way, 'server'))
        return self._servers[key]

    def measure(
        self, way: Way, command: Sequence[object], rate: Callable[[str], float], user: str | None = None
    ) -> Sample:
        """Run a client to its end. rate: reads operations per second out of what it printed."""
        server, client = self._place(way, 'server'), self._place(way, 'client')
        before = [cpu_us(place.cgroup) for place in (client, server)]
        counted = dict(harness.call('Stats'))
        begun = time.monotonic()
        printed = client.run(*map(str, command), user=user)
        elapsed = time.monotonic() - begun
        after = [cpu_us(place.cgroup) for place in (client, server)]
        found = rate(printed)
        operations = found * elapsed
        share = None
        if way.name in (SOCKACCEL, CONTAINERS):
            now = harness.call('Stats')
            redirected, tcp = (now[name] - counted[name] for name in ('redirected_bytes', 'tcp_bytes'))
            share = redirected / ((redirected + tcp) or 1)
        client_us, server_us = ((now - then) / operations for now, then in zip(after, before, strict=True))
        return Sample(found, client_us, server_us, share)

    def _place(self, way: Way, side: str) -> Place:
        key = way.cgroup.path, side
        if key not in self._places:
            cpus = sorted(os.sched_getaffinity(0))
            cpu = cpus[0] if side == 'server' else cpus[-1]
            cgroup = self._stack.enter_context(PinnedCgroup(side, way.cgroup, cpu))
            place = Place(way.name, cgroup, Results())
            self._stack.callback(place.close)
            self._places[key] = place
        return self._places[key]


@contextlib.contextmanager
def opened(seconds: int) -> Iterator[Tools]:
    tools = Tools(seconds)
    try:
        yield tools
    finally:
        tools.close()


def cpu_us(cgroup: Cgroup) -> int:
    """CPU time of all processes of a cgroup so far, in microseconds."""
    lines = (cgroup.directory / 'cpu.stat').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('usage_usec')))


def number(pattern: str) -> Callable[[str], float]:
    def read(printed: str) -> float:
        found = re.search(pattern, printed)
        assert found, f'no "{pattern}" in: {printed[-2000:]}'
        return float(found[1])

    return read


def _iperf(place: Place) -> Server:
    port = free_port()
    place.serve(port, 'iperf3', '-s', '-p', str(port), '--forceflush')
    return Server(place, port, Path())


def gigabits(printed: str) -> float:
    found = json.loads(printed)
    assert 'sum_received' in found['end'], f'iperf3 says: {found.get("error", printed[-2000:])}'
    return float(found['end']['sum_received']['bits_per_second']) / 1e9


def iperf(tools: Tools) -> list[Case]:
    def run(way: Way, size: str) -> Sample:
        server = tools.server(way, _iperf)
        command = [
            'iperf3',
            '-c',
            '127.0.0.1',
            '-p',
            str(server.port),
            '-t',
            str(tools.seconds),
            '-l',
            size,
            '--json',
        ]
        return tools.measure(way, command, gigabits)

    goals = {'64k': 2.2, '128k': 1.5}
    return [
        Case('iperf3', f'-l {size}', 'Gbit/s', PAIR, partial(run, size=size), {PLAIN: goal}, share_goal=0.95)
        for size, goal in goals.items()
    ]


def _sockperf(place: Place) -> Server:
    port = free_port()
    connections = place.directory() / 'connections'
    connections.write_text(f'T:127.0.0.1:{port}\n')
    place.serve(port, 'sockperf', 'server', '-f', connections, '-F', 'epoll', '--nonblocked')
    return Server(place, port, connections)


def sockperf(tools: Tools) -> list[Case]:
    def run(way: Way, kind: str, size: int) -> Sample:
        server = tools.server(way, _sockperf)
        command = ['sockperf', kind, '-f', server.unix, '-F', 'epoll', '--nonblocked', '-t', str(tools.seconds),
                   '-m', str(size)]  # fmt: skip
        if kind == 'throughput':
            return tools.measure(way, command, number(r'Message Rate is (\d+)'))
        received, took = (
            number(r'Valid Duration.*ReceivedMessages=(\d+)'),
            number(r'Valid Duration. RunTime=([\d.]+)'),
        )
        return tools.measure(way, command, lambda printed: received(printed) / took(printed))

    return [
        Case('sockperf', f'{kind} {size} B', 'messages/s', TCP, partial(run, kind=kind, size=size),
             {PLAIN: 0.97, UNCHECKED: 0.98})
        for kind, size in (('ping-pong', 64), ('throughput', 1024))
    ]  # fmt: skip


def _redis(place: Place) -> Server:
    port, directory = free_port(), place.directory(NOBODY)
    path = directory / 'redis'
    place.serve(
        port, 'redis-server', '--bind', '127.0.0.1', '--port', str(port), '--save', '', '--dir', directory,
        '--unixsocket', path, '--unixsocketperm', '777', user=NOBODY,
    )  # fmt: skip
    return Server(place, port, path)


def redis(tools: Tools) -> list[Case]:
    def run(way: Way, requests: int, options: tuple[str, ...]) -> Sample:
        server = tools.server(way, _redis)
        address = server.address(way, ('-s', '{path}'), ('-h', '127.0.0.1', '-p', '{port}'))
        command = ['redis-benchmark', *address, '-t', 'get', '-d', '64', '--csv',
                   '-n', requests * tools.seconds, *options]  # fmt: skip
        return tools.measure(way, command, number(r'"GET","([\d.]+)"'))

    works = (
        ('-c1', 30000, ('-c', '1'), 1.15),
        ('-c50', 60000, ('-c', '50'), 1.35),
        ('-c50 -P16', 600000, ('-c', '50', '-P', '16'), 1.25),
    )
    return [
        Case('redis-benchmark', name, 'GET/s', ALL,
             partial(run, requests=requests, options=options), {PLAIN: goal, UNCHECKED: 0.98})
        for name, requests, options, goal in works
    ]  # fmt: skip


def _postgres(place: Place) -> Server:
    directory, port = place.directory(postgresql.USER), free_port()
    programs = postgresql.programs()
    place.run(
        programs / 'initdb', f'--pgdata={directory}/data', '--auth=trust', f'--username={postgresql.USER}',
        '--no-sync', '--locale=C.UTF-8', '--encoding=UTF8', user=postgresql.USER,
    )  # fmt: skip
    options = [
        '--listen_addresses=127.0.0.1',
        f'--port={port}',
        f'--unix_socket_directories={directory}',
        '--fsync=off',
    ]
    place.serve(port, programs / 'postgres', '-D', directory / 'data', *options, user=postgresql.USER, ended_by=2)
    fill = (
        'pgbench',
        '--host=127.0.0.1',
        f'--port={port}',
        f'--username={postgresql.USER}',
        '--initialize',
        '--quiet',
    )
    place.run(programs / fill[0], *fill[1:], 'postgres', user=postgresql.USER)
    return Server(place, port, directory / 'socket')


def pgbench(tools: Tools) -> list[Case]:
    def run(way: Way, clients: int) -> Sample:
        server = tools.server(way, _postgres)
        host = server.address(way, ('--host={directory}',), ('--host=127.0.0.1',))
        command = [postgresql.programs() / 'pgbench', *host, f'--port={server.port}',
                   f'--username={postgresql.USER}', '--select-only', '--no-vacuum', f'--client={clients}',
                   f'--time={tools.seconds}', 'postgres']  # fmt: skip
        return tools.measure(way, command, number(r'tps = ([\d.]+)'), user=postgresql.USER)

    return [
        Case('pgbench -S', f'-c{clients}', 'transactions/s', ALL,
             partial(run, clients=clients), {PLAIN: 1.1, UNCHECKED: 0.98})
        for clients in (1, 8)
    ]  # fmt: skip


def _proxy(place: Place) -> Server:
    port, _files = nginx.proxied(place, nginx.NGINX_MENDED, kept=2 * CLIENTS)
    return Server(place, port, Path())


def proxy(tools: Tools) -> list[Case]:
    def run(way: Way) -> Sample:
        server = tools.server(way, _proxy)
        command = ['wrk', '--threads', '1', '--connections', str(CLIENTS), '--duration', str(tools.seconds),
                   f'http://127.0.0.1:{server.port}/one']  # fmt: skip
        return tools.measure(way, command, number(r'Requests/sec: *([\d.]+)'))

    name = f'keep-alive, {CLIENTS} connections, FIONREAD mended'
    return [Case('wrk, nginx, nginx', name, 'requests/s', PAIR, run, {PLAIN: 1.1})]


def _memcached(place: Place) -> Server:
    port = free_port()
    place.serve(port, 'memcached', '-l', '127.0.0.1', '-p', str(port), '-U', '0', user=NOBODY)
    return Server(place, port, Path())


def memcached(tools: Tools) -> list[Case]:
    def run(way: Way) -> Sample:
        server = tools.server(way, _memcached)
        count = 15000 * tools.seconds
        command = ['memcslap', f'--servers=127.0.0.1:{server.port}', '--concurrency=1',
                   f'--execute-number={count}', '--test=get', '--non-blocking', '--tcp-nodelay']  # fmt: skip
        keys, took = number(r'Time to get +(\d+)'), number(r'Time to get .*: +([\d.]+)')
        return tools.measure(way, command, lambda printed: keys(printed) / took(printed))

    return [Case('memcached', 'memcslap, GET', 'GET/s', TCP, run, {PLAIN: 1.1, UNCHECKED: 0.98})]


ALL_TOOLS = {
    'iperf3': iperf,
    'sockperf': sockperf,
    'redis': redis,
    'pgbench': pgbench,
    'wrk': proxy,
    'memcached': memcached,
}
