# SPDX-License-Identifier: GPL-2.0-or-later
"""Envoy beside an application, each in a container of its own: slices are led, and what a slice has changes."""

import json
from collections.abc import Iterator

import pytest

from tests.containers.machine import ENVOY, GIVEN, IMAGE, VOLUMES, ask
from tests.containers.room import SERVE, SERVER_PORT, asking
from tests.containers.test_docker import BY_TCP, redirected
from tests.containers.web import APP, DIGEST
from tests.support.envoy import OPTIONS
from tests.support.harness import wait_until
from tests.support.patience import LONG_S, PATIENCE_S
from tests.system.container import Container

# The first test may make the machine's root before.
pytestmark = pytest.mark.timeout(2 * LONG_S)
PORT, INBOUND = 8080, '8080=15006'
# A slice for each container, none inside of another. Those that share a network follow the one whose it is.
CONTAINERS = ('shop', 'echo', 'shopproxy', 'client', 'clientproxy')
SERVES = ('python3', '/talk/web.py', 'serve', str(PORT))
BY_ENVOY, BY_APP = f'envoy {DIGEST}', f'{APP} {DIGEST}'


class Pods:
    """Two applications and their proxies, of an engine: the shop, and a client of it. Made by `pods()`."""

    def __init__(self, machine: Container, engine: str) -> None:
        self.machine = machine
        self.engine = engine

    def start(self, name: str, *command: str, network: str = '') -> None:
        """A container. network: of which other one it shares the network."""
        joins = (f'--network=container:{network}',) if network else ()
        self.machine.run(
            # In a unit of its own, which keeps what the engine leaves running.
            'systemd-run', '--quiet', '--service-type=oneshot', '--remain-after-exit', f'--unit=run-{name}',
            self.engine, 'run', '--detach', f'--name={name}', f'--cgroup-parent={name}.slice', *VOLUMES,
            f'--volume={GIVEN}:{GIVEN}:ro', f'--volume={ENVOY}:{ENVOY}:ro', *joins, IMAGE, *command,
        )  # fmt: skip

    def start_envoy(self, name: str, listener: str, *, beside: str) -> None:
        self.start(
            name, str(ENVOY / 'envoy'), '--config-path', f'{GIVEN}/{listener}.json', *OPTIONS, network=beside
        )

    def remove(self, name: str) -> None:
        # A program that is its container's first process need not obey SIGTERM, for which Podman waits.
        options = ('--time=0',) if self.engine == 'podman' else ()
        self.machine.run(self.engine, 'rm', '--force', *options, name, check=False)
        self.machine.run('systemctl', 'stop', f'run-{name}.service', check=False)

    def address(self, name: str) -> str:
        return self.inspect(name, '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}')

    def inspect(self, name: str, what: str) -> str:
        return self.machine.run(self.engine, 'inspect', f'--format={what}', name).stdout.strip()

    def fetched(self, address: str) -> str:
        """Who has answered the client, and what; or the error."""
        asked = ('python3', '/talk/web.py', 'fetch', address, str(PORT))
        return self.machine.run(self.engine, 'exec', 'client', *asked).stdout.strip()

    def asked(self, address: str, seconds: float = PATIENCE_S) -> dict[str, int]:
        """The ways of the messages that the client sends, which are echoed."""
        asks = asking(address, SERVER_PORT, seconds=seconds)
        return ask(self.machine, self.engine, 'exec', 'client', *asks)

    def ctl(self, *arguments: str) -> str:
        return self.machine.run('sockaccelctl', *arguments).stdout

    def counters(self, name: str) -> dict[str, int]:
        rows = json.loads(self.ctl('intercept', '--json'))
        return dict(next(row['counters'] for row in rows if row['target'] == f'{name}.slice'))


@pytest.fixture(scope='module')
def leads(machine: Container) -> None:
    """The daemon loads once what leads connections, and has it until it ends."""
    machine.run('sockaccelctl', 'intercept', 'client.slice', '--proxy', 'clientproxy.slice')
    machine.run('sockaccelctl', 'release', 'client.slice')


@pytest.fixture(params=['docker', 'podman'])
def pods(machine: Container, leads: None, request: pytest.FixtureRequest) -> Iterator[Pods]:
    made = Pods(machine, request.param)
    try:
        made.start('shop', *SERVES)
        made.start('client', 'sleep', 'infinity')
        made.start_envoy('shopproxy', 'inbound', beside='shop')
        made.start_envoy('clientproxy', 'outbound', beside='client')
        yield made
    finally:
        for name in ('shop', 'client'):
            machine.run('sockaccelctl', 'release', f'{name}.slice', check=False)
        for name in reversed(CONTAINERS):
            made.remove(name)


def test_envoy_in_containers(pods: Pods) -> None:
    leads_in = ('intercept', 'shop.slice', '--proxy', 'shopproxy.slice', '--inbound', INBOUND, '--outbound', '0')
    shop = pods.address('shop')
    wait_until(lambda: pods.fetched(shop) == BY_APP, 'the shop serves')
    pods.ctl('intercept', 'client.slice', '--proxy', 'clientproxy.slice')
    if pods.engine == 'docker':
        # As Docker has it, without the line of docs/sidecar.md.
        pods.machine.run('chmod', 'go-x', '/run/docker')
        refused = pods.machine.run('sockaccelctl', *leads_in, check=False)
        assert refused.returncode == 1
        assert 'no file which sockaccel may open names' in ' '.join(refused.stdout.split())
        pods.machine.run('chmod', 'a+x', '/run/docker')
    pods.ctl(*leads_in)
    wait_until(lambda: pods.fetched(shop) == BY_ENVOY, 'both proxies listen')
    led, led_in = pods.counters('client'), pods.counters('shop')
    assert led['origin_given'] >= led['led'] > 0
    assert led_in['origin_given'] >= led_in['led_in'] > 0
    # Neither is passed while it is not there. The shop's would answer, if the client went past its own.
    pods.remove('clientproxy')
    assert pods.fetched(shop) == 'ECONNREFUSED'
    assert pods.counters('client')['proxy_down'] > 0
    pods.start_envoy('clientproxy', 'outbound', beside='client')
    wait_until(lambda: pods.fetched(shop) == BY_ENVOY, "the client's proxy listens again")
    # It is the client's that says so.
    pods.remove('shopproxy')
    answer = pods.fetched(shop)
    assert answer.startswith('envoy ')
    assert answer != BY_ENVOY
    assert pods.counters('shop')['proxy_down_in'] > 0
    # New containers, in new cgroups of the same slices, and in a new network namespace.
    pods.remove('shop')
    pods.start('shop', *SERVES)
    pods.start_envoy('shopproxy', 'inbound', beside='shop')
    shop = pods.address('shop')
    wait_until(lambda: pods.fetched(shop) == BY_ENVOY, "the new shop's proxy listens")
    for name in ('client', 'shop'):
        pods.ctl('release', f'{name}.slice')
    assert pods.fetched(shop) == BY_APP


def test_what_is_led_is_accelerated(pods: Pods) -> None:
    """The hop to the proxy, which is in a container of another slice and need not be a target."""
    pods.start('echo', *SERVE, network='shop')
    shop = pods.address('shop')
    pods.ctl('intercept', 'client.slice', '--proxy', 'clientproxy.slice')
    try:
        wait_until(lambda: pods.fetched(shop) == BY_ENVOY, 'the proxy listens')
        led = pods.counters('client')['led']
        assert pods.asked(shop, 1) == BY_TCP
        pods.ctl('enable', 'client.slice', '--accept=fionread', '--accept=splice')
        assert redirected(pods.asked(shop))
        assert pods.counters('client')['led'] == led + 2
    finally:
        pods.machine.run('sockaccelctl', 'disable', 'client.slice', check=False)
