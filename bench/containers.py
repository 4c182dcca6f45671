# SPDX-License-Identifier: GPL-2.0-or-later
"""The same work between two network namespaces: over a bridge, and by a published port (support/topology.py)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import workload
from bench.samples import Case, Sample
from bench.tools import CLIENTS, Server, Tools, gigabits, number
from bench.ways import CONTAINERS, PLAIN, Way
from tests.apps.place import NOBODY, Place, free_port
from tests.apps.test_nginx import make_files, mended_fionread, serve_nginx
from tests.support import topology
from tests.support.topology import GATEWAY, NEIGHBOUR, PUBLISHED_ABOVE, SERVER, Topology

WAYS = (PLAIN, CONTAINERS)
SIZES = {1: '1 B', 1024: '1 KB', 16384: '16 KB'}
_BACKEND = 'server {{ listen {port}; location / {{ root {root}; }} }}'
_FRONT = """
    upstream backend {{ server {backend}; keepalive {kept}; }}
    server {{
        listen {port};
        location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
"""


@dataclass(frozen=True)
class Route:
    """How a client of the neighbour reaches the server. port_above: by how much its ports are higher there."""

    name: str
    address: str
    port_above: int = 0


ROUTES = (Route('bridge', SERVER[0]), Route('published port', GATEWAY[0], PUBLISHED_ABOVE))


class Towns:
    """The namespaces, and the tools in them."""

    def __init__(self, made: Topology, tools: Tools) -> None:
        self._made = made
        self._tools = tools

    def workload(self, way: Way, route: Route, arguments: Sequence[object], milliseconds: int) -> Sample:
        where = ('-N', self._made.server, '-B', SERVER[0], '-A', route.address, '-P', route.port_above)
        with topology.inside(self._made.neighbour):
            return workload.run(way, *arguments, *where, milliseconds=milliseconds, keeps=(self._made.server,))

    def iperf(self, way: Way, route: Route) -> Sample:
        port = self._server(way, _iperf).port + route.port_above
        command = ('iperf3', '-c', route.address, '-p', port, '-t', self._tools.seconds, '-l', '64k', '--json')
        with topology.inside(self._made.neighbour):
            return self._tools.measure(way, command, gigabits)

    def redis(self, way: Way, route: Route) -> Sample:
        port = self._server(way, _redis).port + route.port_above
        requests = 60_000 * self._tools.seconds
        command = ('redis-benchmark', '-h', route.address, '-p', port, '-t', 'get', '-d', '64', '--csv', '-n',
                   requests, '-c', '50')  # fmt: skip
        with topology.inside(self._made.neighbour):
            return self._tools.measure(way, command, number(r'"GET","([\d.]+)"'))

    def proxy(self, way: Way, route: Route) -> Sample:
        """wrk on the host, a proxy in the neighbour, and behind it a server that it reaches by the route."""
        backend = f'{route.address}:{self._server(way, _backend).port + route.port_above}'
        with topology.inside(self._made.neighbour):
            front = self._tools.server(way, partial(_front, backend), route.name)
        command = ('wrk', '--threads', '1', '--connections', CLIENTS, '--duration', self._tools.seconds,
                   f'http://{NEIGHBOUR[0]}:{front.port}/one')  # fmt: skip
        with topology.inside(self._made.gateway):
            return self._tools.measure(way, command, number(r'Requests/sec: *([\d.]+)'))

    def _server(self, way: Way, start: Callable[[Place], Server]) -> Server:
        with topology.inside(self._made.server):
            return self._tools.server(way, start)


def _iperf(place: Place) -> Server:
    port = free_port()
    place.serve(port, 'iperf3', '-s', '-p', str(port), '--forceflush')
    return Server(place, port, Path())


def _redis(place: Place) -> Server:
    port, directory = free_port(), place.directory(NOBODY)
    options = ('--bind', '0.0.0.0', '--protected-mode', 'no', '--save', '', '--dir', directory)
    place.serve(port, 'redis-server', '--port', str(port), *options, user=NOBODY)
    return Server(place, port, Path())


def _backend(place: Place) -> Server:
    port = free_port()
    serve_nginx(place, _BACKEND.format(port=port, root=make_files(place).root), port)
    return Server(place, port, Path())


def _front(backend: str, place: Place) -> Server:
    port = free_port()
    body = _FRONT.format(port=port, backend=backend, kept=2 * CLIENTS)
    serve_nginx(place, body, port, mended_fionread(place))
    return Server(place, port, Path())


def cases(towns: Towns, milliseconds: int) -> list[Case]:
    """Goals: the lower of what two runs of the prototype reached, by a fifth."""
    one, other = workload.cpus()
    made = []
    for route in ROUTES:
        for place, server, goal in (('same CPU', one, 1.7), ('two CPUs', other, 1.1)):
            for size, name in SIZES.items():
                arguments = ('-r', '-n', '-S', size, '-p', one, '-q', server)
                run = partial(towns.workload, route=route, arguments=arguments, milliseconds=milliseconds)
                made.append(_case(route, f'request/response {name}, {place}', 'per second', run, goal))
        made += [
            _case(route, 'iperf3 -l 64k', 'Gbit/s', partial(towns.iperf, route=route), 1.7),
            _case(route, 'redis-benchmark -c50', 'GET/s', partial(towns.redis, route=route), 1.35),
            _case(route, 'wrk, nginx, nginx', 'requests/s', partial(towns.proxy, route=route), 1.6),
        ]
    return made


def _case(route: Route, name: str, unit: str, run: Callable[[Way], Sample], goal: float) -> Case:
    return Case(f'containers, {route.name}', name, unit, WAYS, run, {PLAIN: goal}, CONTAINERS)


@contextlib.contextmanager
def opened(tools: Tools) -> Iterator[Towns]:
    with Topology() as made:
        yield Towns(made, tools)
