# SPDX-License-Identifier: GPL-2.0-or-later
"""An application that is led out by one Envoy, to one that is led in by another: docs/sidecar.md on both sides."""

import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sockaccel.ctl.client import short, strings
from tests.apps.test_intercept import HTTP, Server, echo, echoed, fetch
from tests.containers.web import BODY
from tests.support import harness
from tests.support.envoy import Envoy
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.led import INBOUND, OTHER, OUTBOUND, PORT, Entered, Place, counters, entered, named
from tests.support.led_traffic import Traffic, answering

# Says a byte to each client.
LETTERS = PORT + 1
CLIENT_UID = 61234
# Counts what the application itself sends out of its network namespace.
_RULES = f"""
table inet past {{
  chain output {{
    type filter hook output priority 0
    oifname "d1" meta skuid {CLIENT_UID} counter
  }}
}}
"""


class Mesh:
    """Both sides. inner: the server's, with its proxy; outer: the client's. Made by `mesh()`."""

    def __init__(self, inner: Entered, outer: Place, directory: Path) -> None:
        self.inner = inner
        self.outer = outer
        self.envoys: list[Envoy] = []
        for where, listener, port in ((inner, 'inbound', INBOUND), (outer, 'outbound', OUTBOUND)):
            own = directory / listener
            own.mkdir()
            self.envoys.append(Envoy(where, own, listener, port))


def letters(where: Entered) -> contextlib.AbstractContextManager[None]:
    """Says P to what comes from this side of the network, as from the proxy, and D to all else."""
    listener = where.listener('0.0.0.0', LETTERS, of=where.app)
    return answering(listener, lambda _accepted, address: b'P' if address == OTHER else b'D')


@contextlib.contextmanager
def serving(where: Entered) -> Iterator[None]:
    web = Server(where.listener(OTHER, HTTP, of=where.app))
    echoing = where.listener(OTHER, PORT, of=where.app)
    echoing.settimeout(None)
    threads = [threading.Thread(target=web.serve_forever), threading.Thread(target=echo, args=(echoing,))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        web.shutdown()
        web.server_close()
        echoing.shutdown(socket.SHUT_RDWR)
        echoing.close()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def mesh(root: Cgroup, directory: Path, *, apart: bool) -> Iterator[Mesh]:
    """apart: whether the client's side is in a network namespace of its own. A daemon is there."""
    app, proxy, client, out = (Cgroup(name, root) for name in ('app', 'proxy', 'client', 'out'))
    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(entered(app, proxy))
        stack.enter_context(named(inner))
        pool = inner.host if apart else inner.pool
        outer = Place(pool, client, out)
        ports = [f'{port}={INBOUND}' for port in (HTTP, PORT, LETTERS)]
        options = {'inbound': strings(ports), 'outbound': short(0)}
        harness.call('Intercept', 'ssa{sv}', app.path, proxy.path, options)
        harness.call('Intercept', 'ssa{sv}', client.path, out.path, {})
        made = Mesh(inner, outer, directory)
        for envoy in made.envoys:
            stack.callback(envoy.stop)
        if apart:
            outer.command('nft', '-f', '-', text=_RULES)
        yield made


@pytest.mark.parametrize('namespaces', [1, 2])
def test_through_both(namespaces: int, tmp_path: Path) -> None:
    with (
        PrivateBus(),
        Cgroup(f'sockaccel-mesh-{os.getpid()}') as root,
        FdStore() as store,
        Daemon(root.path, state=tmp_path, store=store) as daemon,
    ):
        daemon.ready()
        with mesh(root, tmp_path, apart=namespaces == 2) as made, serving(made.inner):
            where = made.outer
            assert fetch(where, OTHER) == ('envoy', hashlib.sha256(BODY).hexdigest())
            assert echoed(where, len(BODY), OTHER) == BODY
            led, led_in = counters(where.app), counters(made.inner.app)
            assert (led['led'], led_in['led_in']) == (2, 2)
            assert led_in['origin_given'] >= 2
            assert led_in['bypassed_in'] == led_in['proxy_down_in'] == led['bypassed'] == 0


def test_nothing_passes_while_everything_restarts(tmp_path: Path) -> None:
    """Both proxies, and the daemon: killed, restarted, replaced by one with other code."""
    upgrade = tmp_path / 'upgrade'
    harness.copy_code(upgrade)
    for name in ('lead.c', 'inbound.c'):
        with (upgrade / 'bpf' / name).open('a') as source:
            source.write('\n/* Another version. */\n')
    with PrivateBus(), Cgroup(f'sockaccel-mesh-{os.getpid()}') as root, FdStore() as store:
        daemon = Daemon(root.path, state=tmp_path, store=store).ready()
        with (
            mesh(root, tmp_path, apart=True) as made,
            letters(made.inner),
            contextlib.ExitStack() as stack,
        ):
            client = made.outer
            traffic = stack.enter_context(
                Traffic(client, OTHER, LETTERS, of=client.app, uid=CLIENT_UID)
            )  # fmt: skip
            for directory in (harness.ROOT, upgrade, harness.ROOT):
                daemon.stop(signal.SIGKILL)
                daemon.close()
                traffic.goes_on('P', 1000)
                daemon = Daemon(root.path, state=tmp_path, store=store, directory=directory).ready()
                traffic.goes_on('P', 1000)
                for envoy in made.envoys:
                    envoy.stop()
                    # R where the own proxy is down, X where the other one is.
                    traffic.goes_on('R' if envoy is made.envoys[1] else 'X', 20)
                    envoy.start()
                    traffic.goes_on('P', 700)
            assert traffic.told['P'] >= 10_000
            assert traffic.told.keys() == {'P', 'R', 'X'}, traffic.told
            told: Any = client.output('nft', '-j', 'list', 'table', 'inet', 'past')
            assert '"packets": 0' in told
            # The counter counts: what is released goes out by itself.
            harness.call('Release', 's', client.app.path)
            traffic.goes_on('P', 20)
            assert '"packets": 0' not in client.output('nft', '-j', 'list', 'table', 'inet', 'past')
            harness.call('Release', 's', made.inner.app.path)
            traffic.goes_on('D', 20)
        daemon.stop()
        daemon.close()
