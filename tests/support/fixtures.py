# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures with a real daemon on a real kernel, confined to a cgroup of the test run."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.bench import SLOWER
from tests.conformance.syscalls import TCP_ULP
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.network import Hosts, TwoHosts


@pytest.fixture(scope='session')
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


@pytest.fixture(scope='session')
def root_cgroup() -> Iterator[Cgroup]:
    """What the daemon of the test run is confined to."""
    with Cgroup(f'sockaccel-test-{os.getpid()}') as cgroup:
        yield cgroup


def join_delay_ms() -> int:
    """None, but where the kernel has kTLS, which programs must be able to set up before a connection joins."""
    with traffic.listen() as listener, socket.create_connection(listener.getsockname()) as client:
        try:
            client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b'tls')
        except FileNotFoundError:
            return 0
    return int(100 * min(SLOWER, 3))


@pytest.fixture(scope='session')
def daemon(bus: PrivateBus, root_cgroup: Cgroup) -> Iterator[Daemon]:
    # All programs here have one executable, and each behaviour is looked at by itself.
    settings = f'EventsPerSecond=100000\nJoinDelayMs={join_delay_ms()}\nRememberPrograms=no\n'
    with Daemon(root_cgroup.path, settings) as daemon:
        yield daemon.ready()
    assert 'Traceback' not in daemon_log(daemon)


def daemon_log(daemon: Daemon) -> str:
    return daemon.log.read_text() if daemon.log.exists() else ''


@pytest.fixture(scope='session')
def target(daemon: Daemon, root_cgroup: Cgroup) -> Cgroup:
    """A cgroup whose connections are accelerated."""
    cgroup = Cgroup('target', root_cgroup)
    harness.enable(cgroup.path, *harness.every_issue())
    return cgroup


@pytest.fixture(scope='session')
def bystander(target: Cgroup, root_cgroup: Cgroup) -> Cgroup:
    """A cgroup outside every target, but seen by the daemon's program, which is attached for the target."""
    return Cgroup('bystander', root_cgroup)


@pytest.fixture(scope='session')
def accelerated_cgroup(target: Cgroup) -> Path:
    return target.directory


@pytest.fixture(scope='session')
def accelerated_containers(target: Cgroup, root_cgroup: Cgroup) -> Path:
    """A cgroup whose connections are accelerated, whatever network namespaces their ends are in."""
    cgroup = Cgroup('containers', root_cgroup)
    harness.enable(cgroup.path, *harness.every_issue(), OtherNamespaces='yes')
    return cgroup.directory


@pytest.fixture(scope='session')
def sockaccel_stats(daemon: Daemon) -> Callable[[], dict[str, int]]:
    return lambda: dict(harness.call('Stats'))


@pytest.fixture(scope='session')
def acceleration_switch(target: Cgroup, root_cgroup: Cgroup) -> Callable[[], None]:
    """Switches the target off and on again; a second one keeps the daemon attached meanwhile."""
    harness.enable(Cgroup('anchor', root_cgroup).path, *harness.every_issue())

    def switch() -> None:
        harness.call('Disable', 's', target.path)
        harness.enable(target.path, *harness.every_issue())

    return switch


@pytest.fixture
def own_daemon() -> Iterator[Cgroup]:
    """The root cgroup of a daemon that a test has for itself, with a bus of its own."""
    with (
        Cgroup(f'sockaccel-own-{os.getpid()}') as root,
        PrivateBus(),
        Daemon(root.path, 'JoinDelayMs=0\n') as daemon,
    ):
        daemon.ready()
        yield root


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with TwoHosts() as both:
        yield both
