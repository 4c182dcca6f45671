# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to a target that are led to its proxy, next to netfilter's REDIRECT in the same run."""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sockaccel.ctl.client import Refused, short, string, strings
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.led import (
    HOST,
    HOST6,
    INBOUND,
    INSIDE,
    OTHER,
    OTHER6,
    OUTBOUND,
    Entered,
    Place,
    counters,
    entered,
    error_of,
    named,
    original,
    place,
)
from tests.support.led_traffic import Traffic, fewer, serving
from tests.support.patience import PATIENCE_S

MSG_FASTOPEN, TCP_FASTOPEN = 0x20000000, 23
# linux/mptcp.h
MPTCP, SOL_MPTCP, MPTCP_INFO, MPTCP_FALLBACK = 262, 284, 1, 1
LED = f'{INSIDE}={INBOUND}'


@pytest.fixture(scope='module')
def cgroups(lead_root: Cgroup, lead_daemon: Daemon) -> tuple[Cgroup, Cgroup]:
    """Those of a target and its proxy. The daemon has loaded its programs for them, and keeps them."""
    app, proxy = Cgroup('app', lead_root), Cgroup('proxy', lead_root)
    with leading(app, proxy):
        pass
    return app, proxy


@pytest.fixture(scope='module')
def redirected(lead_root: Cgroup, lead_daemon: Daemon) -> Iterator[Entered]:
    """Cgroups of its own, which no interception concerns."""
    with entered(Cgroup('plain-app', lead_root), Cgroup('plain-proxy', lead_root), netfilter=True) as made:
        yield made


@pytest.fixture
def led(cgroups: tuple[Cgroup, Cgroup]) -> Iterator[Entered]:
    """A target, connections to which are led to a proxy while the test runs."""
    app, proxy = cgroups
    with entered(app, proxy) as made, named(made), leading(app, proxy):
        yield made


def intercept(app: Cgroup, proxy: Cgroup, **options: Any) -> dict[str, Any]:
    chosen = {'inbound': strings([LED]), **options}
    return dict(harness.call('Intercept', 'ssa{sv}', app.path, proxy.path, chosen))


@contextlib.contextmanager
def leading(app: Cgroup, proxy: Cgroup, **options: Any) -> Iterator[None]:
    """While it lasts; what it ends with may have released the target already."""
    intercept(app, proxy, **options)
    try:
        yield
    finally:
        with contextlib.suppress(Refused):
            harness.call('Release', 's', app.path)


def has_come(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    return bool(select.select([listener], [], [], 0)[0])


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
            'source': accepted.getpeername()[0],
            'original': original(accepted),
            'passed': passed + client.recv(4),
            'same port': client.getsockname()[1] == accepted.getpeername()[1],
        }


Row = Callable[[Entered], dict[str, Any]]


def plain(where: Entered, address: str = OTHER, at: str = '0.0.0.0') -> dict[str, Any]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with (
        where.listener(address, INSIDE, of=where.app) as app,
        where.listener(at, INBOUND) as proxy,
        where.make_there(family) as client,
    ):
        client.connect((address, INSIDE))
        met = meet(proxy, client)
        return {**met, 'app': has_come(app)}


def ipv6(where: Entered) -> dict[str, Any]:
    return plain(where, OTHER6, '::')


def on_every_address(where: Entered) -> dict[str, Any]:
    """The target's listener, and one of the proxy for both families."""
    found = {}
    with (
        where.listener('::', INSIDE, of=where.app, dual=True) as app,
        where.listener('::', INBOUND, dual=True) as proxy,
    ):
        for family, address in ((socket.AF_INET, OTHER), (socket.AF_INET6, OTHER6)):
            with where.make_there(family) as client:
                client.connect((address, INSIDE))
                found[address] = {**meet(proxy, client), 'app': has_come(app)}
    return found


def another_port(where: Entered) -> dict[str, Any]:
    with (
        where.listener(OTHER, INSIDE + 1, of=where.app) as app,
        where.listener('0.0.0.0', INBOUND) as proxy,
        where.make_there() as client,
    ):
        client.connect((OTHER, INSIDE + 1))
        accepted, source = app.accept()
        accepted.close()
        return {'proxy': has_come(proxy), 'source': source[0]}


def non_blocking(where: Entered) -> dict[str, Any]:
    with (
        where.listener(OTHER, INSIDE, of=where.app),
        where.listener('0.0.0.0', INBOUND) as proxy,
        where.make_there() as client,
    ):
        client.setblocking(False)
        first = errno.errorcode[client.connect_ex((OTHER, INSIDE))]
        assert select.select([], [client], [], PATIENCE_S)[1]
        second = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return {'first': first, 'second': second, **meet(proxy, client)}


def fast_open(where: Entered) -> dict[str, Any]:
    found = {}
    with where.listener(OTHER, INSIDE, of=where.app), where.listener('0.0.0.0', INBOUND) as proxy:
        proxy.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)
        # The first brings the cookie, the second sends its bytes in the SYN.
        for turn in ('first', 'second'):
            with where.make_there() as client:
                # With a time limit the first one would say EINPROGRESS.
                client.settimeout(None)
                client.sendto(b'hello', MSG_FASTOPEN, (OTHER, INSIDE))
                accepted, _address = proxy.accept()
                with accepted:
                    found[turn] = accepted.recv(5), client.getpeername(), original(accepted)
                    accepted.send(b'hello')
                    client.recv(5)
    return found


def proxy_down(where: Entered) -> dict[str, Any]:
    """Nobody listens at the proxy's port, and the target could take the connection."""
    with where.listener(OTHER, INSIDE, of=where.app) as app, where.make_there() as client:
        error = error_of(lambda: client.connect((OTHER, INSIDE)))
        return {'error': error, 'app': has_come(app)}


def target_has_stopped_listening(where: Entered) -> dict[str, Any]:
    """It is the proxy that finds out."""
    where.listener(OTHER, INSIDE, of=where.app).close()
    with where.listener('0.0.0.0', INBOUND) as proxy, where.make_there() as client:
        client.connect((OTHER, INSIDE))
        return meet(proxy, client)


def proxy_to_target(where: Entered) -> dict[str, Any]:
    """The proxy's own connection is not led again, by any address."""
    found = {}
    with where.listener('0.0.0.0', INSIDE, of=where.app) as app, where.listener('0.0.0.0', INBOUND) as proxy:
        for address in ('127.0.0.1', OTHER):
            with where.make(of=where.proxy) as client:
                client.connect((address, INSIDE))
                accepted, _source = app.accept()
                accepted.close()
                found[address] = has_come(proxy), client.getpeername()
    return found


def target_to_itself(where: Entered) -> dict[str, Any]:
    with (
        where.listener('0.0.0.0', INSIDE, of=where.app) as app,
        where.listener('0.0.0.0', INBOUND) as proxy,
        where.make() as client,
    ):
        client.connect(('127.0.0.1', INSIDE))
        app.accept()[0].close()
        return {'proxy': has_come(proxy), 'peer': client.getpeername()}


def multipath(where: Entered) -> dict[str, Any]:
    """A client and a target of Multipath TCP, with a proxy that knows nothing of it: it falls back to TCP."""
    with (
        multipath_listener(where, OTHER, INSIDE, where.app) as app,
        where.listener('0.0.0.0', INBOUND) as proxy,
        where.make_there(protocol=MPTCP) as client,
    ):
        client.connect((OTHER, INSIDE))
        met = meet(proxy, client)
        return {**met, 'app': has_come(app), 'fell back': fell_back(client)}


def multipath_listener(where: Entered, address: str, port: int, of: Cgroup) -> socket.socket:
    made = where.make(protocol=MPTCP, of=of)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen()
    made.settimeout(PATIENCE_S)
    return made


def fell_back(client: socket.socket) -> bool:
    """Whether a connection of Multipath TCP is one of TCP."""
    try:
        answer = client.getsockopt(SOL_MPTCP, MPTCP_INFO, 64)
    except OSError:
        return True
    return bool(struct.unpack_from('=I', answer, 8)[0] & MPTCP_FALLBACK)


ROWS = [
    plain, ipv6, on_every_address, another_port, non_blocking, fast_open, proxy_down, target_has_stopped_listening,
    proxy_to_target, target_to_itself, multipath,
]  # fmt: skip


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.__name__)
def test_as_netfilter_does(row: Row, redirected: Entered, led: Entered) -> None:
    assert row(led) == row(redirected)


def test_own_name_of_the_proxys_socket(redirected: Entered, led: Entered) -> None:
    """A difference (docs/sidecar.md): nothing is translated, so the proxy's socket has the target's address."""
    own = {}
    for where in (led, redirected):
        with (
            where.listener(OTHER, INSIDE, of=where.app),
            where.listener('0.0.0.0', INBOUND) as proxy,
            where.make_there() as client,
        ):
            client.connect((OTHER, INSIDE))
            accepted, _source = proxy.accept()
            with accepted:
                own[where] = accepted.getsockname()
    assert own == {led: (OTHER, INSIDE), redirected: (OTHER, INBOUND)}


def test_a_proxy_on_loopback(redirected: Entered, led: Entered) -> None:
    """A difference: REDIRECT needs a listener on the interface that the connection comes from."""
    found = {}
    for where in (led, redirected):
        with (
            where.listener(OTHER, INSIDE, of=where.app),
            where.listener('127.0.0.1', INBOUND),
            where.make_there() as client,
        ):
            found[where] = error_of(partial(client.connect, (OTHER, INSIDE)))
    assert found == {led: '', redirected: 'ECONNREFUSED'}


def test_a_proxy_of_multipath_tcp(redirected: Entered, led: Entered) -> None:
    """A difference: the kernel lets no such listener into a sockmap, so it is as good as none."""
    found = {}
    for where in (led, redirected):
        with (
            where.listener(OTHER, INSIDE, of=where.app),
            multipath_listener(where, '0.0.0.0', INBOUND, where.proxy),
            where.make_there() as client,
        ):
            found[where] = error_of(partial(client.connect, (OTHER, INSIDE)))
    assert found == {led: 'ECONNREFUSED', redirected: ''}


def test_sockets_made_elsewhere(redirected: Entered, led: Entered, lead_root: Cgroup) -> None:
    """A difference: the cgroup in which a listener was made counts, but for what systemd opens for the target."""
    outside = Cgroup('outside', lead_root)
    goes_direct, proxy_takes = {}, {}
    for where in (led, redirected):
        with (
            where.listener(OTHER, INSIDE, of=outside) as app,
            where.listener('0.0.0.0', INBOUND) as proxy,
            where.make_there() as client,
        ):
            client.connect((OTHER, INSIDE))
            (reached,), _write, _error = select.select([app, proxy], [], [], PATIENCE_S)
            goes_direct[where] = reached is app
        with (
            where.listener(OTHER, INSIDE, of=where.app),
            where.listener('0.0.0.0', INBOUND, of=outside),
            where.make_there() as client,
        ):
            proxy_takes[where] = error_of(partial(client.connect, (OTHER, INSIDE)))
    assert goes_direct == {led: True, redirected: False}
    assert proxy_takes == {led: 'ECONNREFUSED', redirected: ''}
    outside.remove()


def test_what_is_counted(led: Entered) -> None:
    for _turn in range(5):
        plain(led)
    proxy_down(led)
    told = counters(led.app)
    assert (told['led_in'], told['origin_given'], told['proxy_down_in'], told['led']) == (5, 5, 1, 0)
    assert told['no_room'] == told['bypassed_in'] == told['unreached'] == 0


def test_connections_of_the_same_host(led: Entered, lead_root: Cgroup) -> None:
    """Those of others are led, by loopback too; what listens beside the target at that port is none of its."""
    stranger = Cgroup('stranger', lead_root)
    with (
        led.listener('127.0.0.1', INSIDE, of=led.app) as app,
        led.listener(OTHER, INSIDE, of=stranger) as beside,
        led.listener('127.0.0.1', INBOUND) as proxy,
    ):
        with led.make(of=stranger) as client:
            client.connect(('127.0.0.1', INSIDE))
            assert meet(proxy, client)['original'] == ('127.0.0.1', INSIDE)
        with led.make(of=stranger) as client:
            client.connect((OTHER, INSIDE))
            beside.accept()[0].close()
        assert not has_come(proxy)
        assert not has_come(app)
    stranger.remove()


def test_a_target_that_is_led_out_meets_one_that_is_led_in(
    led: Entered, lead_root: Cgroup, lead_daemon: Daemon
) -> None:
    """By the proxies of both, which are different."""
    caller, outer = Cgroup('caller', lead_root), Cgroup('outer', lead_root)
    harness.call('Intercept', 'ssa{sv}', caller.path, outer.path, {})
    with (
        led.listener('127.0.0.1', INSIDE, of=led.app) as app,
        led.listener('127.0.0.1', INBOUND) as inner_proxy,
        led.listener('127.0.0.1', OUTBOUND, of=outer) as outer_proxy,
        led.make(of=caller) as first,
        led.make(of=outer) as second,
        led.make(of=led.proxy) as third,
    ):
        for client, listener in ((first, outer_proxy), (second, inner_proxy), (third, app)):
            client.connect(('127.0.0.1', INSIDE))
            met = meet(listener, client)
            assert met['peer'] == ('127.0.0.1', INSIDE)
            if listener is not app:
                assert met['original'] == ('127.0.0.1', INSIDE)
    harness.call('Release', 's', caller.path)
    for cgroup in (caller, outer):
        cgroup.remove()


def test_listeners_that_are_older(cgroups: tuple[Cgroup, Cgroup]) -> None:
    app, proxy = cgroups
    with (
        entered(app, proxy) as where,
        named(where),
        where.listener(OTHER, INSIDE, of=app) as old,
        where.listener('0.0.0.0', INBOUND) as taker,
        leading(app, proxy),
    ):
        with where.make_there() as client:
            client.connect((OTHER, INSIDE))
            assert meet(taker, client)['original'] == (OTHER, INSIDE)
        assert not has_come(old)
        harness.call('Release', 's', app.path)
        with where.make_there() as client:
            client.connect((OTHER, INSIDE))
            old.accept()[0].close()


def test_a_namespace_that_cannot_be_opened(cgroups: tuple[Cgroup, Cgroup], lead_daemon: Daemon) -> None:
    """No connection reaches the target past its proxy; with "bypass" they do, and the journal says so."""
    app, proxy = cgroups
    with entered(app, proxy) as where:
        with (
            where.listener(OTHER, INSIDE, of=app),
            pytest.raises(Refused, match='no file which sockaccel may open names') as raised,
        ):
            intercept(app, proxy)
        assert raised.value.name == 'org.sockaccel1.Error.KernelRefused'
        assert not harness.call('ListInterceptions')
        with leading(app, proxy):
            assert error_of(lambda: where.listener(OTHER, INSIDE, of=app)) == 'EPERM'
            harness.wait_until(lambda: 'its bind() fails' in lead_daemon.log_text, 'the journal says so')
            where.listener(OTHER, INSIDE + 1, of=app).close()
            where.listener(OTHER, INSIDE, of=proxy).close()
            assert counters(app)['unreached'] == 1
        with (
            leading(app, proxy, when_down=string('bypass')),
            where.listener(OTHER, INSIDE, of=app) as passed,
            where.make_there() as client,
        ):
            client.connect((OTHER, INSIDE))
            passed.accept()[0].close()


def test_a_namespace_that_gets_its_name_later(cgroups: tuple[Cgroup, Cgroup]) -> None:
    """And one that is gone has given its number back."""
    app, proxy = cgroups
    with place(app, proxy) as first, named(first), leading(app, proxy):
        for _turn in range(3):
            with entered(app, proxy) as where, named(where):

                def may_bind(where: Place = where) -> bool:
                    return not error_of(lambda: where.listener(OTHER, INSIDE, of=app).close())

                harness.wait_until(may_bind, 'the daemon has entered the namespace')
                assert plain(where)['original'] == (OTHER, INSIDE)


def test_bypass(led: Entered, lead_daemon: Daemon) -> None:
    intercept(led.app, led.proxy, when_down=string('bypass'))
    with led.listener(OTHER, INSIDE, of=led.app) as app, led.make_there() as client:
        client.connect((OTHER, INSIDE))
        app.accept()[0].close()
    assert counters(led.app)['bypassed_in'] == 1
    words = f'does not listen on port {INBOUND}: connections pass it by'
    harness.wait_until(lambda: words in lead_daemon.log_text, 'the journal says so')


def test_the_journal_says_once_that_the_proxy_is_down(led: Entered, lead_daemon: Daemon) -> None:
    def lines(words: str) -> int:
        return sum(words in line and led.app.path in line for line in lead_daemon.log_text.splitlines())

    down, back = lines('connections are refused'), lines('listens again')
    for _turn in range(3):
        assert proxy_down(led)['error'] == 'ECONNREFUSED'
    for _turn in range(3):
        plain(led)
    harness.wait_until(lambda: lines('listens again') == back + 1, 'the journal says that it is back')
    assert lines('connections are refused') == down + 1


def test_a_proxy_with_several_listeners(led: Entered) -> None:
    """SO_REUSEPORT: while one of them is there connections are taken."""

    def listener() -> socket.socket:
        with led.proxy.inside():
            made = led.run(lambda: socket.socket())
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(('127.0.0.1', INBOUND))
        made.listen()
        made.settimeout(PATIENCE_S)
        return made

    with led.listener(OTHER, INSIDE, of=led.app), listener() as first:
        second = listener()
        seen = set()
        for _turn in range(1000):
            with led.make_there() as client:
                client.connect((OTHER, INSIDE))
                (ready, *_others), _write, _error = select.select([first, second], [], [], PATIENCE_S)
                assert meet(ready, client)['original'] == (OTHER, INSIDE)
            seen.add(ready)
            if len(seen) == 2:
                break
        assert len(seen) == 2
        second.close()
        with led.make_there() as client:
            client.connect((OTHER, INSIDE))
            assert meet(first, client)['original'] == (OTHER, INSIDE)


def test_a_proxy_inside_of_the_unit(cgroups: tuple[Cgroup, Cgroup]) -> None:
    """It is told from the target by its user alone, and its connections to the target pass."""
    app, _proxy = cgroups
    options = {'outbound': short(0), 'except_users': strings(['0'])}
    with entered(app, app) as where, named(where), leading(app, app, **options):
        assert plain(where)['original'] == (OTHER, INSIDE)
        assert proxy_to_target(where)[OTHER] == (False, (OTHER, INSIDE))
        assert counters(app)['led_in'] == 1
        with where.make() as client:
            # outbound=0: what the target connects to is not led.
            assert error_of(lambda: client.connect((HOST, 9))) == 'ECONNREFUSED'


def test_a_unit_that_starts_anew_is_led_from_its_first_connection(led: Entered, lead_daemon: Daemon) -> None:
    """Its cgroup is another one, and the daemon, which would learn of that, is stopped."""
    lead_daemon.process.send_signal(signal.SIGSTOP)
    try:
        led.app.remove()
        led.app.directory.mkdir()
        assert plain(led)['original'] == (OTHER, INSIDE)
    finally:
        lead_daemon.process.send_signal(signal.SIGCONT)


def test_what_cannot_be(led: Entered) -> None:
    for given, said in (
        (['8080'], 'not a port of the target and one of the proxy'),
        (['8080=0'], 'inbound port 0 is not a number'),
        (['x=15006'], '"x=15006"'),
        (['8080=15006', '8080=15007'], 'names port 8080 twice'),
        (['8080=15006', '15006=9'], 'cannot be one of the target and of the proxy'),
        ([f'{port}=15006' for port in range(1, 18)], '16 ports'),
    ):
        with pytest.raises(Refused, match=said):
            intercept(led.app, led.proxy, inbound=strings(given))
    with pytest.raises(Refused, match='outbound port 0'):
        intercept(led.app, led.proxy, inbound=strings([]), outbound=short(0))
    # And nothing of all that has changed anything.
    assert plain(led)['original'] == (OTHER, INSIDE)
    assert plain(led)['source'] == HOST
    assert ipv6(led)['source'] == HOST6


def test_by_the_command_line(led: Entered) -> None:
    app, proxy = led.app.path, led.proxy.path
    answer = harness.control('intercept', app, '--proxy', proxy, '--inbound', LED, '--outbound', '0')
    assert answer.returncode == 0
    assert f'"{app}" is led to "{proxy}"' in ' '.join(answer.stdout.split())
    assert f'connections to its port {INSIDE}: to port {INBOUND}\nWhile' in answer.stdout
    assert 'they are refused' in answer.stdout
    assert 'connections that it makes' not in answer.stdout
    assert LED in harness.control('intercept').stdout
    assert LED in harness.control('status').stdout


def test_nothing_passes_the_proxy_while_daemons_come_and_go(tmp_path: Path) -> None:
    """Killed, restarted, and replaced by one with other code, or with other maps, while others connect."""
    upgrade, anew = tmp_path / 'upgrade', tmp_path / 'anew'
    for directory in (upgrade, anew):
        harness.copy_code(directory)
    with (upgrade / 'bpf/inbound.c').open('a') as source:
        source.write('\n/* Another version. */\n')
    maps = anew / 'bpf/lib/lead_maps.c'
    maps.write_text(maps.read_text().replace('sa_past_count, u64, 1', 'sa_past_count, u64, 2'))
    with PrivateBus(), Cgroup(f'sockaccel-in-going-{os.getpid()}') as root, FdStore() as store:
        app, proxy, outside = (Cgroup(name, root) for name in ('app', 'proxy', 'outside'))
        with contextlib.ExitStack() as stack:
            where = stack.enter_context(entered(app, proxy))
            stack.enter_context(named(where))
            daemon = Daemon(root.path, state=tmp_path, store=store)
            # The one that runs at the end, also if that is early.
            stack.callback(lambda: daemon.__exit__())
            daemon.ready()
            intercept(app, proxy)
            wanted = (OTHER, INSIDE)
            stack.enter_context(serving(where.listener('0.0.0.0', INBOUND), b'P', wanted=wanted))
            stack.enter_context(serving(where.listener(OTHER, INSIDE, of=app), b'D'))
            traffic = stack.enter_context(Traffic(where, OTHER, INSIDE, of=outside))
            for directory in (harness.ROOT, upgrade, harness.ROOT, anew):
                daemon.stop(signal.SIGKILL)
                daemon.close()
                traffic.goes_on('P', fewer(1000))
                daemon = Daemon(root.path, state=tmp_path, store=store, directory=directory)
                traffic.goes_on('P', fewer(1000))
                daemon.ready()
                traffic.goes_on('P', fewer(1000))
            assert traffic.told.keys() == {'P'}, traffic.told
            assert traffic.told['P'] >= fewer(10_000)
            harness.call('Release', 's', app.path)
            traffic.goes_on('D', 20)
            assert traffic.told.keys() == {'P', 'D'}
            daemon.heard()
            harness.wait_until(
                lambda: not [name for name in store.fds if name.startswith('lead-link')], 'nothing is attached'
            )


@contextlib.contextmanager
def alone(name: str) -> Iterator[tuple[Cgroup, FdStore, Entered]]:
    """Where a daemon is to be started: what it is confined to, its store, and what is to be led there."""
    with (
        PrivateBus(),
        Cgroup(f'sockaccel-in-{name}-{os.getpid()}') as root,
        FdStore() as store,
        entered(Cgroup('app', root), Cgroup('proxy', root)) as where,
        named(where),
    ):
        yield root, store, where


def test_what_was_accepted_before_an_upgrade_with_other_maps(tmp_path: Path) -> None:
    """They know nothing of it. What came in has its own address; where the target was going nobody knows."""
    anew = tmp_path / 'anew'
    harness.copy_code(anew)
    maps = anew / 'bpf/lib/lead_maps.c'
    maps.write_text(maps.read_text().replace('sa_past_count, u64, 1', 'sa_past_count, u64, 2'))
    with alone('anew') as (root, store, where):
        with Daemon(root.path, state=tmp_path, store=store) as first:
            first.ready()
            intercept(where.app, where.proxy)
            app = where.listener(OTHER, INSIDE, of=where.app)
            doors = where.listener('0.0.0.0', INBOUND), where.listener('127.0.0.1', OUTBOUND)
            clients = where.make_there(), where.make()
            for client, port in zip(clients, (INSIDE, INSIDE + 1), strict=True):
                client.connect((OTHER, port))
            came_in, went_out = (door.accept()[0] for door in doors)
            first.stop(signal.SIGKILL)
        with Daemon(root.path, state=tmp_path, store=store, directory=anew) as second:
            second.ready()
            assert original(came_in) == (OTHER, INSIDE)
            # As without any interception: which error it is depends on whether netfilter is loaded.
            assert original(went_out) in (os.strerror(errno.ENOPROTOOPT), os.strerror(errno.ENOENT))
            assert counters(where.app)['origin_given'] == 1
        for end in (app, *doors, *clients, came_in, went_out):
            end.close()


def test_by_a_file() -> None:
    """A section leads its target, a reload without it does no more, and nobody else can."""
    with alone('file') as (root, store, where):
        section = f'[Target {where.app.path}]\n'
        led = f'InterceptProxy={where.proxy.path}\nInterceptInbound={LED}\n'
        with Daemon(root.path, settings=section + led, store=store) as daemon:
            daemon.ready()
            (row,) = harness.call('ListInterceptions')
            assert (row['state'], row['inbound']) == ('active', [LED])
            assert str(daemon.config) in row['file']
            assert plain(where)['original'] == (OTHER, INSIDE)
            with pytest.raises(Refused, match='change it there and reload') as raised:
                harness.call('Release', 's', where.app.path)
            assert raised.value.name == 'org.sockaccel1.Error.ManagedByFile'
            daemon.configure(section)
            harness.call('Reload')
            assert not harness.call('ListInterceptions')
            with where.listener(OTHER, INSIDE, of=where.app) as app, where.make_there() as client:
                client.connect((OTHER, INSIDE))
                app.accept()[0].close()


def test_a_stop_leads_no_more_and_the_next_start_does(tmp_path: Path) -> None:
    """Nothing of it is left meanwhile, neither in the store nor in the network namespace."""
    with alone('stopped') as (root, store, where):
        with Daemon(root.path, state=tmp_path, store=store) as first:
            first.ready()
            intercept(where.app, where.proxy)
            before = harness.call('ListInterceptions')
            assert plain(where)['original'] == (OTHER, INSIDE)
            assert where.inode() in attached()
        assert not [name for name in store.fds if name.startswith('lead-')]
        assert where.inode() not in attached()
        with (
            where.listener(OTHER, INSIDE, of=where.app) as app,
            where.listener('0.0.0.0', INBOUND),
            where.make_there() as client,
        ):
            client.connect((OTHER, INSIDE))
            app.accept()[0].close()
            with Daemon(root.path, state=tmp_path, store=store) as second:
                second.ready()
                rows = harness.call('ListInterceptions')
                assert [{**row, 'counters': {}} for row in rows] == [{**row, 'counters': {}} for row in before]
                # The listener that was bound meanwhile has its entrance.
                with where.make_there() as late:
                    late.connect((OTHER, INSIDE))
                    assert not has_come(app)


def attached() -> set[int]:
    """The network namespaces to which programs are attached that choose listeners, by inode number."""
    printed = subprocess.run(['bpftool', '-j', 'link', 'show'], check=True, stdout=subprocess.PIPE).stdout
    return {link['netns_ino'] for link in json.loads(printed) if link['type'] == 'netns'}
