# SPDX-License-Identifier: GPL-2.0-or-later
"""Envoy, to which sockaccel leads an application: with the configuration of docs/sidecar.md."""

import contextlib
import hashlib
import http.client
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.web import BODY, Handler
from tests.support import harness
from tests.support.envoy import Envoy
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.led import ADDRESS, ADDRESS6, PORT, Place, place

HTTP = 8080


class Server(http.server.ThreadingHTTPServer):
    """Serves what a listener of somebody else accepts."""

    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def echo(listener: socket.socket) -> None:
    """One connection after the other, until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            accepted, _address = listener.accept()
            with accepted, contextlib.suppress(OSError):
                while data := accepted.recv(65536):
                    accepted.sendall(data)


@pytest.fixture
def led(tmp_path: Path) -> Iterator[tuple[Place, Cgroup]]:
    """A target that is led, and the cgroup of a server that is neither target nor proxy."""
    with (
        PrivateBus(),
        Cgroup(f'sockaccel-envoy-{os.getpid()}') as root,
        FdStore() as store,
        Daemon(root.path, state=tmp_path, store=store) as daemon,
    ):
        daemon.ready()
        app, proxy, server = (Cgroup(name, root) for name in ('app', 'proxy', 'server'))
        with place(app, proxy) as made:
            harness.call('Intercept', 'ssa{sv}', app.path, proxy.path, {})
            yield made, server


def counters() -> dict[str, int]:
    (row,) = harness.call('ListInterceptions')
    return dict(row['counters'])


def fetch(where: Place, address: str) -> tuple[str | None, str]:
    """Who answered, and the digest of what came."""
    connection = http.client.HTTPConnection(address, HTTP)
    connection.sock = where.make(socket.AF_INET6 if ':' in address else socket.AF_INET)
    connection.sock.connect((address, HTTP))
    with contextlib.closing(connection):
        connection.request('GET', '/')
        answer = connection.getresponse()
        return answer.getheader('server'), hashlib.sha256(answer.read()).hexdigest()


def echoed(where: Place, count: int, address: str = ADDRESS) -> bytes:
    """What comes back of so many bytes."""
    with where.make() as client:
        client.connect((address, PORT))

        def write() -> None:
            client.sendall(BODY[:count])
            client.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        got = bytearray()
        while data := client.recv(65536):
            got += data
        writer.join()
        return bytes(got)


def test_http_and_tcp_through_envoy(led: tuple[Place, Cgroup], tmp_path: Path) -> None:
    where, server = led
    envoy = Envoy(where, tmp_path)
    web = [Server(where.listener(address, HTTP, of=server)) for address in (ADDRESS, ADDRESS6)]
    echoing = where.listener(ADDRESS, PORT, of=server)
    echoing.settimeout(None)
    threads = [threading.Thread(target=each.serve_forever) for each in web]
    threads.append(threading.Thread(target=echo, args=(echoing,)))
    for thread in threads:
        thread.start()
    try:
        wanted = ('envoy', hashlib.sha256(BODY).hexdigest())
        assert fetch(where, ADDRESS) == fetch(where, ADDRESS6) == wanted
        assert echoed(where, len(BODY)) == BODY
        seen = counters()
        assert seen['led'] == 3
        assert seen['origin_given'] >= 3
        # It goes and comes back: refused meanwhile, and nothing passes it by.
        envoy.stop()
        with pytest.raises(ConnectionRefusedError):
            fetch(where, ADDRESS)
        envoy.start()
        assert fetch(where, ADDRESS) == wanted
        now = counters()
        assert (now['led'], now['proxy_down']) == (4, 1)
        assert now['bypassed'] == now['excepted'] == now['own_listener'] == 0
    finally:
        for each in web:
            each.shutdown()
            each.server_close()
        echoing.shutdown(socket.SHUT_RDWR)
        echoing.close()
        for thread in threads:
            thread.join()
        envoy.stop()
