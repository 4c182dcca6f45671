# SPDX-License-Identifier: GPL-2.0-or-later
"""Units that are led to a proxy, by a daemon with its own user, in its unit's sandbox, without capabilities."""

import contextlib
import json
import sys
from collections.abc import Iterator

from tests.installed import system
from tests.installed.system import attempt, journal, python, run, service, show
from tests.support.harness import wait_until

OUTBOUND, INBOUND, APP = 15001, 15006, 7712
# To which there is no route where the proxy is: it is asked all the same.
ELSEWHERE = '203.0.113.9'
# Says something, and prints what is said.
_ASKS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
    client.sendall(b'echo')
    print(client.recv(100).decode())
"""


@contextlib.contextmanager
def network(name: str) -> Iterator[str]:
    """A network namespace with a name in /run/netns and loopback alone; gives a line that puts a unit there."""
    run('ip', 'netns', 'add', name)
    try:
        run('ip', '-n', name, 'link', 'set', 'lo', 'up')
        yield f'NetworkNamespacePath=/run/netns/{name}\n'
    finally:
        run('ip', 'netns', 'del', name)


def asked(address: str, port: int, *, unit: str = '', inside: str = '') -> str:
    """What a client is told. unit: in whose cgroup it is. inside: the name of its network namespace."""
    command = [sys.executable, '-c', _ASKS, address, str(port)]
    if inside:
        command = ['ip', 'netns', 'exec', inside, *command]
    if unit:
        # Before "ip netns exec", which mounts another /sys.
        procs = f'/sys/fs/cgroup{show(unit, "ControlGroup")}/cgroup.procs'
        command = ['sh', '-c', f'echo $$ >{procs} && exec "$@"', 'sh', *command]
    return run(*command).strip()


def counters(target: str) -> dict[str, int]:
    rows = json.loads(run('sockaccelctl', 'intercept', '--json'))
    return dict(next(row['counters'] for row in rows if row['target'] == target))


def faults() -> list[str]:
    """What the daemon that runs now has told at error level."""
    invocation = f'_SYSTEMD_INVOCATION_ID={show("sockaccel.service", "InvocationID")}'
    return [line['MESSAGE'] for line in journal(invocation, 'PRIORITY=3')]


def test_units_in_a_network_namespace_with_a_name(sockaccel: None) -> None:
    """Both ways, and after restarts of both."""
    with (
        network('sa-led') as where,
        service(
            'sa-proxy.service', f'[Service]\nType=notify\n{where}{python("proxy", f"{OUTBOUND} {INBOUND}")}'
        ) as proxy,
        service('sa-app.service', f'[Service]\nType=notify\n{where}{python("echo", str(APP))}') as app,
    ):
        run('systemctl', 'start', proxy, app)
        run('sockaccelctl', 'intercept', app, '--proxy', proxy, '--inbound', f'{APP}={INBOUND}')
        assert asked('127.0.0.1', APP, inside='sa-led') == f'proxy: 127.0.0.1:{APP}'
        assert asked(ELSEWHERE, 80, unit=app, inside='sa-led') == f'proxy: {ELSEWHERE}:80'
        # Its own listener, which it reaches by itself.
        assert asked('127.0.0.1', APP, unit=app, inside='sa-led') == 'echo'
        run('systemctl', 'restart', app)
        assert faults() == []
        run('systemctl', 'restart', 'sockaccel.service')
        assert asked('127.0.0.1', APP, inside='sa-led') == f'proxy: 127.0.0.1:{APP}'
        assert asked(ELSEWHERE, 80, unit=app, inside='sa-led') == f'proxy: {ELSEWHERE}:80'
        run('sockaccelctl', 'release', app)
        assert asked('127.0.0.1', APP, inside='sa-led') == 'echo'
        assert faults() == []


def test_a_unit_whose_network_namespace_has_no_name(sockaccel: None) -> None:
    """To open that of a process takes rights which the daemon has not got: the reason says so, and what to do."""
    text = f'[Service]\nType=notify\nPrivateNetwork=yes\n{python("echo", str(APP))}'
    with (
        service('sa-proxy.service', f'[Service]\nType=notify\n{python("proxy", str(INBOUND))}') as proxy,
        service('sa-app.service', text) as app,
    ):
        run('systemctl', 'start', proxy, app)
        refused = attempt('sockaccelctl', 'intercept', app, '--proxy', proxy, '--inbound', f'{APP}={INBOUND}')
        assert refused.returncode == 1
        assert 'no file which sockaccel may open names' in refused.stderr
        assert json.loads(run('sockaccelctl', 'intercept', '--json')) == []


def test_a_target_whose_socket_systemd_has_opened(sockaccel: None) -> None:
    """The proxy gets the connections, and the service is not even started until the proxy connects to it."""
    proxying = f'[Service]\nType=notify\n{python("proxy", str(INBOUND))}'
    with (
        service('sa-proxy.service', proxying) as proxy,
        service('sa-lazy.service', f'[Service]\nType=notify\n{python("echo")}') as lazy,
        service('sa-lazy.socket', f'[Socket]\nListenStream=127.0.0.1:{APP}\n') as lazy_socket,
    ):
        run('systemctl', 'start', proxy, lazy_socket)
        options = ('--inbound', f'{APP}={INBOUND}', '--outbound', '0')
        run('sockaccelctl', 'intercept', lazy, '--proxy', proxy, *options)
        assert asked('127.0.0.1', APP) == f'proxy: 127.0.0.1:{APP}'
        assert show(lazy, 'ActiveState') == 'inactive'
        assert asked('127.0.0.1', APP, unit=proxy) == 'echo'
        assert show(lazy, 'ActiveState') == 'active'
        # It listens by the same socket.
        assert asked('127.0.0.1', APP) == f'proxy: 127.0.0.1:{APP}'
        assert counters(lazy)['led_in'] == 2
        run('systemctl', 'stop', proxy)
        refused = attempt(sys.executable, '-c', _ASKS, '127.0.0.1', str(APP))
        assert 'ConnectionRefusedError' in refused.stderr
        wait_until(lambda: any(f'does not listen on port {INBOUND}' in fault for fault in faults()), 'it is told')
        run('sockaccelctl', 'release', lazy)
        assert asked('127.0.0.1', APP) == 'echo'


def test_a_section_of_the_configuration(sockaccel: None) -> None:
    """Led at the start of the daemon, and no more once no file says so."""
    proxying = f'[Service]\nType=notify\n{python("proxy", f"{OUTBOUND} {INBOUND}")}'
    with (
        service('sa-proxy.service', proxying) as proxy,
        system.echo('sa-app.service', APP) as app,
    ):
        run('systemctl', 'start', proxy)
        before = system.DROP_IN.read_text()
        section = f'[Target {app}]\nInterceptProxy={proxy}\nInterceptInbound={APP}={INBOUND}\n'
        system.DROP_IN.write_text(before + section)
        run('systemctl', 'reload', 'sockaccel.service')
        wait_until(lambda: asked('127.0.0.1', APP) == f'proxy: 127.0.0.1:{APP}', 'the reload is done')
        system.DROP_IN.write_text(before)
        run('systemctl', 'reload', 'sockaccel.service')
        wait_until(lambda: asked('127.0.0.1', APP) == 'echo', 'the reload is done')
