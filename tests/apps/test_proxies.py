# SPDX-License-Identifier: GPL-2.0-or-later
"""An upload through proxies that read by splice(), which does not find redirected bytes.

On a kernel that lets sockaccel see who splices, all of them lose nothing by themselves. Elsewhere the shipped list
of programs keeps those that are known out, by the names of their processes; for others an administrator has to
accept the issue `splice` first, or to list them. Without the list they lose bytes, which is tried too: otherwise
nothing here would show that it is needed.
"""

import contextlib
import hashlib
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.ctl.client import Refused
from tests.apps import goproxy
from tests.apps.place import ACCELERATED, Place, Results, free_port, opened
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.patience import PATIENCE_S, SLOWER

GO, SOCKET_PROXYD = goproxy.NAME, 'systemd-socket-proxyd'
PROXIES = ('docker-proxy', 'haproxy', SOCKET_PROXYD, GO)
SHIPPED = Path(__file__).parents[2] / 'packaging' / 'programs.conf'
CONNECTIONS = 10
# What is sent, with a pause before each part, in seconds: long enough that a connection could join.
PARTS = [(0.0, 1000), (0.5, 1000), *[(0.02, 1000)] * 9]
# Not by how much an emulated machine is slower at its worst.
STRETCH = min(SLOWER, 3)
_HAPROXY = """\
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 120s
    timeout client 120s
    timeout server 120s
listen proxy
    bind 127.0.0.1:{port}
    server backend 127.0.0.1:{backend}
"""


@pytest.fixture(scope='session')
def go_proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proxy in Go. An emulated machine would take minutes to compile it, and gets it made."""
    made = os.environ.get('SOCKACCEL_GO_PROXY')
    return Path(made) if made else goproxy.build(tmp_path_factory.mktemp('go'))


def receive(end: socket.socket, patience: float) -> bytes:
    """What is there next, b'' at the end. Raises TimeoutError."""
    if not select.select([end], [], [], patience)[0]:
        raise TimeoutError(f'nothing came within {patience} s')
    return end.recv(65536)


class Server:
    """Takes connections one after the other and reads each to its end. digests: of what came by each."""

    def __init__(self, cgroup: Cgroup) -> None:
        with cgroup.inside():
            self._listener = traffic.listen()
        self.port = int(self._listener.getsockname()[1])
        self.digests: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _address = self._listener.accept()
                with end:
                    end.setblocking(False)
                    self.digests.put(self._read(end))

    def _read(self, end: socket.socket) -> str:
        digest = hashlib.sha256()
        try:
            while data := receive(end, PATIENCE_S):
                digest.update(data)
        except ConnectionError:
            # By the client, which has less patience.
            return 'broken'
        return digest.hexdigest()


def upload(cgroup: Cgroup, port: int, server: Server, patience: float) -> str:
    """Send the parts and shut down; returns the digest of what the server got, '' if it still waits for more."""
    with cgroup.inside():
        end = socket.create_connection(('127.0.0.1', port))
    with end:
        end.setblocking(False)
        # A proxy that was hurt may hang up; what the server got tells.
        with contextlib.suppress(ConnectionError):
            for number, (pause, size) in enumerate(PARTS):
                time.sleep(pause * STRETCH)
                traffic.write(end, bytes([number]) * size)
            end.shutdown(socket.SHUT_WR)
        with contextlib.suppress(queue.Empty):
            return server.digests.get(timeout=patience)
        # So that the server takes the next one.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    server.digests.get(timeout=PATIENCE_S)
    return ''


def right() -> str:
    content = b''.join(bytes([number]) * size for number, (_pause, size) in enumerate(PARTS))
    return hashlib.sha256(content).hexdigest()


def start(place: Place, proxy: str, backend: int, go_proxy: Path) -> int:
    """Start a proxy before the port `backend`; returns its own port."""
    port = free_port(lambda port: port != backend)
    if proxy == 'docker-proxy':
        # It says on fd 3 that it is ready.
        options = (
            f'-proto tcp -host-ip 127.0.0.1 -host-port {port} -container-ip 127.0.0.1 -container-port {backend}'
        )
        place.serve(port, 'sh', '-c', f'exec docker-proxy {options} 3>/dev/null')
    elif proxy == 'haproxy':
        configuration = place.directory() / 'haproxy.cfg'
        configuration.write_text(_HAPROXY.format(port=port, backend=backend))
        place.serve(port, 'haproxy', '-db', '-f', configuration)
    elif proxy == SOCKET_PROXYD:
        command = ('/lib/systemd/systemd-socket-proxyd', f'127.0.0.1:{backend}')
        place.serve(port, 'systemd-socket-activate', '-l', f'127.0.0.1:{port}', *command)
    else:
        place.serve(port, go_proxy, f'127.0.0.1:{port}', f'127.0.0.1:{backend}')
    return port


def uploads(place: Place, proxy: str, go_proxy: Path, patience: float = PATIENCE_S) -> list[str]:
    """What came of each of the uploads. patience: seconds after which one hangs."""
    server = Server(place.cgroup)
    with contextlib.closing(server):
        port = start(place, proxy, server.port, go_proxy)
        return [upload(place.cgroup, port, server, patience) for _number in range(CONNECTIONS)]


@contextlib.contextmanager
def listed(programs: str, results: Results) -> Iterator[Place]:
    """A place of a daemon with this list of programs."""
    with (
        Cgroup(f'sockaccel-own-{os.getpid()}') as root,
        PrivateBus(),
        Daemon(root.path, 'JoinDelayMs=0\nEventsPerSecond=0\n') as daemon,
        Cgroup('target', root) as target,
    ):
        daemon.ready()
        daemon.list_programs(programs)
        harness.enable(target.path, *harness.every_issue())
        with opened(ACCELERATED, target, results) as made:
            yield made


def is_blind() -> bool:
    """Whether this kernel does not let sockaccel see who splices."""
    return 'splice' in harness.every_issue()


def note(place: Place, what: str, found: list[str]) -> None:
    """All must be whole; and where the list is needed, nothing is redirected."""
    assert found == [right()] * CONNECTIONS, place.explain()
    outcome = f'{CONNECTIONS} of {CONNECTIONS} whole'
    if place.way == ACCELERATED and not is_blind():
        # How soon a proxy is seen to splice, and what was redirected by then, differs.
        place.note(what, outcome)
    else:
        place.same(what, outcome, found, redirected=False)


@pytest.mark.parametrize('proxy', [proxy for proxy in PROXIES if proxy != GO])
def test_a_proxy_of_the_list(somewhere: Place, proxy: str, go_proxy: Path) -> None:
    note(somewhere, f'upload by {proxy}', uploads(somewhere, proxy, go_proxy))


def test_a_proxy_that_nobody_knows(results: Results, go_proxy: Path) -> None:
    """Listed, it loses nothing; before that, Enable refuses on a kernel where it would."""
    with listed(f'{SHIPPED.read_text()}\nSplices={GO}\n', results) as place:
        if is_blind():
            with Cgroup('other', place.cgroup) as other, pytest.raises(Refused, match='--accept'):
                harness.enable(other.path)
        note(place, f'upload by {GO}, listed', uploads(place, GO, go_proxy))


@pytest.mark.parametrize('proxy', PROXIES)
def test_a_proxy_that_is_seen_to_splice(target: Cgroup, results: Results, proxy: str, go_proxy: Path) -> None:
    """Whatever the list says: it is not needed then."""
    if is_blind():
        pytest.skip('this kernel takes no watchers')
    with opened(ACCELERATED, target, results) as place:
        found = uploads(place, proxy, go_proxy)
        counted = place.explain()
        place.note(f'upload by {proxy}, seen', f'{found.count(right())} of {CONNECTIONS} whole')
        assert found == [right()] * CONNECTIONS, counted
        assert place.counted()['connection_reason_splice_end'], counted


@pytest.mark.parametrize('proxy', PROXIES)
def test_without_the_list_it_would_be_hurt(results: Results, proxy: str, go_proxy: Path) -> None:
    """Where sockaccel sees who splices it is not hurt, and the list is not needed."""
    with listed('[Programs]\n', results) as place:
        blind = is_blind()
        # Where one hangs it hangs for good; an emulated machine may be slow.
        found = uploads(place, proxy, go_proxy, 5 if blind else PATIENCE_S)
        whole = found.count(right())
        place.note(f'upload by {proxy}, not listed', f'{whole} of {CONNECTIONS} whole')
        if blind:
            assert whole < CONNECTIONS, place.explain()
        else:
            assert whole == CONNECTIONS, place.explain()
