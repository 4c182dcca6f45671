# SPDX-License-Identifier: GPL-2.0-or-later
"""Envoy beside an application, as service meshes put it: nftables takes the application's connections to it.

A pod is a network namespace with an application and a proxy. What leaves the pod is redirected to the proxy's port
15001, what comes in to 15006, and only what the proxy itself sends goes on, known by its user. The proxy asks the
kernel where a connection was going (SO_ORIGINAL_DST). sockaccel must find the two ends of each one, and change
nothing of that.
"""

import json
import pwd
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.place import NOBODY, Place
from tests.containers import talk
from tests.support import topology, traffic
from tests.support.patience import PATIENCE_S
from tests.support.topology import NEIGHBOUR, SERVER, Topology

OUTBOUND, INBOUND = 15_001, 15_006
SERVICE_PORT = 9_000
# linux/netfilter_ipv4.h
SO_ORIGINAL_DST = 80
MESSAGES = 2_000
TALK = Path(talk.__file__)

# The application is root here and the proxy is not, so its user tells whose connection one is.
RULES = f"""
table ip mesh {{
  chain output {{
    type nat hook output priority -100
    meta skuid {pwd.getpwnam(NOBODY).pw_uid} return
    oifname "lo" return
    tcp dport != 22 redirect to :{OUTBOUND}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    tcp dport != {{ 22, {OUTBOUND}, {INBOUND} }} redirect to :{INBOUND}
  }}
}}
"""


def listener(port: int) -> dict[str, object]:
    """Takes redirected connections and goes on to where each was going."""
    proxy = {
        '@type': 'type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy',
        'stat_prefix': 'mesh',
        'cluster': 'where it was going',
    }
    original = 'type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst'
    return {
        'name': f'listener of {port}',
        'address': {'socket_address': {'address': '0.0.0.0', 'port_value': port}},
        'listener_filters': [{'name': 'original_dst', 'typed_config': {'@type': original}}],
        'filter_chains': [{'filters': [{'name': 'tcp_proxy', 'typed_config': proxy}]}],
    }


def configuration() -> str:
    cluster = {
        'name': 'where it was going',
        'type': 'ORIGINAL_DST',
        'lb_policy': 'CLUSTER_PROVIDED',
        'connect_timeout': f'{PATIENCE_S}s',
    }
    resources = {'listeners': [listener(port) for port in (OUTBOUND, INBOUND)], 'clusters': [cluster]}
    return json.dumps({'static_resources': resources})


@pytest.fixture
def pods() -> Iterator[Topology]:
    """Two of them on a bridge: the neighbour and the server."""
    with Topology() as made:
        for namespace in (made.neighbour, made.server):
            with topology.inside(namespace):
                topology.run(['nft', 'flush', 'ruleset'])
                topology.run(['nft', '-f', '-'], RULES)
        yield made


def envoy(somewhere: Place) -> None:
    """Start the proxy of the pod that this thread is in."""
    directory = somewhere.directory()
    installed = Path(sys.prefix, 'lib')
    found = list(installed.glob('python3*/site-packages/envoy/_bin/envoy'))
    if not found:
        pytest.fail('envoy is missing: run tools/setup apps')
    # Another user must be able to run it.
    shutil.copy(found[0], directory / 'envoy')
    (directory / 'envoy.json').write_text(configuration())
    options = ('--concurrency', '1', '--disable-hot-restart', '--use-dynamic-base-id', '--log-level', 'warning')
    somewhere.serve(
        INBOUND, directory / 'envoy', '--config-path', 'envoy.json', *options, user=NOBODY, cwd=directory
    )


def ask(somewhere: Place, pods: Topology) -> dict[str, int]:
    """The application of the first pod asks that of the second; the ways of its messages."""
    with topology.inside(pods.server):
        envoy(somewhere)
        somewhere.serve(SERVICE_PORT, sys.executable, TALK, 'serve', str(SERVICE_PORT))
    with topology.inside(pods.neighbour):
        envoy(somewhere)
        # Of one that is not accelerated no message is redirected, however long it waits.
        seconds = str(PATIENCE_S if somewhere.way == 'accelerated' else 0)
        printed = somewhere.run(sys.executable, TALK, 'ask', SERVER[0], str(SERVICE_PORT), seconds)
    ways: dict[str, int] = json.loads(printed)
    return ways


def test_envoy_as_sidecar(somewhere: Place, pods: Topology) -> None:
    ways = ask(somewhere, pods)
    assert sum(ways.values()) == talk.ROUNDS
    if somewhere.way == 'accelerated':
        assert ways['redirected'] > talk.ROUNDS / 2, somewhere.explain()
    somewhere.same('Envoy as sidecar', f'{talk.ROUNDS} echoes through two proxies', sum(ways.values()))


def original_destination(end: socket.socket) -> tuple[str, int]:
    port, address = struct.unpack('!2xH4s8x', end.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port


def test_original_destination(somewhere: Place, pods: Topology) -> None:
    with (
        topology.inside(pods.neighbour),
        somewhere.cgroup.inside(),
        socket.create_server(('', OUTBOUND)) as proxy,
    ):
        client = socket.create_connection((SERVER[0], SERVICE_PORT))
        server, _address = proxy.accept()
    pair = traffic.Pair(client, server)
    try:
        for end in (client, server):
            end.setblocking(False)
            traffic.no_delay(end)
        seen = [original_destination(server)]
        if somewhere.way == 'accelerated':
            traffic.join(pair)
        traffic.exchange(pair, MESSAGES)
        seen += [original_destination(server), client.getpeername(), server.getpeername()[0]]
    finally:
        pair.close()
    assert seen == [(SERVER[0], SERVICE_PORT)] * 3 + [NEIGHBOUR[0]]
    somewhere.same('SO_ORIGINAL_DST', f'{MESSAGES} messages', seen)
