# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that are led to a proxy, next to netfilter's REDIRECT, which does the same in the same run."""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sockaccel.ctl.client import Refused, short, string, strings
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.led import (
    ADDRESS,
    ADDRESS6,
    BEHIND,
    NOWHERE,
    NOWHERE6,
    OTHER,
    OUTBOUND,
    PORT,
    Place,
    counters,
    error_of,
    foreign_connect,
    original,
    place,
)
from tests.support.led_traffic import Traffic, fewer, serving
from tests.support.patience import PATIENCE_S

WANTED = (ADDRESS, PORT)
MPTCP = 262
MSG_FASTOPEN, TCP_FASTOPEN = 0x20000000, 23


@pytest.fixture(scope='module')
def cgroups(lead_root: Cgroup, lead_daemon: Daemon) -> tuple[Cgroup, Cgroup]:
    """Those of a target and its proxy. The daemon has loaded its programs for them, and keeps them."""
    app, proxy = Cgroup('app', lead_root), Cgroup('proxy', lead_root)
    intercept(app, proxy)
    harness.call('Release', 's', app.path)
    return app, proxy


@pytest.fixture(scope='module')
def redirected(lead_root: Cgroup, lead_daemon: Daemon) -> Iterator[Place]:
    """Cgroups of its own, which no interception concerns."""
    with place(Cgroup('plain-app', lead_root), Cgroup('plain-proxy', lead_root), netfilter=True) as made:
        yield made


@pytest.fixture
def led(cgroups: tuple[Cgroup, Cgroup]) -> Iterator[Place]:
    """A target that is led to a proxy while the test runs."""
    app, proxy = cgroups
    with place(app, proxy) as made:
        intercept(app, proxy)
        yield made
    with contextlib.suppress(Refused):
        harness.call('Release', 's', app.path)


def intercept(app: Cgroup, proxy: Cgroup, **options: Any) -> dict[str, Any]:
    return dict(harness.call('Intercept', 'ssa{sv}', app.path, proxy.path, options))


def meet(listener: socket.socket, client: socket.socket) -> dict[str, Any]:
    """Take what a client has just connected; what both ends see, and whether bytes pass."""
    accepted, _address = listener.accept()
    with accepted:
        client.setblocking(True)
        client.settimeout(PATIENCE_S)
        client.send(b'ping')
        passed = accepted.recv(4)
        accepted.send(b'pong')
        return {
            'peer': client.getpeername()[:2],
            'original': original(accepted),
            'passed': passed + client.recv(4),
            'same port': client.getsockname()[1] == accepted.getpeername()[1],
        }


Row = Callable[[Place], dict[str, Any]]


def plain(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make() as client:
        client.connect(WANTED)
        return meet(listener, client)


def ipv6(where: Place) -> dict[str, Any]:
    with where.listener('::1') as listener, where.make(socket.AF_INET6) as client:
        client.connect((ADDRESS6, PORT))
        return meet(listener, client)


def mapped(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make(socket.AF_INET6) as client:
        client.connect((f'::ffff:{ADDRESS}', PORT))
        return meet(listener, client)


def one_listener_for_both(where: Place) -> dict[str, Any]:
    found = {}
    with where.listener('::', dual=True) as listener:
        for family, address in ((socket.AF_INET, ADDRESS), (socket.AF_INET6, ADDRESS6)):
            with where.make(family) as client:
                client.connect((address, PORT))
                found[address] = meet(listener, client)
    return found


def non_blocking(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make() as client:
        client.setblocking(False)
        first = errno.errorcode[client.connect_ex(WANTED)]
        assert select.select([], [client], [], PATIENCE_S)[1]
        second = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return {'first': first, 'second': second, **meet(listener, client)}


def connected_again(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make() as client:
        client.connect(WANTED)
        again = error_of(lambda: client.connect(WANTED))
        return {'again': again, **meet(listener, client)}


def reconnected(where: Place) -> dict[str, Any]:
    """Disconnected by AF_UNSPEC, then connected to the proxy itself: the first destination is forgotten."""
    with where.listener() as listener, where.make() as client:
        client.connect(WANTED)
        first = meet(listener, client)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.connect(client.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) == 0
        client.connect(('127.0.0.1', OUTBOUND))
        second = meet(listener, client)
        return {'first': first, 'second peer': second['peer'], 'passed': second['passed']}


def fast_open(where: Place) -> dict[str, Any]:
    found = {}
    with where.listener() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)
        # The first brings the cookie, the second sends its bytes in the SYN.
        for turn in ('first', 'second'):
            with where.make() as client:
                client.sendto(b'hello', MSG_FASTOPEN, WANTED)
                accepted, _address = listener.accept()
                with accepted:
                    said = accepted.recv(5)
                    found[turn] = said, client.getpeername(), original(accepted)
                    accepted.send(b'hello')
                    client.recv(5)
    return found


def bound(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make() as client:
        client.bind((OTHER, 0))
        client.connect(WANTED)
        return {'own': client.getsockname()[0], **meet(listener, client)}


def bound_to_loopback_device(where: Place) -> dict[str, Any]:
    with where.listener() as listener, where.make() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo\0')
        client.connect(WANTED)
        return meet(listener, client)


def bound_to_another_device(where: Place) -> dict[str, Any]:
    """There is no way to the proxy by this device: as TCP, both wait for an answer that never comes."""
    found = {}
    for address in (ADDRESS, BEHIND):
        with where.listener(), where.make() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'd0\0')
            client.setblocking(False)
            found[address] = error_of(partial(client.connect, (address, PORT)))
    return found


def broadcast_and_multicast(where: Place) -> dict[str, Any]:
    found = {}
    with where.listener():
        for address in ('255.255.255.255', '224.0.0.1'):
            with where.make() as client:
                found[address] = error_of(partial(client.connect, (address, PORT)))
    return found


def port_of_nobody(where: Place) -> dict[str, Any]:
    """A proxy that does not listen."""
    with where.make() as client:
        return {'error': error_of(lambda: client.connect(WANTED))}


def rewritten_below(where: Place) -> dict[str, Any]:
    """A program of somebody else on the target's cgroup runs before ours, and before netfilter's rules."""
    with foreign_connect(where.app, 6999, PORT), where.listener() as listener, where.make() as client:
        client.connect((ADDRESS, 6999))
        return meet(listener, client)


ROWS = [
    plain, ipv6, mapped, one_listener_for_both, non_blocking, connected_again, reconnected, fast_open, bound,
    bound_to_loopback_device, bound_to_another_device, broadcast_and_multicast, port_of_nobody, rewritten_below,
]  # fmt: skip


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.__name__)
def test_as_netfilter_does(row: Row, redirected: Place, led: Place) -> None:
    assert row(led) == row(redirected)


def test_a_destination_is_given_once_and_nothing_stays(led: Place) -> None:
    before = counters(led.app)
    for _turn in range(20):
        assert plain(led)['original'] == WANTED
    after = counters(led.app)
    assert after['led'] - before['led'] == after['origin_given'] - before['origin_given'] == 20
    harness.call('Release', 's', led.app.path)
    # What waits for its proxy would keep the programs attached.
    assert not [name for name in harness.call('ListInterceptions') if name['target'] == led.app.path]


def test_own_name_of_a_led_socket(redirected: Place, led: Place) -> None:
    """A difference (docs/sidecar.md): the route to the proxy chooses the source, and no other one is known."""
    own = {}
    for where in (led, redirected):
        with where.listener() as listener, where.make() as client:
            client.connect((BEHIND, PORT))
            own[where] = client.getsockname()[0]
            listener.accept()[0].close()
    assert own == {led: '127.0.0.1', redirected: OTHER}


def test_without_blocking_while_the_proxy_is_down(redirected: Place, led: Place) -> None:
    """A difference: the refusal needs no SYN, so connect() itself tells of it."""
    first = {}
    for where in (led, redirected):
        with where.make() as client:
            client.setblocking(False)
            first[where] = error_of(partial(client.connect, WANTED))
    assert first == {led: 'ECONNREFUSED', redirected: 'EINPROGRESS'}


def test_without_a_route(redirected: Place, led: Place) -> None:
    """A difference: the route is looked for to the proxy. It is the proxy that finds out, as nobody else does."""
    for family, address in ((socket.AF_INET, NOWHERE), (socket.AF_INET6, NOWHERE6)):
        wanted, found = (address, PORT), {}
        for where in (led, redirected):
            with where.listener(), where.listener('::1'), where.make(family) as client:
                found[where] = error_of(partial(client.connect, wanted))
        assert found == {led: '', redirected: 'ENETUNREACH'}
        with led.make(family, of=led.proxy) as of_proxy:
            assert error_of(partial(of_proxy.connect, wanted)) == 'ENETUNREACH'


def test_a_program_above_sees_the_proxy(redirected: Place, led: Place, lead_above: Cgroup) -> None:
    """A difference: netfilter's rules run after every program, and see what the last one has made of it."""
    found = {}
    for where in (led, redirected):
        for port in (PORT, OUTBOUND):
            with foreign_connect(lead_above, port, 9), where.listener() as listener, where.make() as client:
                error = error_of(partial(client.connect, WANTED))
                found[where, port] = error or meet(listener, client)['original']
    assert found == {
        (led, PORT): WANTED, (led, OUTBOUND): 'ECONNREFUSED',
        (redirected, PORT): 'ECONNREFUSED', (redirected, OUTBOUND): WANTED,
    }  # fmt: skip


def test_sockets_made_elsewhere(redirected: Place, led: Place, lead_root: Cgroup) -> None:
    """A difference: the cgroup in which a socket was made counts, as it does for every program on a cgroup.

    So it is with socket activation, whose sockets systemd makes.
    """
    outside = Cgroup('outside', lead_root)
    goes_direct, proxy_takes = {}, {}
    for where in (led, redirected):
        with where.listener(ADDRESS, PORT, of=outside) as served:
            # Made outside, used by the target.
            with where.make(of=outside) as client, where.listener() as listener:
                client.connect(WANTED)
                (reached,), _write, _error = select.select([served, listener], [], [], PATIENCE_S)
                goes_direct[where] = reached is served
                assert client.getpeername() == WANTED
            # The proxy's port is somebody else's, to whose getsockopt() there is no answer.
            with where.listener(of=outside), where.make() as client:
                proxy_takes[where] = error_of(partial(client.connect, WANTED))
    assert goes_direct == {led: True, redirected: False}
    assert proxy_takes == {led: 'ECONNREFUSED', redirected: ''}
    outside.remove()


def test_mptcp_and_udp_go_direct(led: Place, lead_root: Cgroup) -> None:
    outside = Cgroup('beside', lead_root)
    with led.listener(), led.listener(ADDRESS, PORT, of=outside) as served:
        try:
            client = led.make(protocol=MPTCP)
        except OSError:
            pytest.skip('this kernel has no Multipath TCP')
        with client:
            client.connect(WANTED)
            assert client.getpeername() == served.accept()[0].getsockname() == WANTED
        assert counters(led.app)['mptcp'] == 1
        with led.app.inside():
            datagrams = led.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with datagrams:
            datagrams.connect(WANTED)
            assert datagrams.getpeername() == WANTED
    outside.remove()


def test_the_targets_own_listener_is_direct(led: Place) -> None:
    for address in ('127.0.0.1', ADDRESS):
        with led.listener(), led.listener(address, PORT, of=led.app) as served, led.make() as client:
            client.connect((address, PORT))
            assert client.getpeername() == served.accept()[0].getsockname() == (address, PORT)
    assert counters(led.app)['own_listener'] == 2
    assert counters(led.app)['led'] == 0


def test_loopback_to_others_is_led(led: Place, lead_root: Cgroup) -> None:
    outside = Cgroup('other', lead_root)
    with led.listener() as listener, led.listener('127.0.0.1', PORT, of=outside), led.make() as client:
        client.connect(('127.0.0.1', PORT))
        assert meet(listener, client)['original'] == ('127.0.0.1', PORT)
    outside.remove()


def test_the_proxy_is_never_led(led: Place) -> None:
    with led.listener(), led.listener(ADDRESS, PORT, of=led.app) as served, led.make(of=led.proxy) as client:
        client.connect(WANTED)
        assert client.getpeername() == served.accept()[0].getsockname() == WANTED


def test_exceptions(led: Place, lead_root: Cgroup) -> None:
    outside = Cgroup('away', lead_root)
    for options, is_led in (
        ({'except_ports': strings([f'{PORT}'])}, False),
        ({'except_ports': strings(['1-6999', '7001-65535'])}, True),
        ({'except_addresses': strings(['10.77.0.0/16'])}, False),
        ({'except_addresses': strings(['10.78.0.0/16', 'fd77::/64'])}, True),
        ({'except_users': strings(['root'])}, False),
        ({'except_users': strings(['1-1000'])}, True),
    ):
        assert intercept(led.app, led.proxy, **options)['state'] == 'active'
        with led.listener() as listener, led.listener(ADDRESS, PORT, of=outside) as served, led.make() as client:
            client.connect(WANTED)
            (listener if is_led else served).accept()[0].close()
    assert counters(led.app)['excepted'] == counters(led.app)['led'] == 3
    outside.remove()


def test_bypass(led: Place, lead_root: Cgroup, lead_daemon: Daemon) -> None:
    outside = Cgroup('reached', lead_root)
    intercept(led.app, led.proxy, when_down=string('bypass'))
    with led.listener(ADDRESS, PORT, of=outside) as served, led.make() as client:
        client.connect(WANTED)
        assert served.accept()[0].getsockname() == WANTED
    assert counters(led.app)['bypassed'] == 1
    harness.wait_until(lambda: 'connections pass it by' in lead_daemon.log_text, 'the journal says so')
    outside.remove()


def test_the_journal_says_once_that_the_proxy_is_down_and_once_that_it_is_back(
    led: Place, lead_daemon: Daemon
) -> None:
    def lines(words: str) -> int:
        return sum(words in line and led.app.path in line for line in lead_daemon.log_text.splitlines())

    down, back = lines('connections are refused'), lines('listens again')
    for _turn in range(5):
        assert port_of_nobody(led)['error'] == 'ECONNREFUSED'
    for _turn in range(5):
        plain(led)
    harness.wait_until(lambda: lines('listens again') == back + 1, 'the journal says that it is back')
    assert lines('connections are refused') == down + 1
    assert counters(led.app)['proxy_down'] == 5


def test_a_unit_that_starts_anew_is_led_from_its_first_connection(led: Place, lead_daemon: Daemon) -> None:
    """Its cgroup is another one, and the daemon, which would learn of that, is stopped."""
    lead_daemon.process.send_signal(signal.SIGSTOP)
    try:
        led.app.remove()
        led.app.directory.mkdir()
        assert plain(led)['original'] == WANTED
    finally:
        lead_daemon.process.send_signal(signal.SIGCONT)


def test_a_proxy_that_starts_anew(led: Place) -> None:
    """Nothing passes it by meanwhile, and it is used again when its getsockopt() is answered."""
    led.proxy.remove()
    assert port_of_nobody(led)['error'] == 'ECONNREFUSED'
    led.proxy.directory.mkdir()
    with led.listener() as listener:

        def connects() -> bool:
            with led.make() as client:
                if error_of(lambda: client.connect(WANTED)) == 'ECONNREFUSED':
                    return False
                assert meet(listener, client)['original'] == WANTED
                return True

        harness.wait_until(connects, 'the new proxy takes connections')


def test_what_cannot_be(led: Place, lead_root: Cgroup) -> None:
    app, proxy = led.app, led.proxy
    for target, by, options, error, said in (
        ('*', proxy.path, {}, 'InvalidTarget', 'all of this host'),
        (app.path, '/', {}, 'InvalidTarget', 'all of this host'),
        (app.path, app.path, {}, 'InvalidArgument', 'its own proxy'),
        (f'{lead_root.path}/nowhere', proxy.path, {}, 'InvalidTarget', 'does not exist'),
        (proxy.path, app.path, {}, 'InvalidTarget', 'a proxy is never led itself'),
        (app.path, proxy.path, {'outbound': short(0)}, 'InvalidArgument', 'outbound port 0'),
        (app.path, proxy.path, {'when_down': string('x')}, 'InvalidArgument', '"refuse", "bypass"'),
        (app.path, proxy.path, {'except_ports': strings(['x'])}, 'InvalidArgument', '"x"'),
        (app.path, proxy.path, {'where': string('x')}, 'InvalidArgument', 'option "where" is unknown'),
    ):
        with pytest.raises(Refused, match=said) as raised:
            harness.call('Intercept', 'ssa{sv}', target, by, options)
        assert raised.value.name == f'org.sockaccel1.Error.{error}'
    with pytest.raises(Refused, match='are not led'):
        harness.call('Release', 's', f'{lead_root.path}/nowhere')
    # And nothing of all that has changed anything.
    assert plain(led)['original'] == WANTED


def test_by_the_command_line(led: Place) -> None:
    app, proxy = led.app.path, led.proxy.path
    answer = harness.control('intercept', app, '--proxy', proxy, '--except-port', '22', '--when-down', 'bypass')
    assert answer.returncode == 0
    assert f'"{app}" is led to "{proxy}"' in ' '.join(answer.stdout.split())
    assert f'connections that it makes: to port {OUTBOUND}\nWhile' in answer.stdout
    assert 'they go direct' in answer.stdout
    assert app in harness.control('intercept').stdout
    assert app in harness.control('status').stdout
    assert harness.control('intercept', app).returncode == 2
    answer = harness.control('release', app)
    assert answer.returncode == 0
    # The name of the cgroup decides where the line ends.
    assert 'go direct' in ' '.join(answer.stdout.split())
    assert harness.control('release', app).returncode == 1
    assert app not in harness.control('intercept').stdout


def test_connections_say_where_they_wanted_to_go(led: Place) -> None:
    """Those that are led, and no others; to whoever may see them."""
    harness.enable(led.app.path, *harness.every_issue())
    with led.listener() as listener, led.make() as client, led.make(of=led.proxy) as direct:
        client.connect(WANTED)
        accepted, _address = listener.accept()
        with accepted, led.listener(ADDRESS, PORT, of=led.app) as served:
            direct.connect(WANTED)
            served.accept()[0].close()
            rows, _total, _number = harness.call('ListConnections', 'a{sv}tt', {}, 0, 0)
            found = {(row['server_port'], row['origin_address'], row['origin_port']) for row in rows}
            assert found == {(OUTBOUND, *WANTED), (PORT, '', 0)}
            streamed = json.loads(harness.control('connections', '--json').stdout)
            assert {(row['server_port'], row['origin_address'], row['origin_port']) for row in streamed} == found
            assert f'for {ADDRESS}:{PORT}' in harness.control('connections').stdout
            answer = harness.control('why', f':{OUTBOUND}')
            assert f'the client wanted {ADDRESS}:{PORT}' in ' '.join(answer.stdout.split()), answer
    harness.call('Disable', 's', led.app.path)


def test_nothing_passes_the_proxy_while_daemons_come_and_go(tmp_path: Path) -> None:
    """Killed, restarted, and replaced by one with other code. The target could reach what it wants."""
    with PrivateBus(), Cgroup(f'sockaccel-going-{os.getpid()}') as root, FdStore() as store:
        app, proxy, outside = (Cgroup(name, root) for name in ('app', 'proxy', 'outside'))
        upgrade = tmp_path / 'upgrade'
        harness.copy_code(upgrade)
        with (upgrade / 'bpf/lead.c').open('a') as source:
            source.write('\n/* Another version. */\n')
        with contextlib.ExitStack() as stack:
            where = stack.enter_context(place(app, proxy))
            daemon = Daemon(root.path, state=tmp_path, store=store)
            # The one that runs at the end, also if that is early.
            stack.callback(lambda: daemon.__exit__())
            daemon.ready()
            intercept(app, proxy)
            stack.enter_context(serving(where.listener(), b'P', wanted=WANTED))
            stack.enter_context(serving(where.listener(ADDRESS, PORT, of=outside), b'D'))
            traffic = stack.enter_context(Traffic(where, ADDRESS, PORT, of=app))
            for directory in (harness.ROOT, upgrade, harness.ROOT):
                daemon.stop(signal.SIGKILL)
                daemon.close()
                traffic.goes_on('P', fewer(1000))
                daemon = Daemon(root.path, state=tmp_path, store=store, directory=directory)
                traffic.goes_on('P', fewer(1000))
                daemon.ready()
                traffic.goes_on('P', fewer(1500))
            told = traffic.told['P']
            assert counters(app)['led'] >= told >= fewer(10_000)
            assert traffic.told.keys() == {'P'}
            harness.call('Release', 's', app.path)
            traffic.goes_on('D', 20)
            assert traffic.told.keys() == {'P', 'D'}
            harness.wait_until(lambda: not _links(daemon, store), 'nothing is attached any more')


def _links(daemon: Daemon, store: FdStore) -> list[str]:
    daemon.heard()
    return [name for name in store.fds if name.startswith('lead-link')]


def test_a_stop_leads_no_more_and_the_next_start_does(tmp_path: Path) -> None:
    with PrivateBus(), Cgroup(f'sockaccel-stopped-{os.getpid()}') as root:
        app, proxy = Cgroup('app', root), Cgroup('proxy', root)
        with place(app, proxy) as where, FdStore() as store:
            with Daemon(root.path, state=tmp_path, store=store) as first:
                first.ready()
                intercept(app, proxy, outbound=short(OUTBOUND), except_users=strings(['nobody']))
                before = harness.call('ListInterceptions')
            assert not [name for name in store.fds if name.startswith('lead-')]
            with where.listener(), where.make() as client:
                assert error_of(lambda: client.connect(WANTED)) == 'ECONNREFUSED'
                assert error_of(lambda: client.connect(('127.0.0.1', OUTBOUND))) == ''
            with Daemon(root.path, state=tmp_path, store=store) as second:
                second.ready()
                assert harness.call('ListInterceptions') == before
                assert plain(where)['original'] == WANTED
